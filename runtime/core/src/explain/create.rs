//! The steps of `create` and `run`.

use super::{By, Key, List, Step};
use crate::plan::{Mount, Plan, Source, namespaces};
use rrun_sys::ns;
use std::path::Path;

/// What will be done for `plan` below the state directory `root`. With `fifo` the
/// start comes later (`create`).
pub fn steps(plan: &Plan, root: &Path, fifo: bool) -> Vec<Step> {
    let mut list = List::default();
    before(plan, root, &mut list);
    resources(plan, &mut list);
    entering(plan, &mut list);
    files(plan, &mut list);
    process(plan, &mut list);
    ending(plan, root, fifo, &mut list);
    list.0
}

fn before(plan: &Plan, root: &Path, list: &mut List) {
    use By::Runtime;
    list.add(
        (Key::Directory, Runtime),
        (
            "reserve the id",
            "two containers cannot have one id; state.json will be here",
            "mkdir",
        ),
        [root.join(&plan.id).display().to_string()],
    );
    let seccomp = plan
        .spec
        .linux()
        .as_ref()
        .and_then(|l| l.seccomp().as_ref());
    if let Some(profile) = seccomp {
        let count: usize = profile
            .syscalls()
            .iter()
            .flatten()
            .map(|s| s.names().len())
            .sum();
        list.add(
            (Key::Seccomp, Runtime),
            (
                "compile the seccomp profile, or take it from the cache",
                "a filter that the kernel runs at each system call of the container",
                "open, read",
            ),
            [format!(
                "{count} system calls named, default {}",
                profile.default_action()
            )],
        );
    }
    if plan.namespaces.user() {
        list.add(
            (Key::Trees, Runtime),
            (
                "open the root and the sources of bind mounts",
                "in its user namespace init has no right to the host's directories",
                "open_tree",
            ),
            [plan.rootfs.display().to_string()],
        );
    }
    list.add(
        (Key::CgroupBegin, Runtime),
        (
            "make the v2 cgroup",
            "init is born in it, and never unaccounted for",
            "mkdir",
        ),
        plan.cgroup.unified_dir().map(|d| d.display().to_string()),
    );
    let flags = plan.namespaces.new & (namespaces::USER | namespaces::PID);
    list.add(
        (Key::Clone, Runtime),
        (
            "clone init",
            "it sets itself up and becomes the program",
            "clone3",
        ),
        [format!("flags {}", or_none(&ns::names(flags)))],
    );
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn resources(plan: &Plan, list: &mut List) {
    use By::Runtime;
    if plan.namespaces.new & namespaces::USER != 0 {
        let maps = [
            ("uid_map", &plan.namespaces.uid_map),
            ("gid_map", &plan.namespaces.gid_map),
        ];
        list.add(
            (Key::IdMaps, Runtime),
            (
                "write the id maps",
                "root in the container is an ordinary user outside",
                "write",
            ),
            maps.map(|(file, map)| {
                format!("/proc/PID/{file}: {}", map.trim_end().replace('\n', ", "))
            }),
        );
    }
    let process = plan.spec.process().as_ref();
    if let Some(score) = process.and_then(oci_spec::runtime::Process::oom_score_adj) {
        list.add(
            (Key::OomScore, Runtime),
            (
                "set the OOM score",
                "whom the kernel kills first when memory ends",
                "write",
            ),
            [format!("/proc/PID/oom_score_adj: {score}")],
        );
    }
    list.add(
        (Key::CgroupMake, Runtime),
        (
            "make the v1 cgroups, or systemd's scope",
            "what the container uses is counted in them",
            "mkdir",
        ),
        plan.cgroup.legacy_dirs().map(|d| d.display().to_string()),
    );
    let devices = plan.cgroup.devices.as_ref().map(|policy| {
        let default = if policy.allow { "allowed" } else { "denied" };
        format!(
            "devices: {default}, with {} exceptions",
            policy.exceptions.len()
        )
    });
    let writes = plan
        .cgroup
        .writes
        .iter()
        .map(|w| format!("{}: {}", w.file, w.value.trim_end()));
    list.add(
        (Key::Limits, Runtime),
        (
            "set the limits",
            "the container cannot take more than its share",
            "write, bpf",
        ),
        writes.chain(devices),
    );
    if let Some(rdt) = &plan.rdt {
        list.add(
            (Key::Rdt, Runtime),
            (
                "make the Intel RDT class",
                "its share of cache and memory bandwidth",
                "mkdir, write",
            ),
            [format!("{rdt:?}")],
        );
    }
}

fn entering(plan: &Plan, list: &mut List) {
    use By::Init;
    let namespaces = &plan.namespaces;
    if !namespaces.join.is_empty() {
        list.add(
            (Key::Join, Init),
            (
                "join namespaces",
                "shared with other containers or the host",
                "setns",
            ),
            namespaces
                .join
                .iter()
                .map(|(_, path)| path.display().to_string()),
        );
    }
    let later = namespaces::USER | namespaces::PID | namespaces::CGROUP;
    let now = namespaces.new & !later;
    if now != 0 {
        list.add(
            (Key::Unshare, Init),
            (
                "make namespaces",
                "names, mounts, networks and the like of its own",
                "unshare",
            ),
            [ns::names(now)],
        );
    }
    if now & namespaces::NET != 0 {
        list.add(
            (Key::Loopback, Init),
            ("set the loopback interface up", "127.0.0.1 works", "ioctl"),
            ["lo".to_owned()],
        );
    }
    list.add(
        (Key::EnterCgroup, Init),
        (
            "enter the v1 cgroups",
            "from here on what it uses is counted and limited",
            "write",
        ),
        plan.cgroup
            .legacy_dirs()
            .map(|d| d.join("tasks").display().to_string()),
    );
    if namespaces.new & namespaces::CGROUP != 0 {
        list.add(
            (Key::CgroupNamespace, Init),
            (
                "make the cgroup namespace",
                "its cgroup looks like the root of all",
                "unshare",
            ),
            ["CLONE_NEWCGROUP".to_owned()],
        );
    }
    let names: Vec<String> = [plan.spec.hostname(), plan.spec.domainname()]
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    if !names.is_empty() {
        list.add(
            (Key::Names, Init),
            (
                "set host and domain name",
                "its name for itself",
                "sethostname, setdomainname",
            ),
            names,
        );
    }
    if !plan.net_devices.is_empty() {
        let devices = plan.net_devices.iter();
        list.add(
            (Key::NetDevices, By::Runtime),
            (
                "move network devices into it",
                "interfaces of the host that are its alone",
                "sendmsg (rtnetlink)",
            ),
            devices.map(|d| format!("{} as {}", d.host, d.name)),
        );
    }
}

fn files(plan: &Plan, list: &mut List) {
    use By::Init;
    list.add(
        (Key::Root, Init),
        (
            "attach the root file system",
            "what will be / in the container",
            "mount_setattr, open_tree, move_mount",
        ),
        [match &plan.root_mount {
            Some(mount) => format!("{} on {}", source(mount), plan.rootfs.display()),
            None => plan.rootfs.display().to_string(),
        }],
    );
    for mount in &plan.mounts {
        let (why, call) = mount_reason(mount);
        let what = format!("mount {} on {}", source(mount), mount.destination.display());
        list.add(
            (Key::Mount(mount.index), Init),
            (what, why, call),
            options(mount),
        );
    }
    if plan.setup_dev {
        list.add(
            (Key::Devices, Init),
            (
                "make device nodes and links in /dev",
                "null, zero, tty and the like; no disk",
                "mknodat, symlinkat",
            ),
            plan.devices
                .iter()
                .map(|d| format!("{} {}:{}", d.path.display(), d.number.0, d.number.1)),
        );
    }
    hooks(plan, list);
    list.add(
        (Key::Pivot, Init),
        (
            "make the root the only one",
            "from here on nothing of the host can be named",
            "pivot_root, umount2",
        ),
        [plan.rootfs.display().to_string()],
    );
    if !plan.sysctls.is_empty() {
        list.add(
            (Key::Sysctls, Init),
            (
                "set kernel parameters of its namespaces",
                "by a procfs that nothing in the image can stand in for",
                "openat2, write",
            ),
            plan.sysctls
                .iter()
                .map(|(name, value)| format!("{}: {value}", name.display())),
        );
    }
    let linux = plan.spec.linux().as_ref();
    let read_only = linux
        .and_then(|l| l.readonly_paths().as_ref())
        .into_iter()
        .flatten();
    let masked = linux
        .and_then(|l| l.masked_paths().as_ref())
        .into_iter()
        .flatten();
    let paths: Vec<String> = read_only
        .map(|p| format!("read-only {p}"))
        .chain(masked.map(|p| format!("hidden {p}")))
        .collect();
    if !paths.is_empty() {
        list.add(
            (Key::Masks, Init),
            (
                "hide and protect parts of /proc and /sys",
                "they would change or tell of the host",
                "open_tree, move_mount",
            ),
            paths,
        );
    }
    if plan.readonly_root() {
        list.add(
            (Key::Seal, Init),
            (
                "make the root read-only",
                "the image stays as it is",
                "mount_setattr",
            ),
            ["/".to_owned()],
        );
    }
}

fn source(mount: &Mount) -> String {
    match &mount.source {
        Source::Bind { path, .. } => path.display().to_string(),
        Source::Cgroup { .. } => "cgroup".to_owned(),
        Source::Filesystem { kind, .. } => kind.clone(),
        Source::Remount { .. } => "again what is".to_owned(),
    }
}

fn mount_reason(mount: &Mount) -> (&'static str, &'static str) {
    match &mount.source {
        Source::Bind { .. } => (
            "files of the host, shown in the container",
            "open_tree, mount_setattr, move_mount",
        ),
        Source::Cgroup { .. } => ("its own cgroup, to be read", "fsopen, fsmount, move_mount"),
        Source::Remount { .. } => ("other options for what is mounted there", "mount_setattr"),
        Source::Filesystem { kind, .. } => {
            let why = match kind.as_str() {
                "proc" => "processes of its own pid namespace",
                "sysfs" => "what the kernel tells of devices and its network namespace",
                "devpts" => "terminals of its own",
                "mqueue" => "message queues of its own",
                "tmpfs" => "memory that is gone with the container",
                _ => "a file system of its own",
            };
            (why, "fsopen, fsconfig, fsmount, move_mount")
        }
    }
}

fn options(mount: &Mount) -> Vec<String> {
    let Source::Filesystem { data, .. } = &mount.source else {
        return Vec::new();
    };
    let one = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    data.iter().map(one).collect()
}

fn hooks(plan: &Plan, list: &mut List) {
    let Some(all) = plan.spec.hooks() else { return };
    let paths = |hooks: &Option<Vec<oci_spec::runtime::Hook>>| -> Vec<String> {
        hooks
            .iter()
            .flatten()
            .map(|h| h.path().display().to_string())
            .collect()
    };
    #[allow(
        deprecated,
        reason = "the field is deprecated in the specification, but in use"
    )]
    let runtime = [paths(all.prestart()), paths(all.create_runtime())].concat();
    if !runtime.is_empty() {
        list.add(
            (Key::RuntimeHooks, By::Runtime),
            (
                "run prestart and createRuntime hooks",
                "programs of the caller, such as network set-up",
                "execve",
            ),
            runtime,
        );
    }
    let container = paths(all.create_container());
    if !container.is_empty() {
        list.add(
            (Key::ContainerHooks, By::Init),
            (
                "run createContainer hooks",
                "programs of the caller, in the container's namespaces",
                "execve",
            ),
            container,
        );
    }
}

fn process(plan: &Plan, list: &mut List) {
    use By::Init;
    list.add(
        (Key::Prepare, Init),
        (
            "session keyring, labels, scheduling",
            "what it may not inherit from the caller; nothing open gets past execve",
            "keyctl, write, sched_setattr, close_range",
        ),
        [],
    );
    if let Some(process) = plan.spec.process() {
        list.add(
            (Key::Identity, Init),
            (
                "limits, user, groups, capabilities, seccomp",
                "the last rights go, in an order in which each step still has those it needs",
                "prlimit64, setgroups, setresuid, capset, prctl, seccomp",
            ),
            super::exec::identity(process),
        );
    }
}

fn ending(plan: &Plan, root: &Path, fifo: bool, list: &mut List) {
    let dir = root.join(&plan.id);
    list.add(
        (Key::Record, By::Runtime),
        (
            "write the record",
            "what the other commands know of the container",
            "write, rename",
        ),
        ["config.json", "state.json"].map(|f| dir.join(f).display().to_string()),
    );
    if fifo {
        list.add(
            (Key::Exec, By::Init),
            ("wait for `start`", "create only prepares", "open"),
            [dir.join("exec.fifo").display().to_string()],
        );
        return;
    }
    let args = plan.spec.process().as_ref().and_then(|p| p.args().clone());
    list.add(
        (Key::Exec, By::Init),
        (
            "execute the program",
            "init is now the user's program",
            "execve",
        ),
        [args.unwrap_or_default().join(" ")],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Manager;
    use crate::plan::Options;

    fn plan(json: &str) -> Plan {
        let spec = serde_json::from_str(json).unwrap();
        let options = Options {
            manager: Manager::Disabled,
            ..Options::default()
        };
        Plan::new("c1", Path::new("/b"), spec, options, false).unwrap()
    }

    #[test]
    fn every_planned_thing_has_its_step() {
        let plan = plan(
            r#"{"ociVersion":"1.3.0","root":{"path":"r","readonly":true},"hostname":"h",
            "process":{"args":["sh","-c","x"],"cwd":"/","user":{"uid":5,"gid":6}},
            "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                      {"destination":"/data","source":"/srv","options":["rbind"]}],
            "linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"network"}],
                     "maskedPaths":["/proc/kcore"],"netDevices":{"eth9":{}}}}"#,
        );
        let steps = super::steps(&plan, Path::new("/run/x"), false);
        let text = super::super::text("c1", &steps);
        for part in [
            "mkdir\n       on    /run/x/c1",
            "flags CLONE_NEWPID",
            "mount proc on /proc",
            "mount /srv on /data",
            "hidden /proc/kcore",
            "make the root read-only",
            "eth9 as eth9",
            "user 5, group 6",
            "on    sh -c x",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(
            steps
                .iter()
                .zip(1..)
                .all(|(step, number)| step.number == number)
        );
        let create = super::steps(&plan, Path::new("/run/x"), true);
        assert_eq!(create.last().unwrap().what, "wait for `start`");
    }
}
