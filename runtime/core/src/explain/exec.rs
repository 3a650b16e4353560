//! The steps of `exec`.

use super::{By, Key, List, Step};
use crate::container::Container;
use crate::plan::Namespaces;
use crate::{Result, capabilities, exec::Options};
use oci_spec::runtime::{Process, Spec};
use rrun_sys::ns;

/// What will be done to execute `process` in `container`.
pub fn steps(
    container: &Container,
    spec: &Spec,
    process: &Process,
    options: &Options,
) -> Result<Vec<Step>> {
    let mut list = List::default();
    let namespaces = Namespaces::from_spec(spec)?;
    let joined = namespaces.join.iter().fold(0, |all, (flag, _)| all | flag);
    let init = container.record.init_process_pid;
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    if seccomp.is_some() {
        list.add(
            (Key::Seccomp, By::Runtime),
            (
                "take the seccomp filter from the cache",
                "the same filter as the container's",
                "open, read",
            ),
            [],
        );
    }
    list.add(
        (Key::Clone, By::Runtime),
        (
            "clone a process",
            "into the container's pid namespace and v2 cgroup",
            "setns, clone3",
        ),
        [format!("/proc/{init}/ns/pid")],
    );
    let cgroups = container.record.cgroup_paths.values();
    let sub = options
        .cgroup
        .values()
        .map(|path| format!("below it: {path}"));
    list.add(
        (Key::EnterCgroup, By::Init),
        (
            "enter the container's cgroups",
            "it is counted and limited with the rest",
            "write",
        ),
        cgroups.map(|path| path.display().to_string()).chain(sub),
    );
    list.add(
        (Key::Join, By::Init),
        (
            "join the container's namespaces",
            "it sees what the container sees",
            "setns",
        ),
        [ns::names(namespaces.new | joined)],
    );
    if options.console.is_some() {
        list.add(
            (Key::Console, By::Init),
            (
                "allocate a terminal",
                "in the container's devpts; its master goes to the caller",
                "openat2, sendmsg",
            ),
            ["/dev/pts/ptmx".to_owned()],
        );
    }
    list.add(
        (Key::Prepare, By::Init),
        (
            "labels and scheduling",
            "nothing open gets past execve",
            "write, sched_setattr, close_range",
        ),
        [],
    );
    list.add(
        (Key::Identity, By::Init),
        (
            "limits, user, groups, capabilities, seccomp",
            "the last rights go, in an order in which each step still has those it needs",
            "prlimit64, setgroups, setresuid, capset, prctl, seccomp",
        ),
        identity(process),
    );
    list.add(
        (Key::Exec, By::Init),
        (
            "execute the program",
            "the process is now the user's program",
            "execve",
        ),
        [process.args().clone().unwrap_or_default().join(" ")],
    );
    Ok(list.0)
}

/// Who the process will be.
pub(super) fn identity(process: &Process) -> Vec<String> {
    let user = process.user();
    let mut list = vec![format!("user {}, group {}", user.uid(), user.gid())];
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for limit in crate::rlimits::from_spec(limits).unwrap_or_default() {
        list.push(format!("{}: {} {}", limit.name(), limit.soft, limit.hard));
    }
    let sets = process
        .capabilities()
        .as_ref()
        .map(capabilities::from_spec)
        .unwrap_or_default();
    let names = capabilities::names(sets.effective);
    list.push(format!(
        "capabilities: {}",
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        }
    ));
    if process.no_new_privileges() == Some(true) {
        list.push("no new privileges".to_owned());
    }
    list
}
