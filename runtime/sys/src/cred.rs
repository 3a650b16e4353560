//! User and group ids, capability sets as bit masks, no_new_privs and other prctl
//! settings. (The capabilities' names are the `caps` crate's, in rrun-core.)

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

/// Capability sets of a thread; bit N is capability number N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Checked by the kernel.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over exec with file capabilities.
    pub inheritable: u64,
}

/// `struct __user_cap_header_struct`; version 3 (2.6.26) has 64 bits in two halves.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The calling thread.
const SELF: CapHeader = CapHeader {
    version: 0x2008_0522,
    pid: 0,
};

/// capget(2) of the calling thread.
pub fn capabilities() -> Result<Capabilities> {
    let mut header = SELF;
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the header makes the kernel write two structs, which `data` has.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if ret != 0 {
        return Err(Error::last("capget", format_args!("self")));
    }
    let whole =
        |half: fn(&CapData) -> u32| u64::from(half(&data[1])) << 32 | u64::from(half(&data[0]));
    Ok(Capabilities {
        effective: whole(|d| d.effective),
        permitted: whole(|d| d.permitted),
        inheritable: whole(|d| d.inheritable),
    })
}

/// capset(2) of the calling thread: all three at once, as the kernel checks each
/// against the others.
pub fn set_capabilities(sets: &Capabilities) -> Result<()> {
    let mut header = SELF;
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the header makes the kernel read two structs, which `data` has.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if ret == 0 {
        return Ok(());
    }
    Err(Error::last(
        "capset",
        format_args!(
            "effective {:#x}, permitted {:#x}, inheritable {:#x}",
            sets.effective, sets.permitted, sets.inheritable
        ),
    ))
}

/// PR_CAPBSET_DROP: takes capability `number` out of the bounding set. EINVAL for
/// one that the kernel does not know.
pub fn drop_bounding(number: u8) -> Result<()> {
    prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, number.into())
}

/// PR_CAPBSET_READ: whether capability `number` is in the bounding set.
pub fn is_bounding(number: u8) -> bool {
    // SAFETY: takes an integer, and changes nothing.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0u64, 0u64, 0u64) == 1 }
}

/// Number of the newest capability, CAP_CHECKPOINT_RESTORE (5.9).
pub const LAST_CAPABILITY: u8 = 40;

fn prctl_ambient(name: &'static str, operation: i32, number: u8) -> Result<()> {
    let (operation, value) = (operation as libc::c_ulong, libc::c_ulong::from(number));
    // SAFETY: PR_CAP_AMBIENT takes integers.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, value, 0u64, 0u64) } == 0 {
        return Ok(());
    }
    Err(Error::last("prctl", format_args!("{name}, {number}")))
}

/// PR_CAP_AMBIENT_CLEAR_ALL (4.3).
pub fn clear_ambient() -> Result<()> {
    prctl_ambient(
        "PR_CAP_AMBIENT_CLEAR_ALL",
        libc::PR_CAP_AMBIENT_CLEAR_ALL,
        0,
    )
}

/// PR_CAP_AMBIENT_RAISE: EPERM for a capability that is not permitted and inheritable.
pub fn raise_ambient(number: u8) -> Result<()> {
    prctl_ambient("PR_CAP_AMBIENT_RAISE", libc::PR_CAP_AMBIENT_RAISE, number)
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
    // The number of the initial one is fixed (PROC_USER_INIT_INO).
    let mut text = [std::mem::MaybeUninit::uninit(); 64];
    let link = rustix::fs::readlinkat_raw(rustix::fs::CWD, c"/proc/self/ns/user", &mut text);
    if link.is_ok_and(|(name, _)| name == b"user:[4026531837]") {
        return false;
    }
    crate::fd::read_small("/proc/self/uid_map".as_ref()).is_ok_and(|map| {
        map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}
