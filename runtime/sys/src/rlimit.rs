//! Resource limits: prlimit(2).

use crate::{Error, Result};

/// Sets limit `resource` (`RLIMIT_*`) of process `pid` (0: the caller);
/// `u64::MAX` is unlimited.
pub fn set(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call, which only reads it; the old value is not asked for.
    let ret =
        unsafe { libc::prlimit64(pid, resource as _, &raw const limit, std::ptr::null_mut()) };
    if ret == 0 {
        return Ok(());
    }
    Err(Error::last(
        "prlimit",
        format_args!("{pid}, {resource}, {soft}:{hard}"),
    ))
}

/// The soft and the hard limit of the caller.
pub fn get(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes; no new value is given.
    let ret = unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut limit) };
    if ret == 0 {
        return Ok((limit.rlim_cur, limit.rlim_max));
    }
    Err(Error::last("prlimit", format_args!("0, {resource}")))
}
