//! Images mounted on the host, read-only, to be looked into.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rrun_sys::mount::{FsContext, attach, attr, detach};
use rustix::fs::{Mode, OFlags};

use super::rootfs::NO_SUCH_KEY;
use super::{OverlayRootfs, Store, fuse};
use crate::error::FileContext;
use crate::identity::Privilege;
use crate::{Digest, Error, Result};

/// A value of fsconfig(2) has at most 255 bytes.
const VALUE_LIMIT: usize = 255;

impl Store {
    /// Mounts an image on a directory, read-only and without set-user-id programs and devices,
    /// since every user of the machine may reach the mount. Without root it is a mount of
    /// fuse-overlayfs, which its user alone may reach. The image's layers stay until
    /// [`Store::unmount`].
    pub fn mount(&self, image: &str, target: &Path) -> Result<()> {
        let target = target.canonicalize().at("resolve", target)?;
        let key = key_of(&target);
        let rootfs = self.rootfs(image, &key, &self.root.join("rootfs").join(&key))?;
        let mounted = match self.privilege() {
            Privilege::User => self.mount_by_fuse(&rootfs, &target, false),
            _ => mount_layers(&rootfs, &target),
        };
        if mounted.is_err() {
            self.release(&key)?;
        }
        mounted
    }

    /// Ends a mount made by [`Store::mount`]. One that a reboot ended is only forgotten.
    pub fn unmount(&self, target: &Path) -> Result<()> {
        let target = std::path::absolute(target).at("resolve", target)?;
        let target = target.canonicalize().unwrap_or(target);
        let key = key_of(&target);
        if self.find_rootfs(&key)?.is_none() {
            let what = target.display().to_string();
            return Err(Error::document(
                what,
                "no image of this store is mounted there",
            ));
        }
        if self.privilege() == Privilege::User {
            fuse::unmount(&target)?;
            return self.release(&key);
        }
        match detach(&target) {
            Err(error) if !is_gone(&error) => return Err(mount_error("unmount", &target, &error)),
            _ => {}
        }
        self.release(&key)
    }
}

fn is_gone(error: &rrun_sys::Error) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOENT]
        .iter()
        .any(|gone| gone.raw_os_error() == error.errno().0)
}

/// The key of a mount's record.
fn key_of(target: &Path) -> String {
    let digest = Digest::of(target.as_os_str().as_encoded_bytes());
    format!("mount-{}", &digest.hex()[..32])
}

fn mount_error(verb: &'static str, target: &Path, error: &rrun_sys::Error) -> Error {
    Error::File {
        verb,
        path: target.to_owned(),
        source: std::io::Error::other(error.to_string()),
    }
}

fn mount_layers(rootfs: &OverlayRootfs, target: &Path) -> Result<()> {
    // Overlayfs wants two layers at least: the empty writable one is the topmost.
    let layers: Vec<PathBuf> = [&rootfs.upper]
        .into_iter()
        .chain(&rootfs.lower)
        .cloned()
        .collect();
    let open = |path: &Path| -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).at("open", path)
    };
    let layers: Vec<OwnedFd> = layers
        .iter()
        .map(|path| open(path))
        .collect::<Result<_>>()?;
    let names: Vec<String> = layers
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    let failed = |error| mount_error("mount an image on", target, &error);
    // Layer by layer since 6.5; before that all in one value.
    let tree = match overlay(&names, rootfs.user_xattr, true) {
        Ok(tree) => tree,
        Err(_) if names.join(":").len() <= VALUE_LIMIT => {
            overlay(&names, rootfs.user_xattr, false).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let target_fd = open(target)?;
    attach(tree.as_fd(), target_fd.as_fd()).map_err(failed)
}

fn overlay(layers: &[String], user_xattr: bool, each: bool) -> rrun_sys::Result<OwnedFd> {
    let context = FsContext::open("overlay")?;
    context.set("source", "overlay")?;
    if each {
        for layer in layers {
            context.set("lowerdir+", layer)?;
        }
    } else {
        context.set("lowerdir", &layers.join(":"))?;
    }
    if user_xattr {
        context.flag("userxattr")?;
    }
    context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV)
}

/// What a container did to a path of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there before.
    Changed,
    /// It is gone.
    Deleted,
}

/// A path that a container changed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// From the root of the container, without the leading slash. Bytes that are not UTF-8 are
    /// shown as U+FFFD.
    pub path: String,
}

impl Store {
    /// What was written on a rootfs prepared by [`Store::rootfs`], sorted by path.
    pub fn diff(&self, key: &str) -> Result<Vec<Change>> {
        let rootfs = self
            .find_rootfs(key)?
            .ok_or_else(|| Error::document(format!("rootfs {key:?}"), NO_SUCH_KEY))?;
        let mut changes = Vec::new();
        walk(&rootfs, Path::new(""), &mut changes)?;
        changes.sort_by(|a: &Change, b| a.path.cmp(&b.path));
        Ok(changes)
    }
}

fn walk(rootfs: &OverlayRootfs, at: &Path, changes: &mut Vec<Change>) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let dir = rootfs.upper.join(at);
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let entry = entry.at("list", &dir)?;
        let name = entry.file_name();
        let (path, full) = (at.join(&name), entry.path());
        if fuse::MARKS.iter().any(|mark| name == *mark) {
            continue;
        }
        // How fuse-overlayfs says it where it may make no devices. No layer can hold such a name.
        if let Some(hidden) = name.as_encoded_bytes().strip_prefix(b".wh.") {
            let hidden = at.join(OsStr::from_bytes(hidden));
            changes.push(Change {
                kind: ChangeKind::Deleted,
                path: hidden.to_string_lossy().into_owned(),
            });
            continue;
        }
        let meta = fs::symlink_metadata(&full).at("stat", &full)?;
        let kind = if meta.file_type().is_char_device() && meta.rdev() == 0 {
            ChangeKind::Deleted
        } else if is_below(rootfs, &path) {
            ChangeKind::Changed
        } else {
            ChangeKind::Added
        };
        changes.push(Change {
            kind,
            path: path.to_string_lossy().into_owned(),
        });
        if meta.is_dir() {
            walk(rootfs, &path, changes)?;
        }
    }
    Ok(())
}

/// Whether the layers have the path. Links of the image are not followed: the parents were
/// directories, else the container could not have written below them.
pub(super) fn is_below(rootfs: &OverlayRootfs, path: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    for lower in &rootfs.lower {
        for part in 1..=path.components().count() {
            let sub: PathBuf = path.components().take(part).collect();
            let whole = part == path.components().count();
            match fs::symlink_metadata(lower.join(&sub)) {
                Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == 0 => return false,
                Ok(_) if whole => return true,
                Ok(meta) if meta.is_dir() => {}
                _ => break,
            }
        }
    }
    false
}
