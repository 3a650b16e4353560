//! Namespaces: unshare, setns, their descriptors.

use crate::Result;
use crate::error::Call;
use nix::sched::CloneFlags;
use std::os::fd::{AsRawFd, BorrowedFd};

/// unshare(2) of `CLONE_NEW*` flags.
pub fn unshare(flags: i32) -> Result<()> {
    nix::sched::unshare(CloneFlags::from_bits_retain(flags))
        .call("unshare", format_args!("{}", names(flags)))
}

/// setns(2). `fd` is a namespace, or a pidfd with several flags (5.8).
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> Result<()> {
    nix::sched::setns(fd, CloneFlags::from_bits_retain(flags)).call(
        "setns",
        format_args!("fd {}, {}", fd.as_raw_fd(), names(flags)),
    )
}

/// The names of `CLONE_NEW*` flags, joined by "|".
pub fn names(flags: i32) -> String {
    const NAMES: [(i32, &str); 8] = [
        (libc::CLONE_NEWUSER, "CLONE_NEWUSER"),
        (libc::CLONE_NEWPID, "CLONE_NEWPID"),
        (libc::CLONE_NEWNET, "CLONE_NEWNET"),
        (libc::CLONE_NEWNS, "CLONE_NEWNS"),
        (libc::CLONE_NEWIPC, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUTS, "CLONE_NEWUTS"),
        (libc::CLONE_NEWCGROUP, "CLONE_NEWCGROUP"),
        (CLONE_NEWTIME, "CLONE_NEWTIME"),
    ];
    let names: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join("|")
}

/// New time namespace for children (5.6).
pub const CLONE_NEWTIME: i32 = 0x80;

/// sethostname(2).
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).call("sethostname", format_args!("{name}"))
}

/// setdomainname(2).
pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes()).call("setdomainname", format_args!("{name}"))
}
