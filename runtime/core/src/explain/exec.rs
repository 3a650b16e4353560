//! The steps of `exec`.

use super::words::{self, exec as say};
use super::{List, Step};
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
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.seccomp().is_some()) {
        list.add(&say::COMPILE, []);
    }
    let init = container.record.init_process_pid;
    list.add(&say::CLONE, [format!("/proc/{init}/ns/pid")]);
    list.add(&say::ENTER_CGROUPS, cgroups(container, options));
    list.add(&say::JOIN, [ns::names(namespaces.new | joined)]);
    if options.console.is_some() {
        list.add(&say::CONSOLE, ["/dev/pts/ptmx".to_owned()]);
    }
    list.add(&say::PREPARE, []);
    list.add(&words::IDENTITY, identity(process));
    let args = process.args().clone().unwrap_or_default();
    list.add(&say::EXECUTE, [args.join(" ")]);
    Ok(list.0)
}

/// The container's cgroups, and those below them that were asked for.
fn cgroups(container: &Container, options: &Options) -> impl Iterator<Item = String> {
    let cgroups = container.record.cgroup_paths.values();
    let below = options.cgroup.values();
    cgroups
        .map(|path| path.display().to_string())
        .chain(below.map(|path| format!("below it: {path}")))
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
