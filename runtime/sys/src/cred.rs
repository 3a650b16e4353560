//! User and group ids, capabilities, no_new_privs and other prctl settings.

/// Whether the effective user id is 0 (in the caller's user namespace).
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
