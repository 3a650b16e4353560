//! The end of a layer: what needs the layers below, directories' attributes, and the disk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, fchmod, fchown, fgetxattr,
    flistxattr, fsetxattr, fstat, futimens, linkat, openat, openat2, statat,
};
use rustix::io::Errno;

use super::Mode as UnpackMode;
use super::dirs::Dirs;
use super::entry::Refused;
use super::path::{Components, join};
use super::write::{Directory, PendingLink, Unfinished, times};

/// Threads that wait for the disk. They use no CPU: more of them let the file system commit
/// many files at once.
const SYNC_THREADS: usize = 8;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Finishes a layer in `root`. `lower` are the trees below, the topmost first.
pub(super) fn finish(
    root: OwnedFd,
    left: Unfinished,
    lower: &[PathBuf],
    mode: UnpackMode,
) -> Result<(), Refused> {
    let io = |error: io::Error| Refused::new(b"", format!("finish the layer: {error}"));
    let lower: Vec<OwnedFd> = lower
        .iter()
        .map(|path| open_root(path))
        .collect::<Result<_, _>>()
        .map_err(io)?;
    let mut dirs = Dirs::new(root.try_clone().map_err(io)?);
    let mut targets = Dirs::new(root);
    for link in &left.links {
        pending_link(&mut dirs, &mut targets, link, &lower)
            .map_err(|why| Refused::new(&link.entry, why))?;
    }
    let mut directories = left.directories;
    // Most archives do not name the root.
    directories
        .entry(Components::new())
        .or_insert(Directory::Implied);
    let mut directories: Vec<(Components, Directory)> = directories.into_iter().collect();
    // Children first: a parent's mode may close the way to them.
    directories.sort_by(|a, b| b.0.cmp(&a.0));
    for (path, directory) in &directories {
        set_directory(&mut dirs, path, directory, &lower, mode)
            .map_err(|error| Refused::new(&join(path), format!("set its attributes: {error}")))?;
    }
    Ok(())
}

/// How trees of lower layers are looked into.
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

fn set_directory(
    dirs: &mut Dirs,
    path: &Components,
    directory: &Directory,
    lower: &[OwnedFd],
    mode: UnpackMode,
) -> io::Result<()> {
    let fd = dirs.open(path)?;
    match directory {
        Directory::Given { mode: bits, mtime } => {
            // A rootless owner must be able to remove the layer again.
            let bits = if mode.owners { *bits } else { *bits | 0o700 };
            fchmod(fd, Mode::from_raw_mode(bits))?;
            futimens(fd, &times(*mtime))?;
        }
        Directory::Implied => {
            let below = lower.iter().find_map(|root| directory_below(root, path));
            match below {
                Some(below) => copy_directory(&below, fd, mode)?,
                // Nobody says when it was made: the same on every machine.
                None => futimens(fd, &times((0, 0)))?,
            }
        }
    }
    Ok(())
}

/// The directory that an implied one would otherwise hide. A whiteout ends the search, since
/// what is under it is hidden.
fn directory_below(root: &OwnedFd, path: &Components) -> Option<OwnedFd> {
    openat2(root, join(path).as_slice(), DIRECTORY, Mode::empty(), BELOW).ok()
}

fn copy_directory(from: &OwnedFd, to: impl AsFd + Copy, mode: UnpackMode) -> io::Result<()> {
    let stat = fstat(from)?;
    if mode.owners {
        fchown(
            to,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
        )?;
    }
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, to)?;
    futimens(
        to,
        &times((stat.st_mtime as i64, stat.st_mtime_nsec as u32)),
    )?;
    Ok(())
}

fn copy_xattrs(from: &OwnedFd, to: impl AsFd + Copy) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
    {
        if name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.")
            || name == b"security.selinux"
        {
            continue;
        }
        let length = fgetxattr(from, name, &mut value)?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A link to an entry that came later, or to a file of a layer below, which is copied up as
/// overlayfs itself would.
fn pending_link(
    dirs: &mut Dirs,
    targets: &mut Dirs,
    link: &PendingLink,
    lower: &[OwnedFd],
) -> Result<(), String> {
    let (target_name, target_dir) = link
        .target
        .split_last()
        .expect("an empty target was refused");
    let (name, dir) = link.path.split_last().expect("the root was refused");
    let to = dirs
        .open(dir)
        .map_err(|error| format!("open its directory: {error}"))?;
    if let Ok(from) = targets.open(target_dir) {
        match linkat(
            from,
            target_name.as_slice(),
            to,
            name.as_slice(),
            AtFlags::empty(),
        ) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(format!("link it: {}", io::Error::from(errno))),
        }
    }
    let path = join(&link.target);
    for root in lower {
        match openat2(
            root,
            path.as_slice(),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            BELOW,
        ) {
            Ok(file) => {
                return copy_up(&file, to, name)
                    .map_err(|error| format!("copy its target up: {error}"));
            }
            Err(Errno::NOENT | Errno::NOTDIR) if !hidden(root, &link.target) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NXIO) => break,
            Err(errno) => return Err(format!("open its target: {}", io::Error::from(errno))),
        }
    }
    Err("its hard link target is not in the image".into())
}

/// True where a whiteout of this layer hides the path, or a part of it, from those below.
fn hidden(root: &OwnedFd, path: &Components) -> bool {
    (1..=path.len()).any(|n| {
        let (name, dir) = path[..n].split_last().expect("n is at least 1");
        let dir = join(dir);
        let dir = if dir.is_empty() { b".".to_vec() } else { dir };
        openat2(root, dir.as_slice(), DIRECTORY, Mode::empty(), BELOW)
            .and_then(|dir| statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW))
            .is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                    && stat.st_rdev == 0
            })
    })
}

fn copy_up(from: &OwnedFd, dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let stat = fstat(from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    io::copy(&mut std::fs::File::from(from.try_clone()?), &mut file)?;
    fchown(
        &file,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, &file)?;
    futimens(
        &file,
        &times((stat.st_mtime as i64, stat.st_mtime_nsec as u32)),
    )?;
    file.sync_all()
}

/// Waits until every directory of a tree is on the disk, and counts what is in it. The files
/// have been synced where they were written.
pub(super) fn sync_directories(path: &Path) -> io::Result<crate::Usage> {
    let mut directories = vec![path.to_owned()];
    let mut seen = std::collections::HashSet::new();
    let mut usage = crate::Usage::default();
    let mut at = 0;
    while at < directories.len() {
        let fd = open_root(&directories[at])?;
        let mut entries = rustix::fs::Dir::read_from(&fd)?;
        usage.inodes += 1;
        usage.bytes += fstat(&fd)?.st_blocks as u64 * 512;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(child(&directories[at], name));
                continue;
            }
            if stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
                continue;
            }
            usage.inodes += 1;
            usage.bytes += stat.st_blocks as u64 * 512;
        }
        at += 1;
    }
    sync_all(&directories)?;
    Ok(usage)
}

fn child(dir: &Path, name: &std::ffi::CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    dir.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

fn sync_all(directories: &[PathBuf]) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some(dir) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            rustix::fs::fsync(open_root(dir)?)?;
        }
        Ok(())
    };
    let threads = SYNC_THREADS.min(directories.len() / 8 + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })
}
