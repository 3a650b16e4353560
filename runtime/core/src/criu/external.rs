//! What CRIU does not save because it belongs to the host: bind mounts, masks of files, namespaces
//! that were joined.

use super::rpc::Message;
use crate::plan::{Plan, Source, namespaces};
use crate::{Context, Result};
use rrun_sys::path;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `ext_mount_map`.
pub(super) fn map(opts: &mut Message, key: &Path, value: &Path) {
    let mut pair = Message::default();
    pair.bytes(1, key.as_os_str().as_bytes())
        .bytes(2, value.as_os_str().as_bytes());
    opts.inner(23, &pair);
}

/// Where `destination` is below `root`, which is at `at`, with its links followed.
fn resolved(root: BorrowedFd<'_>, at: &Path, destination: &Path) -> PathBuf {
    let found = path::open_in_root(root, destination, path::O_PATH)
        .ok()
        .and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok());
    match found {
        Some(real) => Path::new("/").join(real.strip_prefix(at).unwrap_or(&real)),
        None => destination.to_owned(),
    }
}

/// Each bind mount under its destination: for a dump with that name, for a restore with its source.
pub fn mounts(opts: &mut Message, plan: &Plan, root: BorrowedFd<'_>, at: &Path, dump: bool) {
    for mount in &plan.mounts {
        if let Source::Bind { path, .. } = &mount.source {
            let key = resolved(root, at, &mount.destination);
            map(opts, &key, if dump { &key } else { path });
        }
    }
    for device in &plan.devices {
        map(opts, &device.path, &device.path);
    }
}

/// Masks of files: the host's null device.
pub fn masks(opts: &mut Message, plan: &Plan, root: BorrowedFd<'_>) {
    let masked = plan.spec.linux().as_ref();
    for masked in masked
        .and_then(|l| l.masked_paths().as_ref())
        .into_iter()
        .flatten()
    {
        let is_file = path::open_in_root(root, Path::new(masked), path::O_PATH)
            .and_then(|fd| path::stat(fd.as_fd()))
            .is_ok_and(|stat| stat.kind != path::Kind::Dir);
        if is_file {
            map(opts, Path::new(masked), Path::new("/dev/null"));
        }
    }
}

/// The same for a restore.
pub fn null(opts: &mut Message, plan: &Plan) {
    let masked = plan.spec.linux().as_ref();
    if masked.is_some_and(|l| l.masked_paths().as_ref().is_some_and(|m| !m.is_empty())) {
        map(opts, Path::new("/dev/null"), Path::new("/dev/null"));
    }
}

/// CRIU's names of a kind of namespace and of the key under which a joined one is known.
fn names(flag: i32) -> Option<(&'static str, &'static str)> {
    match flag {
        namespaces::NET => Some(("net", "extRootNetNS")),
        namespaces::PID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Joined network and pid namespaces are not saved.
pub fn joined_for_dump(opts: &mut Message, plan: &Plan) -> Result<()> {
    for (flag, target) in &plan.namespaces.join {
        let Some((name, key)) = names(*flag) else {
            continue;
        };
        let inode = std::fs::metadata(target)
            .map_err(|e| crate::Error::file("stat", target, e))?
            .ino();
        opts.text(37, &format!("{name}[{inode}]:{key}"));
    }
    Ok(())
}

/// Joined namespaces for a restore: descriptors that CRIU inherits, or paths.
pub fn joined_for_restore(opts: &mut Message, plan: &Plan) -> Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    for (flag, target) in &plan.namespaces.join {
        if let Some((_, key)) = names(*flag) {
            let what = || format!("join namespace {}", target.display());
            let namespace = path::open(target, path::O_RDONLY).with_context(what)?;
            rrun_sys::fd::keep_over_exec(namespace.as_raw_fd())?;
            inherit(opts, key, namespace.as_raw_fd());
            kept.push(namespace);
        } else {
            let mut join = Message::default();
            join.text(1, namespaces::file(*flag))
                .bytes(2, target.as_os_str().as_bytes());
            opts.inner(39, &join);
        }
    }
    Ok(kept)
}

/// `inherit_fd`: descriptor `number` of CRIU's for the file that is known as `key`.
pub fn inherit(opts: &mut Message, key: &str, number: i32) {
    let mut pair = Message::default();
    pair.text(1, key).int(2, number);
    opts.inner(27, &pair);
}
