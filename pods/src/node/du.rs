//! What directories take on disk.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, statat};
use rustix::io::Errno;

/// Bytes allocated below a directory, as `du` counts them. What cannot be read, or goes while it
/// is read, counts nothing.
pub fn usage(dir: &Path) -> u64 {
    let mut linked = HashSet::new();
    let mut bytes = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(fd) = open(&path) else { continue };
        let Ok(entries) = Dir::read_from(&fd) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(meta) = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            bytes += allocated(&meta, &mut linked);
            if FileType::from_raw_mode(meta.st_mode) == FileType::Directory {
                todo.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    bytes
}

/// Bytes of a file, once however often it is linked.
fn allocated(meta: &Stat, linked: &mut HashSet<(u64, u64)>) -> u64 {
    let directory = FileType::from_raw_mode(meta.st_mode) == FileType::Directory;
    if meta.st_nlink > 1 && !directory && !linked.insert((meta.st_dev, meta.st_ino)) {
        return 0;
    }
    u64::try_from(meta.st_blocks).unwrap_or(0) * 512
}

/// Reading is not noted in the directory, which would be a write.
fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let plain = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, plain | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::open(path, plain, Mode::empty()),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("a"), vec![1; 100_000]).unwrap();
        let one = usage(dir.path());
        assert!((100_000..200_000).contains(&one), "{one}");
        std::fs::hard_link(inner.join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("c")).unwrap();
        assert_eq!(usage(dir.path()), one);
        assert_eq!(usage(&dir.path().join("gone")), 0);
    }
}
