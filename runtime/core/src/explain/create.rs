//! The steps of `create` and `run`.

use super::words as say;
use super::{List, Step};
use crate::plan::{Mount, Plan, Source, namespaces};
use oci_spec::runtime::{Hook, Process};
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
    hooks(plan, &mut list);
    inside(plan, &mut list);
    process(plan, &mut list);
    ending(plan, root, fifo, &mut list);
    list.0
}

/// Up to the clone.
fn before(plan: &Plan, root: &Path, list: &mut List) {
    list.add(&say::RESERVE, [shown(&root.join(&plan.id))]);
    list.add_any(&say::COMPILE, profile(plan));
    if plan.namespaces.user() {
        list.add(&say::OPEN_TREES, [shown(&plan.rootfs)]);
    }
    list.add(&say::UNIFIED_CGROUP, plan.cgroup.unified_dir().map(shown));
    let flags = plan.namespaces.new & (namespaces::USER | namespaces::PID);
    let names = Some(ns::names(flags)).filter(|names| !names.is_empty());
    let names = names.as_deref().unwrap_or("none");
    list.add(&say::CLONE, [format!("flags {names}")]);
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The seccomp profile in a few words.
fn profile(plan: &Plan) -> Option<String> {
    let profile = plan.spec.linux().as_ref()?.seccomp().as_ref()?;
    let rules = profile.syscalls().iter().flatten();
    let count: usize = rules.map(|rule| rule.names().len()).sum();
    let default = profile.default_action();
    Some(format!("{count} system calls named, default {default}"))
}

/// What the runtime makes for init while that makes its namespaces.
fn resources(plan: &Plan, list: &mut List) {
    if plan.namespaces.new & namespaces::USER != 0 {
        list.add(&say::ID_MAPS, id_maps(plan));
    }
    let process = plan.spec.process().as_ref();
    let score = process.and_then(Process::oom_score_adj);
    let score = score.map(|score| format!("/proc/PID/oom_score_adj: {score}"));
    list.add_any(&say::OOM_SCORE, score);
    let directories = plan.cgroup.legacy_dirs();
    list.add(&say::LEGACY_CGROUPS, directories.map(shown));
    list.add(&say::LIMITS, limits(plan));
    let rdt = plan.rdt.as_ref().map(|rdt| format!("{rdt:?}"));
    list.add_any(&say::RDT, rdt);
}

fn id_maps(plan: &Plan) -> [String; 2] {
    let maps = [
        ("uid_map", &plan.namespaces.uid_map),
        ("gid_map", &plan.namespaces.gid_map),
    ];
    maps.map(|(file, map)| format!("/proc/PID/{file}: {}", map.trim_end().replace('\n', ", ")))
}

/// The writes to the cgroups' files, and the rules for devices.
fn limits(plan: &Plan) -> impl Iterator<Item = String> {
    let writes = plan.cgroup.writes.iter();
    let writes = writes.map(|w| format!("{}: {}", w.file, w.value.trim_end()));
    let devices = plan.cgroup.devices.as_ref().map(|policy| {
        let default = if policy.allow { "allowed" } else { "denied" };
        let exceptions = policy.exceptions.len();
        format!("devices: {default}, with {exceptions} exceptions")
    });
    writes.chain(devices)
}

/// Namespaces and cgroups, as init makes and enters them.
fn entering(plan: &Plan, list: &mut List) {
    let namespaces = &plan.namespaces;
    let joined = namespaces.join.iter().map(|(_, path)| shown(path));
    list.add_any(&say::JOIN, joined);
    let later = namespaces::USER | namespaces::PID | namespaces::CGROUP;
    let now = namespaces.new & !later;
    if now != 0 {
        list.add(&say::UNSHARE, [ns::names(now)]);
    }
    if now & namespaces::NET != 0 {
        list.add(&say::LOOPBACK, ["lo".to_owned()]);
    }
    let tasks = plan.cgroup.legacy_dirs().map(|d| shown(&d.join("tasks")));
    list.add(&say::ENTER_CGROUPS, tasks);
    if namespaces.new & namespaces::CGROUP != 0 {
        list.add(&say::CGROUP_NAMESPACE, ["CLONE_NEWCGROUP".to_owned()]);
    }
    let names = [plan.spec.hostname(), plan.spec.domainname()];
    let names = names.into_iter().flatten().filter(|name| !name.is_empty());
    list.add_any(&say::NAMES, names.cloned());
    let devices = plan.net_devices.iter();
    let devices = devices.map(|d| format!("{} as {}", d.host, d.name));
    list.add_any(&say::NET_DEVICES, devices);
}

/// The root, its mounts and its devices.
fn files(plan: &Plan, list: &mut List) {
    let rootfs = plan.rootfs.display();
    let root = match &plan.root_mount {
        Some(mount) => format!("{} on {rootfs}", source(mount)),
        None => rootfs.to_string(),
    };
    list.add(&say::ROOT, [root]);
    for mount in &plan.mounts {
        let what = format!("mount {} on {}", source(mount), mount.destination.display());
        let kind = say::mount(mount.index, &mount.source);
        list.add_as(&kind, what, options(mount));
    }
    if plan.setup_dev {
        let nodes = plan.devices.iter();
        let nodes = nodes.map(|d| format!("{} {}:{}", d.path.display(), d.number.0, d.number.1));
        list.add(&say::DEVICES, nodes);
    }
}

fn source(mount: &Mount) -> String {
    match &mount.source {
        Source::Bind { path, .. } => shown(path),
        Source::Cgroup { .. } => "cgroup".to_owned(),
        Source::Filesystem { kind, .. } => kind.clone(),
        Source::Remount { .. } => "again what is".to_owned(),
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
    let paths = |hooks: &Option<Vec<Hook>>| -> Vec<String> {
        let hooks = hooks.iter().flatten();
        hooks.map(|hook| shown(hook.path())).collect()
    };
    #[allow(
        deprecated,
        reason = "the field is deprecated in the specification, but in use"
    )]
    let runtime = [paths(all.prestart()), paths(all.create_runtime())].concat();
    list.add_any(&say::RUNTIME_HOOKS, runtime);
    list.add_any(&say::CONTAINER_HOOKS, paths(all.create_container()));
}

/// What is done where nothing of the host can be named any more.
fn inside(plan: &Plan, list: &mut List) {
    list.add(&say::PIVOT, [shown(&plan.rootfs)]);
    let sysctls = plan.sysctls.iter();
    let sysctls = sysctls.map(|(name, value)| format!("{}: {value}", name.display()));
    list.add_any(&say::SYSCTLS, sysctls);
    list.add_any(&say::MASKS, masks(plan));
    if plan.readonly_root() {
        list.add(&say::SEAL, ["/".to_owned()]);
    }
}

/// Paths that are made read-only or hidden.
fn masks(plan: &Plan) -> impl Iterator<Item = String> {
    let linux = plan.spec.linux().as_ref();
    let read_only = linux.and_then(|l| l.readonly_paths().as_ref());
    let masked = linux.and_then(|l| l.masked_paths().as_ref());
    let read_only = read_only.into_iter().flatten();
    let masked = masked.into_iter().flatten();
    read_only
        .map(|p| format!("read-only {p}"))
        .chain(masked.map(|p| format!("hidden {p}")))
}

fn process(plan: &Plan, list: &mut List) {
    list.add(&say::PREPARE, []);
    if let Some(process) = plan.spec.process() {
        list.add(&say::IDENTITY, super::exec::identity(process));
    }
}

fn ending(plan: &Plan, root: &Path, fifo: bool, list: &mut List) {
    let dir = root.join(&plan.id);
    let files = ["config.json", "state.json"];
    list.add(&say::RECORD, files.map(|file| shown(&dir.join(file))));
    if fifo {
        list.add(&say::WAIT, [shown(&dir.join("exec.fifo"))]);
        return;
    }
    let args = plan.spec.process().as_ref().and_then(|p| p.args().clone());
    list.add(&say::EXECUTE, [args.unwrap_or_default().join(" ")]);
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
