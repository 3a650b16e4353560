//! Loading seccomp filters.

use crate::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Generic operand.
    pub k: u32,
}

/// Loads `program` for the calling thread with `flags` (`SECCOMP_FILTER_FLAG_*`).
/// Returns the listener when `SECCOMP_FILTER_FLAG_NEW_LISTENER` is among them.
/// Needs no_new_privs or CAP_SYS_ADMIN in the caller's user namespace (seccomp(2)).
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: fprog points at `program`, which outlives the call; the kernel only reads it, and
    // Instruction has sock_filter's layout.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&fprog),
        )
    };
    if ret < 0 {
        return Err(Error::last(
            "seccomp",
            format_args!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions", program.len()),
        ));
    }
    let listener = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    // SAFETY: with NEW_LISTENER a non-negative return value is a descriptor that nobody else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(ret as i32) }))
}
