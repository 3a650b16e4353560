//! /dev: nodes, links.

use crate::plan::{Device, Plan};
use crate::{Context, Error, Result};
use rrun_sys::path::{self, Kind, Make};
use rrun_sys::{cred, mount};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Links of every container's /dev (runtime-spec, config-linux.md#dev-symbolic-links).
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes the planned nodes and the links below `root`.
pub fn make(plan: &Plan, root: BorrowedFd<'_>) -> Result<()> {
    if !plan.setup_dev {
        return Ok(());
    }
    let dev = path::make_in_root(root, Path::new("/dev"), Make::Dir)?;
    let umask = cred::umask(0);
    let result = plan.devices.iter().try_for_each(|device| {
        node(plan, root, dev.as_fd(), device)
            .with_context(|| format!("create device node {}", device.path.display()))
    });
    cred::umask(umask);
    result?;
    links(dev.as_fd())
}

fn links(dev: BorrowedFd<'_>) -> Result<()> {
    for (name, target) in LINKS {
        link(dev, name, target)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(dev, "core", "/proc/kcore")?;
    }
    let make = || path::symlink(Path::new("pts/ptmx"), dev, Path::new("ptmx"));
    match make() {
        Err(e) if e.is(path::EEXIST) => {
            path::unlink_at(dev, Path::new("ptmx"))?;
            Ok(make()?)
        }
        result => Ok(result?),
    }
}

fn link(dev: BorrowedFd<'_>, name: &str, target: &str) -> Result<()> {
    match path::symlink(Path::new(target), dev, Path::new(name)) {
        Err(e) if e.is(path::EEXIST) => Ok(()),
        result => Ok(result?),
    }
}

fn node(plan: &Plan, root: BorrowedFd<'_>, dev: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let name = device.path.file_name().map_or(Path::new("."), Path::new);
    if plan.namespaces.user() {
        return bind(root, device);
    }
    let parent = device.path.parent().unwrap_or(Path::new("/"));
    let other;
    let dir = if parent == Path::new("/dev") {
        dev
    } else {
        other = path::make_in_root(root, parent, Make::Dir)?;
        other.as_fd()
    };
    let number = path::makedev(device.number.0, device.number.1);
    match path::mknod(dir, name, device.kind, device.mode, number) {
        Ok(()) => {}
        Err(e) if e.is(path::EEXIST) => return same(dir, name, device, number),
        Err(e) if e.is(path::EPERM) => return bind(root, device),
        Err(e) => return Err(e.into()),
    }
    if device.owner != (0, 0) {
        path::chown_at(dir, name, device.owner.0, device.owner.1)?;
    }
    Ok(())
}

/// A file that is there already must be the device that is asked for (runtime-spec,
/// config-linux.md#devices). Of one that nobody asked for by name the image decides.
fn same(dir: BorrowedFd<'_>, name: &Path, device: &Device, number: u64) -> Result<()> {
    if !device.configured {
        return Ok(());
    }
    let stat = path::stat_at(dir, name)?;
    let kind = match device.kind {
        0o060_000 => Kind::BlockDevice,
        0o010_000 => Kind::Fifo,
        _ => Kind::CharDevice,
    };
    if stat.kind == kind && (kind == Kind::Fifo || stat.rdev == number) {
        return Ok(());
    }
    Err(Error::State(
        "a file that is not this device is there already: remove it from the image".into(),
    ))
}

/// Where nodes cannot be made (user namespaces), the host's are shown.
fn bind(root: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let tree = super::mounts::clone_host(&device.path, false, false)?;
    let target = path::make_in_root(root, &device.path, Make::File)?;
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}
