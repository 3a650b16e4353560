//! Files that are whole or not there, and what `du` would say of a tree.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FileContext;
use crate::identity::Privilege;
use crate::{Result, Usage};

/// A name that no other process or thread uses.
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    format!(
        "{}-{nanos:x}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Replaces a file so that a reader sees the old or the new content, also after a power cut.
pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = write_temp(path, bytes, true)?;
    fs::rename(&temp, path).at("rename to", path)?;
    sync_dir(path.parent().expect("a file of the store has a directory"))
}

/// The same without the promise for a power cut.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = write_temp(path, bytes, false)?;
    fs::rename(&temp, path).at("rename to", path)
}

/// The same as [`write_durable`] for what only the owner may read. A link is followed, as other
/// tools do with the files that people keep elsewhere.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let temp = write_temp(&target, &[], false)?;
    let written = fs::set_permissions(&temp, fs::Permissions::from_mode(0o600))
        .and_then(|()| File::options().write(true).open(&temp))
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temp, &target));
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written.at("write", &target)?;
    sync_dir(target.parent().expect("a file has a directory"))
}

fn write_temp(path: &Path, bytes: &[u8], sync: bool) -> Result<PathBuf> {
    let name = path
        .file_name()
        .expect("a file of the store has a name")
        .to_string_lossy();
    let temp = path.with_file_name(format!(".{name}.{}", unique_name()));
    let mut file = File::create_new(&temp).at("create", &temp)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written.at("write", &temp)?;
    Ok(temp)
}

/// A directory that only its owner may enter, made where it is not there. One of somebody else
/// is left as it is: what is below has its own protection or is not ours to write.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => return other.at("create", path),
    }
    let meta = fs::metadata(path).at("stat", path)?;
    let user = rustix::process::geteuid();
    if meta.mode() & 0o077 != 0
        && (meta.uid() == user.as_raw() || Privilege::now() == Privilege::Root)
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("chmod", path)?;
    }
    Ok(())
}

/// Tells the file system that what is made in this directory has nothing to do with each other (the
/// flag T of chattr). ext4 then puts each tree into block groups of its own, and those that write
/// trees side by side do not wait for each other there. A hint: where it is not taken, nothing is lost.
pub(crate) fn spread_directories(path: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let Ok(dir) = File::open(path) else { return };
    if let Ok(flags) = ioctl_getflags(&dir)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .at("sync", path)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(crate::Error::document(
            path.display().to_string(),
            format!("longer than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// A directory that goes with all below it when this is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).at("create", &path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            tracing::warn!("{}: left behind: {error}", self.0.display());
        }
    }
}

/// Removes a file, or a directory with all below it. What is not there is not an error.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

/// A layer may hold directories that their owner cannot enter: open them first where needed.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_directories(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

/// Space and inodes of a tree, each inode once. Names that vanish meanwhile are left out.
pub(crate) fn tree_usage(path: &Path) -> Result<Usage> {
    let mut seen = std::collections::HashSet::new();
    let mut usage = Usage::default();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.at("stat", &path)?,
        };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino()) {
            continue;
        }
        usage.bytes += meta.blocks() * 512;
        usage.inodes += 1;
        if meta.is_dir() {
            for entry in fs::read_dir(&path).at("list", &path)? {
                pending.push(entry.at("list", &path)?.path());
            }
        }
    }
    Ok(usage)
}
