//! What a directory takes on disk.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, statat};
use rustix::io::Errno;

/// Bytes allocated and inodes, as `du` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

/// Usage of a directory; one that is gone, or goes while it is read, takes nothing.
pub fn usage(dir: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let Some(meta) = found(rustix::fs::lstat(dir)).with_context(|| at("stat", dir))? else {
        return Ok(usage);
    };
    count(&mut usage, &mut linked, &meta);
    let mut todo: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Some(fd) = found(open(&path)).with_context(|| at("open", &path))? else {
            continue;
        };
        for entry in Dir::read_from(&fd).with_context(|| at("list", &path))? {
            let entry = entry.with_context(|| at("list", &path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let meta = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW);
            let Some(meta) = found(meta).with_context(|| at("stat in", &path))? else {
                continue;
            };
            count(&mut usage, &mut linked, &meta);
            if FileType::from_raw_mode(meta.st_mode) == FileType::Directory {
                todo.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(usage)
}

/// Opens a directory so that reading it is not noted in it: a look once in twenty seconds would be a
/// write for each directory that is new, or that was read a day ago (mount(8), relatime).
fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let plain = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, plain | OFlags::NOATIME, Mode::empty()) {
        // Of another user, for a process without CAP_FOWNER.
        Err(Errno::PERM) => rustix::fs::open(path, plain, Mode::empty()),
        opened => opened,
    }
}

fn count(usage: &mut Usage, linked: &mut HashSet<(u64, u64)>, meta: &Stat) {
    let directory = FileType::from_raw_mode(meta.st_mode) == FileType::Directory;
    if meta.st_nlink > 1 && !directory && !linked.insert((meta.st_dev, meta.st_ino)) {
        return;
    }
    usage.bytes += u64::try_from(meta.st_blocks).unwrap_or(0) * 512;
    usage.inodes += 1;
}

/// Nothing where it went meanwhile, or another kind of file took its place.
fn found<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        other => other.map(Some),
    }
}

fn at(what: &str, path: &Path) -> String {
    format!("{what} {}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn reading_leaves_no_time_of_access_to_write() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        let inner = dir.path().join("inner");
        fs::write(inner.join("a"), b"x").unwrap();
        symlink("/", inner.join("out")).unwrap();
        // Older than its last change, which is when relatime would note a reading.
        let old = SystemTime::now() - Duration::from_hours(48);
        let times = fs::FileTimes::new().set_accessed(old);
        fs::File::open(&inner).unwrap().set_times(times).unwrap();
        let before = fs::metadata(&inner).unwrap();
        assert_eq!(usage(dir.path()).unwrap().inodes, 4);
        let after = fs::metadata(&inner).unwrap();
        assert_eq!(
            (after.atime(), after.atime_nsec()),
            (before.atime(), before.atime_nsec())
        );
    }

    #[test]
    fn hard_links_count_once_and_a_missing_directory_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 10_000]).unwrap();
        let one = usage(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), one);
        assert_eq!(one.inodes, 2);
        assert!(one.bytes >= 10_000);
        assert_eq!(usage(&dir.path().join("gone")).unwrap(), Usage::default());
    }
}
