//! Protecting the program's own file from the containers it starts (CVE-2019-5736).
//!
//! A process of a container can reach the program that started it through
//! /proc/PID/exe, keep a descriptor, and write to the file once nothing executes
//! it. So the program executes itself once more by way of a read-only mount of
//! its own that is attached nowhere: what /proc/PID/exe leads to can then be
//! written by nobody, and no path or namespace leads to the mount to change it.

use crate::error::Call;
use crate::mount::{self, MountAttr, attr};
use crate::{Error, Result};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether [`crate::entry`] found that the program runs from a read-only file system.
pub(crate) static SEALED: AtomicBool = AtomicBool::new(false);

/// Executes the program again from a read-only mount, unless it runs from one
/// already or containers could not write to it anyway. Returns when nothing had
/// to be done.
pub fn protect_own_binary() -> Result<()> {
    if SEALED.load(Relaxed) {
        return Ok(());
    }
    let exe = crate::path::open(std::path::Path::new("/proc/self/exe"), libc::O_PATH)?;
    let fs = rustix::fs::fstatvfs(&exe).call("fstatfs", format_args!("/proc/self/exe"))?;
    if fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    if !crate::cred::is_root() && !writable(exe.as_fd()) {
        return Ok(());
    }
    let sealed = match read_only_mount(exe.as_fd()) {
        Ok(tree) => tree,
        // Without the right to mount: a copy in memory.
        Err(_) if is_sealed_memory() => return Ok(()),
        Err(_) => memory_copy()?,
    };
    Err(exec(sealed.as_fd()))
}

fn writable(exe: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
    rustix::fs::access(path.as_str(), rustix::fs::Access::WRITE_OK).is_ok()
}

fn read_only_mount(exe: BorrowedFd<'_>) -> Result<OwnedFd> {
    let read_only = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    mount::clone_tree_with(exe, false, &read_only)
}

const SEALS: rustix::fs::SealFlags = rustix::fs::SealFlags::WRITE
    .union(rustix::fs::SealFlags::GROW)
    .union(rustix::fs::SealFlags::SHRINK)
    .union(rustix::fs::SealFlags::SEAL);

/// Whether the program runs from such a copy: those cannot be opened for
/// writing, which an O_PATH descriptor does not tell; /proc/self/exe read does.
fn is_sealed_memory() -> bool {
    let file = rustix::fs::open(
        "/proc/self/exe",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    file.is_ok_and(|f| rustix::fs::fcntl_get_seals(&f).is_ok_and(|seals| seals.contains(SEALS)))
}

fn memory_copy() -> Result<OwnedFd> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let copy =
        rustix::fs::memfd_create("rrun", flags).call("memfd_create", format_args!("rrun"))?;
    let mut copy = std::fs::File::from(copy);
    std::fs::File::open("/proc/self/exe")
        .and_then(|mut exe| std::io::copy(&mut exe, &mut copy))
        .map_err(|e| Error::io("copy", format_args!("/proc/self/exe"), &e))?;
    rustix::fs::fcntl_add_seals(&copy, SEALS).call("fcntl", format_args!("F_ADD_SEALS"))?;
    Ok(copy.into())
}

/// execveat(2) of `program` with the arguments and environment of this process.
fn exec(program: BorrowedFd<'_>) -> Error {
    let cstring = |s: OsString| CString::new(s.into_vec());
    let args = crate::process::arguments().into_iter().map(cstring);
    let args: std::result::Result<Vec<_>, _> = args.collect();
    let env: std::result::Result<Vec<_>, _> = std::env::vars_os()
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            cstring(key)
        })
        .collect();
    let (Ok(args), Ok(env)) = (args, env) else {
        let errno = crate::Errno(libc::EINVAL);
        return Error::new("execveat", format_args!("nul byte in arguments"), errno);
    };
    match nix::unistd::execveat(
        program,
        c"",
        &args,
        &env,
        nix::fcntl::AtFlags::AT_EMPTY_PATH,
    ) {
        Ok(never) => match never {},
        Err(e) => Error::new("execveat", format_args!("own binary, read-only"), e.into()),
    }
}
