//! What is said of each step whatever the container: in a few words, what for, by which system calls.

use super::{By, Key, Kind};
use crate::plan::Source;

const fn runtime(key: Key, what: &'static str, why: &'static str, call: &'static str) -> Kind {
    Kind {
        key,
        by: By::Runtime,
        what,
        why,
        call,
    }
}

const fn init(key: Key, what: &'static str, why: &'static str, call: &'static str) -> Kind {
    Kind {
        by: By::Init,
        ..runtime(key, what, why, call)
    }
}

pub(super) const RESERVE: Kind = runtime(
    Key::Directory,
    "reserve the id",
    "two containers cannot have one id; state.json will be here",
    "mkdir",
);

pub(super) const COMPILE: Kind = runtime(
    Key::Seccomp,
    "compile the seccomp profile, or take it from the cache",
    "a filter that the kernel runs at each system call of the container",
    "open, read",
);

pub(super) const OPEN_TREES: Kind = runtime(
    Key::Trees,
    "open the root and the sources of bind mounts",
    "in its user namespace init has no right to the host's directories",
    "open_tree",
);

pub(super) const UNIFIED_CGROUP: Kind = runtime(
    Key::CgroupBegin,
    "make the v2 cgroup",
    "init is born in it, and never unaccounted for",
    "mkdir",
);

pub(super) const CLONE: Kind = runtime(
    Key::Clone,
    "clone init",
    "it sets itself up and becomes the program",
    "clone3",
);

pub(super) const ID_MAPS: Kind = runtime(
    Key::IdMaps,
    "write the id maps",
    "root in the container is an ordinary user outside",
    "write",
);

pub(super) const OOM_SCORE: Kind = runtime(
    Key::OomScore,
    "set the OOM score",
    "whom the kernel kills first when memory ends",
    "write",
);

pub(super) const LEGACY_CGROUPS: Kind = runtime(
    Key::CgroupMake,
    "make the v1 cgroups, or systemd's scope",
    "what the container uses is counted in them",
    "mkdir",
);

pub(super) const LIMITS: Kind = runtime(
    Key::Limits,
    "set the limits",
    "the container cannot take more than its share",
    "write, bpf",
);

pub(super) const RDT: Kind = runtime(
    Key::Rdt,
    "make the Intel RDT class",
    "its share of cache and memory bandwidth",
    "mkdir, write",
);

pub(super) const JOIN: Kind = init(
    Key::Join,
    "join namespaces",
    "shared with other containers or the host",
    "setns",
);

pub(super) const UNSHARE: Kind = init(
    Key::Unshare,
    "make namespaces",
    "names, mounts, networks and the like of its own",
    "unshare",
);

pub(super) const LOOPBACK: Kind = init(
    Key::Loopback,
    "set the loopback interface up",
    "127.0.0.1 works",
    "ioctl",
);

pub(super) const ENTER_CGROUPS: Kind = init(
    Key::EnterCgroup,
    "enter the v1 cgroups",
    "from here on what it uses is counted and limited",
    "write",
);

pub(super) const CGROUP_NAMESPACE: Kind = init(
    Key::CgroupNamespace,
    "make the cgroup namespace",
    "its cgroup looks like the root of all",
    "unshare",
);

pub(super) const NAMES: Kind = init(
    Key::Names,
    "set host and domain name",
    "its name for itself",
    "sethostname, setdomainname",
);

pub(super) const NET_DEVICES: Kind = runtime(
    Key::NetDevices,
    "move network devices into it",
    "interfaces of the host that are its alone",
    "sendmsg (rtnetlink)",
);

pub(super) const ROOT: Kind = init(
    Key::Root,
    "attach the root file system",
    "what will be / in the container",
    "mount_setattr, open_tree, move_mount",
);

pub(super) const DEVICES: Kind = init(
    Key::Devices,
    "make device nodes and links in /dev",
    "null, zero, tty and the like; no disk",
    "mknodat, symlinkat",
);

pub(super) const RUNTIME_HOOKS: Kind = runtime(
    Key::RuntimeHooks,
    "run prestart and createRuntime hooks",
    "programs of the caller, such as network set-up",
    "execve",
);

pub(super) const CONTAINER_HOOKS: Kind = init(
    Key::ContainerHooks,
    "run createContainer hooks",
    "programs of the caller, in the container's namespaces",
    "execve",
);

pub(super) const PIVOT: Kind = init(
    Key::Pivot,
    "make the root the only one",
    "from here on nothing of the host can be named",
    "pivot_root, umount2",
);

pub(super) const SYSCTLS: Kind = init(
    Key::Sysctls,
    "set kernel parameters of its namespaces",
    "by a procfs that nothing in the image can stand in for",
    "openat2, write",
);

pub(super) const MASKS: Kind = init(
    Key::Masks,
    "hide and protect parts of /proc and /sys",
    "they would change or tell of the host",
    "open_tree, move_mount",
);

pub(super) const SEAL: Kind = init(
    Key::Seal,
    "make the root read-only",
    "the image stays as it is",
    "mount_setattr",
);

pub(super) const PREPARE: Kind = init(
    Key::Prepare,
    "session keyring, labels, scheduling",
    "what it may not inherit from the caller; nothing open gets past execve",
    "keyctl, write, sched_setattr, close_range",
);

pub(super) const IDENTITY: Kind = init(
    Key::Identity,
    "limits, user, groups, capabilities, seccomp",
    "the last rights go, in an order in which each step still has those it needs",
    "prlimit64, setgroups, setresuid, capset, prctl, seccomp",
);

pub(super) const RECORD: Kind = runtime(
    Key::Record,
    "write the record",
    "what the other commands know of the container",
    "write, rename",
);

pub(super) const WAIT: Kind = init(
    Key::Exec,
    "wait for `start`",
    "create only prepares",
    "open",
);

pub(super) const EXECUTE: Kind = init(
    Key::Exec,
    "execute the program",
    "init is now the user's program",
    "execve",
);

/// The mount at `index` of the configuration, from `source`.
pub(super) fn mount(index: usize, source: &Source) -> Kind {
    const ATTACH: &str = "fsopen, fsconfig, fsmount, move_mount";
    let (why, call) = match source {
        Source::Bind { .. } => (
            "files of the host, shown in the container",
            "open_tree, mount_setattr, move_mount",
        ),
        Source::Cgroup { .. } => ("its own cgroup, to be read", "fsopen, fsmount, move_mount"),
        Source::Remount { .. } => ("other options for what is mounted there", "mount_setattr"),
        Source::Filesystem { kind, .. } => (file_system(kind), ATTACH),
    };
    init(Key::Mount(index), "mount", why, call)
}

fn file_system(kind: &str) -> &'static str {
    match kind {
        "proc" => "processes of its own pid namespace",
        "sysfs" => "what the kernel tells of devices and its network namespace",
        "devpts" => "terminals of its own",
        "mqueue" => "message queues of its own",
        "tmpfs" => "memory that is gone with the container",
        _ => "a file system of its own",
    }
}

/// What is said of the steps of `exec`, where it differs.
pub(super) mod exec {
    use super::{Key, Kind, init, runtime};

    pub(in crate::explain) const COMPILE: Kind = runtime(
        Key::Seccomp,
        "take the seccomp filter from the cache",
        "the same filter as the container's",
        "open, read",
    );

    pub(in crate::explain) const CLONE: Kind = runtime(
        Key::Clone,
        "clone a process",
        "into the container's pid namespace and v2 cgroup",
        "setns, clone3",
    );

    pub(in crate::explain) const ENTER_CGROUPS: Kind = init(
        Key::EnterCgroup,
        "enter the container's cgroups",
        "it is counted and limited with the rest",
        "write",
    );

    pub(in crate::explain) const JOIN: Kind = init(
        Key::Join,
        "join the container's namespaces",
        "it sees what the container sees",
        "setns",
    );

    pub(in crate::explain) const CONSOLE: Kind = init(
        Key::Console,
        "allocate a terminal",
        "in the container's devpts; its master goes to the caller",
        "openat2, sendmsg",
    );

    pub(in crate::explain) const PREPARE: Kind = init(
        Key::Prepare,
        "labels and scheduling",
        "nothing open gets past execve",
        "write, sched_setattr, close_range",
    );

    pub(in crate::explain) const EXECUTE: Kind = init(
        Key::Exec,
        "execute the program",
        "the process is now the user's program",
        "execve",
    );
}
