//! Cloning the init process into namespaces that only a clone can enter or make:
//! pid, time, and whatever must be joined before a new user namespace.

use crate::cgroup::Cgroup;
use crate::init::{self, Inherited};
use crate::plan::{Plan, namespaces};
use crate::sync::{self, Message};
use crate::{Context, Error, Result};
use rrun_sys::process::{self, Clone};
use rrun_sys::{cred, ns, path};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Namespaces that the parent is in only while it clones, by its own descriptors
/// of where it returns to.
#[derive(Default)]
struct Visit {
    own: Vec<(i32, OwnedFd)>,
}

impl Visit {
    fn remember(&mut self, flag: i32) -> Result<()> {
        let file = namespaces::file(flag);
        let own = path::open(Path::new(&format!("/proc/self/ns/{file}")), path::O_RDONLY)?;
        self.own.push((flag, own));
        Ok(())
    }

    fn join(&mut self, flag: i32, fd: &OwnedFd) -> Result<()> {
        self.remember(flag)?;
        ns::setns(fd.as_fd(), flag).with_context(|| format!("join {}", ns::names(flag)))
    }

    /// A new time namespace for children; its offsets must be written before one is in it.
    fn make_time(&mut self, offsets: &str) -> Result<()> {
        self.remember(namespaces::TIME)?;
        ns::unshare(namespaces::TIME)?;
        init::write_time_offsets(offsets)
    }

    fn leave(self) -> Result<()> {
        for (flag, own) in self.own {
            ns::setns(own.as_fd(), flag)
                .with_context(|| format!("return from {}", ns::names(flag)))?;
        }
        Ok(())
    }
}

/// Clones init: its process id and a descriptor of it.
pub fn clone_init(
    plan: &Plan,
    cgroup: &Cgroup,
    mut inherited: Inherited,
) -> Result<(i32, OwnedFd)> {
    let namespaces = &plan.namespaces;
    let mut visit = Visit::default();
    // A new user namespace has no right to join what is not its own.
    let all = namespaces.new & namespaces::USER != 0;
    let (now, later): (Vec<_>, Vec<_>) = inherited
        .join
        .into_iter()
        .partition(|(flag, _)| *flag == namespaces::PID || all && *flag != namespaces::MOUNT);
    inherited.join = later;
    for (flag, fd) in &now {
        visit.join(*flag, fd)?;
    }
    if namespaces.new & namespaces::TIME != 0 && cred::is_root() {
        visit.make_time(&namespaces.time_offsets)?;
        inherited.in_time = true;
    }
    // What the container may not see or trace must not be dumpable when it enters. A caller without
    // privileges must still write init's maps, and files of an undumpable process are the host's
    // root's: there init gives it up itself, once it is mapped.
    let maps_own_child = namespaces.new & namespaces::USER != 0 && !cred::is_root();
    cred::set_dumpable(maps_own_child)?;
    let joins_user = inherited
        .join
        .iter()
        .any(|(flag, _)| *flag == namespaces::USER);
    let cloned = if joins_user && namespaces.new & namespaces::PID != 0 {
        clone_staged(plan, cgroup, inherited)
    } else {
        clone_directly(plan, cgroup, inherited)
    };
    visit.leave()?;
    cloned
}

fn clone_directly(plan: &Plan, cgroup: &Cgroup, inherited: Inherited) -> Result<(i32, OwnedFd)> {
    let flags = plan.namespaces.new & (namespaces::USER | namespaces::PID);
    match process::clone3(flags, cgroup.clone_fd()).context("clone the init process")? {
        Clone::Child => init::main(plan, inherited),
        Clone::Parent { pid, pidfd } => Ok((pid, pidfd)),
    }
}

/// A pid namespace belongs to the user namespace in which it is made. To make it
/// in one that is joined, a process in between joins and clones on its parent's
/// behalf.
fn clone_staged(plan: &Plan, cgroup: &Cgroup, inherited: Inherited) -> Result<(i32, OwnedFd)> {
    let (ours, theirs) = sync::pair()?;
    let stage = match process::clone3(0, cgroup.clone_fd()).context("clone the init process")? {
        Clone::Child => {
            drop(ours);
            let answer = match stage(plan, inherited) {
                Ok(pid) => Message::Pid(pid),
                Err(error) => Message::Error(error.chain()),
            };
            let sent = theirs.send(&answer);
            process::exit_now(i32::from(sent.is_err()))
        }
        Clone::Parent { pid, .. } => pid,
    };
    drop(theirs);
    let answer = ours.receive()?;
    process::wait(stage, false)?;
    match answer {
        // It is a child of this process: its number is not reused before it is waited for.
        Some(Message::Pid(pid)) => Ok((pid, process::pidfd_open(pid)?)),
        Some(Message::Error(text)) => Err(Error::Remote(text)),
        _ => Err(Error::Remote(
            "the process that joins the user namespace ended early".into(),
        )),
    }
}

fn stage(plan: &Plan, mut inherited: Inherited) -> Result<i32> {
    init::join_user_namespace(&mut inherited.join)?;
    let flags = namespaces::PID | namespaces::CLONE_PARENT;
    match process::clone3(flags, None).context("clone the init process")? {
        Clone::Child => init::main(plan, inherited),
        Clone::Parent { pid, .. } => Ok(pid),
    }
}
