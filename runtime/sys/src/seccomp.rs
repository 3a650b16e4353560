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
            format_args!(
                "SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions",
                program.len()
            ),
        ));
    }
    let listener = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    // SAFETY: with NEW_LISTENER a non-negative return value is a descriptor that nobody else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(ret as i32) }))
}

/// An anonymous file for libseccomp to write a program to (memfd_create(2)).
pub fn scratch() -> Result<OwnedFd> {
    // SAFETY: the name is a static string; nothing else is passed by pointer.
    let fd = unsafe { libc::memfd_create(c"seccomp".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last(
            "memfd_create",
            format_args!("seccomp, MFD_CLOEXEC"),
        ));
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel knows the filter flags (any of `SECCOMP_FILTER_FLAG_*`): with a
/// null program a known flag fails with EFAULT, an unknown one with EINVAL (seccomp(2)).
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: the kernel checks the null pointer and answers EFAULT; nothing is loaded.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    ret < 0 && crate::Errno::last().0 == libc::EFAULT
}
