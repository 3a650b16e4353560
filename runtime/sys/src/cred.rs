//! User and group ids, no_new_privs and other prctl settings. (Capability sets
//! are the `caps` crate's, in rrun-core.)

use crate::error::Call;
use crate::{Error, Result};

/// Whether the effective user id is 0 (in the caller's user namespace).
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Effective user id.
pub fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Effective group id.
pub fn egid() -> u32 {
    rustix::process::getegid().as_raw()
}

fn prctl(name: &'static str, option: i32, value: u64) -> Result<()> {
    // SAFETY: only options that take integers are passed by this module.
    if unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) } == 0 {
        return Ok(());
    }
    Err(Error::last("prctl", format_args!("{name}, {value}")))
}

/// PR_SET_NO_NEW_PRIVS: exec gains nothing from now on.
pub fn set_no_new_privs() -> Result<()> {
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// PR_SET_KEEPCAPS: the permitted set survives setuid.
pub fn set_keepcaps(on: bool) -> Result<()> {
    prctl("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS, u64::from(on))
}

/// PR_SET_DUMPABLE: without it, processes of the container may not trace this
/// one or read its /proc files (CVE-2016-9962).
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, u64::from(on))
}

/// PR_SET_PDEATHSIG; 0 for none. The kernel clears it when credentials change.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG, signal as u64)
}

/// PR_SET_CHILD_SUBREAPER: orphans below become children of this process.
pub fn set_subreaper(on: bool) -> Result<()> {
    prctl(
        "PR_SET_CHILD_SUBREAPER",
        libc::PR_SET_CHILD_SUBREAPER,
        u64::from(on),
    )
}

/// setgroups(2).
pub fn set_groups(gids: &[u32]) -> Result<()> {
    // SAFETY: pointer and length describe `gids`; gid_t is u32.
    if unsafe { libc::setgroups(gids.len(), gids.as_ptr()) } == 0 {
        return Ok(());
    }
    Err(Error::last("setgroups", format_args!("{gids:?}")))
}

/// setresgid(2) of all three.
pub fn set_gid(gid: u32) -> Result<()> {
    let id = nix::unistd::Gid::from_raw(gid);
    nix::unistd::setresgid(id, id, id).call("setresgid", format_args!("{gid}"))
}

/// setresuid(2) of all three.
pub fn set_uid(uid: u32) -> Result<()> {
    let id = nix::unistd::Uid::from_raw(uid);
    nix::unistd::setresuid(id, id, id).call("setresuid", format_args!("{uid}"))
}

/// umask(2); returns the old one.
pub fn umask(mask: u32) -> u32 {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask)).as_raw_mode()
}

/// setsid(2).
pub fn setsid() -> Result<()> {
    nix::unistd::setsid()
        .map(|_| ())
        .call("setsid", format_args!(""))
}

/// Whether the caller is in a user namespace other than the initial one (its
/// map is not the identity over all ids).
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}
