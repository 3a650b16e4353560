//! Session keyrings.

use crate::{Error, Result};
use std::ffi::{CStr, CString};

/// Name of the session keyring of a container, as runc has it.
///
/// # Panics
///
/// If `id` has a nul byte.
pub fn name_of(id: &str) -> CString {
    CString::new(format!("_ses.{id}")).expect("a valid id has no nul byte")
}

/// keyctl(KEYCTL_JOIN_SESSION_KEYRING): the session keyring called `name` of this user namespace,
/// made where there is none that may be searched, so that the container does not share the
/// caller's. Its serial number.
pub fn join_session(name: &CStr) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: `name` is a live C string that the kernel only reads.
    let ret =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if ret < 0 {
        return Err(Error::last(
            "keyctl",
            format_args!("JOIN_SESSION_KEYRING, {name:?}"),
        ));
    }
    Ok(ret as i32)
}

/// Lets user, group and others of the keyring search it (runc's mode: owner everything it had).
pub fn allow_search(serial: i32) -> Result<()> {
    const KEYCTL_DESCRIBE: libc::c_long = 6;
    const KEYCTL_SETPERM: libc::c_long = 5;
    const USER_SEARCH: u32 = 0x8_0000;
    let mut text = [0u8; 256];
    // SAFETY: buffer and length describe `text`.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if ret < 0 {
        return Err(Error::last("keyctl", format_args!("DESCRIBE, {serial}")));
    }
    // "keyring;uid;gid;perm;name", perm in hexadecimal.
    let text = String::from_utf8_lossy(&text);
    let perm = text
        .split(';')
        .nth(3)
        .and_then(|p| u32::from_str_radix(p, 16).ok());
    let perm = perm.unwrap_or(0x3f01_0000) | USER_SEARCH;
    // SAFETY: plain integers.
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, perm) } < 0 {
        return Err(Error::last(
            "keyctl",
            format_args!("SETPERM, {serial}, {perm:#x}"),
        ));
    }
    Ok(())
}
