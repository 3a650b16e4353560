//! Exec without the runtime: one more process in a container of rrun's, by clone3, the pidfd of
//! the container's first process, and setns.
//!
//! [`Plan::new`] reads what was asked for and says whether it is among what is done here: no
//! terminal, no label, no scheduling, no namespace or limit that only a second process could set.
//! All else is the runtime's, as before. [`enter`] clones; the child ([`child`]) closes the
//! report by its exec, or writes there why it could not.

mod child;
mod spec;

use crate::cgroup::Cgroup;
use rrun_process::capabilities::{self, Sets};
use rrun_sys::process::{self, Clone};
use rrun_sys::seccomp::Instruction;
use rrun_sys::{cred, fd, ns, path};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What will be done, as data.
#[derive(Debug)]
pub struct Plan {
    process: spec::Process,
    /// `CLONE_NEW*` of the namespaces that are entered.
    namespaces: i32,
    /// `tasks` of each cgroup of version 1.
    tasks: Vec<PathBuf>,
    /// The cgroup of version 2 that the process is cloned into.
    unified: Option<OwnedFd>,
    sets: Sets,
    /// Number, soft and hard limit.
    rlimits: Vec<(u32, u64, u64)>,
    filter: Option<(Vec<Instruction>, u32)>,
    /// The container's session keyring.
    keyring: Option<CString>,
}

/// A process on its way into a container.
#[derive(Debug)]
pub struct Entering {
    /// In this process's namespace.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// Ends when the program is executed; what comes before is why it was not.
    pub report: OwnedFd,
}

impl Plan {
    /// Plans the exec of `process` (JSON) in the container whose state directory is `state`.
    /// `None` where that is for the runtime. The container has a session keyring of its own unless
    /// `no_new_keyring`.
    pub fn new(
        state: &Path,
        process: &[u8],
        cgroup: &Cgroup,
        no_new_keyring: bool,
    ) -> Option<Self> {
        let process: spec::Process = serde_json::from_slice(process).ok()?;
        let config = std::fs::read(state.join("config.json")).ok()?;
        let linux = serde_json::from_slice::<spec::Config>(&config).ok()?.linux;
        let filter = match linux.seccomp {
            Some(_) => Some(rrun_sys::seccomp::saved(
                &state.join(rrun_sys::seccomp::SAVED),
            )?),
            None => None,
        };
        let namespaces = namespaces(&linux)?;
        if !is_plain(&process, &linux, namespaces) || !cred::is_root() {
            return None;
        }
        let named = process.capabilities.as_ref();
        let mask = |set: fn(&spec::Capabilities) -> &Option<Vec<String>>| {
            mask(named.and_then(|c| set(c).as_deref()))
        };
        let sets = Sets {
            bounding: mask(|c| &c.bounding)?,
            effective: mask(|c| &c.effective)?,
            permitted: mask(|c| &c.permitted)?,
            inheritable: mask(|c| &c.inheritable)?,
            ambient: mask(|c| &c.ambient)?,
        };
        let held = cred::capabilities().ok()?.permitted;
        if (sets.effective | sets.permitted | sets.inheritable) & !held != 0 {
            // The runtime warns of what it leaves out.
            return None;
        }
        let tasks = cgroup.controllers.values().map(|dir| dir.join("tasks"));
        let mut tasks: Vec<_> = tasks.collect();
        tasks.sort();
        // Controllers that are mounted together have one directory.
        tasks.dedup();
        let unified = cgroup.unified.as_ref().or(cgroup.hybrid.as_ref());
        let open = |dir: &PathBuf| path::open(dir, path::O_PATH | path::O_DIRECTORY);
        let unified = unified.map(open).transpose().ok()?;
        let id = state.file_name()?.to_str()?;
        Some(Self {
            keyring: (!no_new_keyring).then(|| rrun_sys::keyring::name_of(id)),
            sets,
            rlimits: rlimits(process.rlimits.as_deref().unwrap_or_default())?,
            process,
            namespaces,
            tasks,
            unified,
            filter,
        })
    }
}

impl Plan {
    /// Another program and its arguments; not empty.
    pub fn set_args(&mut self, args: Vec<String>) {
        self.process.args = Some(args);
    }
}

/// Whether nothing is asked for that is left to the runtime. What it would refuse it shall.
fn is_plain(process: &spec::Process, linux: &spec::Linux, namespaces: i32) -> bool {
    let set = |label: &Option<String>| label.as_ref().is_some_and(|l| !l.is_empty());
    let limited = process.rlimits.as_ref().is_some_and(|l| !l.is_empty());
    let valid = process.args.as_ref().is_some_and(|a| !a.is_empty()) && process.cwd.is_absolute();
    valid
        && !process.terminal
        && !set(&process.selinux_label)
        && linux.personality.is_none()
        && linux.memory_policy.is_none()
        // In a user namespace the right to raise limits is gone.
        && !(limited && namespaces & USER != 0)
}

const USER: i32 = 0x1000_0000;
const PID: i32 = 0x2000_0000;

fn namespaces(linux: &spec::Linux) -> Option<i32> {
    let flag = |namespace: &spec::Namespace| {
        Some(match namespace.kind.as_str() {
            "pid" => PID,
            "user" => USER,
            "network" => 0x4000_0000,
            "mount" => 0x0002_0000,
            "ipc" => 0x0800_0000,
            "uts" => 0x0400_0000,
            "cgroup" => 0x0200_0000,
            "time" => 0x80,
            _ => return None,
        })
    };
    let all = linux.namespaces.iter().flatten();
    all.map(flag).try_fold(0, |all, flag| Some(all | flag?))
}

/// Bits of named capabilities; `None` for a name that is not known here.
fn mask(names: Option<&[String]>) -> Option<u64> {
    let bit = |name: &String| capabilities::bit(name);
    names
        .into_iter()
        .flatten()
        .map(bit)
        .try_fold(0, |all, bit| Some(all | bit?))
}

/// `None` for what the runtime would refuse: an unknown limit, one given twice, soft above hard.
fn rlimits(limits: &[spec::Rlimit]) -> Option<Vec<(u32, u64, u64)>> {
    let mut found: Vec<(u32, u64, u64)> = Vec::with_capacity(limits.len());
    for limit in limits {
        let number = rrun_process::rlimits::number(&limit.kind)?;
        if limit.soft > limit.hard || found.iter().any(|(n, ..)| *n == number) {
            return None;
        }
        found.push((number, limit.soft, limit.hard));
    }
    Some(found)
}

/// The PID namespace of this process, in which it stays.
fn own_pid_namespace() -> rrun_sys::Result<BorrowedFd<'static>> {
    static OWN: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own.as_fd());
    }
    let own = path::open(Path::new("/proc/self/ns/pid"), path::O_RDONLY)?;
    Ok(OWN.get_or_init(|| own).as_fd())
}

/// Clones the process. `init` is the pidfd of the container's first process; `stdio` become
/// descriptors 0, 1 and 2.
pub fn enter(
    plan: &Plan,
    init: BorrowedFd<'_>,
    stdio: [BorrowedFd<'_>; 3],
) -> rrun_sys::Result<Entering> {
    let (report, theirs) = fd::pipe()?;
    let own = own_pid_namespace()?;
    let enters_pid = plan.namespaces & PID != 0;
    if enters_pid {
        ns::setns(init, PID)?;
    }
    let cloned = process::clone3(0, plan.unified.as_ref().map(AsFd::as_fd));
    if let Ok(Clone::Child) = cloned {
        child::main(plan, init, stdio, theirs.as_fd());
    }
    let returned = if enters_pid {
        ns::setns(own, PID)
    } else {
        Ok(())
    };
    let (pid, pidfd) = match cloned? {
        Clone::Parent { pid, pidfd } => (pid, pidfd),
        Clone::Child => unreachable!("the child has left above"),
    };
    if let Err(error) = returned {
        let _ = process::pidfd_signal(pidfd.as_fd(), process::SIGKILL);
        let _ = process::wait(pid, false);
        return Err(error);
    }
    Ok(Entering { pid, pidfd, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &str) -> Option<spec::Process> {
        serde_json::from_str(json).ok()
    }

    #[test]
    fn what_is_unknown_is_for_the_runtime() {
        assert!(process(r#"{"args":["a"],"cwd":"/","user":{"uid":1}}"#).is_some());
        assert!(
            process(r#"{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_IDLE"}}"#).is_none()
        );
        assert!(process(r#"{"args":["a"],"cwd":"/","user":{"uid":1,"new":2}}"#).is_none());
    }

    #[test]
    fn only_plain_processes_are_done_here() {
        let linux = |json: &str| serde_json::from_str::<spec::Linux>(json).unwrap();
        let plain = |json: &str, flags| is_plain(&process(json).unwrap(), &linux("{}"), flags);
        assert!(plain(r#"{"args":["a"],"cwd":"/"}"#, 0));
        assert!(!plain(r#"{"args":[],"cwd":"/"}"#, 0));
        assert!(!plain(r#"{"args":["a"],"cwd":"x"}"#, 0));
        assert!(!plain(r#"{"args":["a"],"cwd":"/","terminal":true}"#, 0));
        assert!(!plain(r#"{"args":["a"],"cwd":"/","selinuxLabel":"l"}"#, 0));
        let limited =
            r#"{"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","hard":1,"soft":1}]}"#;
        assert!(plain(limited, PID));
        assert!(!plain(limited, PID | USER));
        let one = process(r#"{"args":["a"],"cwd":"/"}"#).unwrap();
        assert!(!is_plain(
            &one,
            &linux(r#"{"personality":{"domain":"LINUX32"}}"#),
            0
        ));
    }

    #[test]
    fn names_become_numbers() {
        let linux = r#"{"namespaces":[{"type":"pid"},{"type":"user","path":"/x"}]}"#;
        assert_eq!(
            namespaces(&serde_json::from_str(linux).unwrap()),
            Some(PID | USER)
        );
        assert_eq!(
            namespaces(&serde_json::from_str(r#"{"namespaces":[{"type":"new"}]}"#).unwrap()),
            None
        );
        assert_eq!(
            mask(Some(&["CAP_CHOWN".into(), "CAP_KILL".into()])),
            Some(0b10_0001)
        );
        assert_eq!(mask(Some(&["CAP_NEW".into()])), None);
        let limit = |kind: &str, soft| spec::Rlimit {
            kind: kind.into(),
            soft,
            hard: 2,
        };
        assert_eq!(rlimits(&[limit("RLIMIT_NOFILE", 1)]), Some(vec![(7, 1, 2)]));
        assert_eq!(rlimits(&[limit("RLIMIT_NOFILE", 3)]), None);
        assert_eq!(
            rlimits(&[limit("RLIMIT_CORE", 1), limit("RLIMIT_CORE", 1)]),
            None
        );
    }
}
