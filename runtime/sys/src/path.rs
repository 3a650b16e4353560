//! Paths resolved below a root descriptor (openat2 with RESOLVE_IN_ROOT, kernel 5.6).
//!
//! Whoever controls a root file system also controls its symbolic links and can
//! exchange directories while it is walked (CVE-2021-30465, CVE-2019-19921):
//! nothing here resolves a string twice.

use crate::error::Call;
use crate::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS: `path` as a process
/// whose root directory is `root` would see it.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, resolve)
}

/// openat2 that stays on the mount of `dir` and follows no symbolic link: for
/// files of a procfs or cgroupfs held by descriptor.
pub fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: i32) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, flags, resolve)
}

fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: i32, how: ResolveFlags) -> Result<OwnedFd> {
    let oflags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
    // EAGAIN means that something was renamed meanwhile; the kernel asks to try again.
    for _ in 0..128 {
        match rustix::fs::openat2(dir, path, oflags, Mode::empty(), how) {
            Err(rustix::io::Errno::AGAIN) => {}
            result => return result.call("openat2", format_args!("{}", path.display())),
        }
    }
    Err(Error::new(
        "openat2",
        format_args!("{}", path.display()),
        crate::Errno(libc::EAGAIN),
    ))
}

/// Opens `path` from the working directory with `flags | O_CLOEXEC`.
pub fn open(path: &Path, flags: i32) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .call("open", format_args!("{}", path.display()))
}

/// Opens `name` below `dir` with `flags | O_CLOEXEC`.
pub fn open_at(dir: BorrowedFd<'_>, name: &Path, flags: i32) -> Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .call("openat", format_args!("{}", name.display()))
}

/// What a path should be when it has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// A directory.
    Dir,
    /// An empty file.
    File,
}

/// Opens `path` below `root` with O_PATH, making what is missing: directories
/// with mode 0755 and, with [`Make::File`], an empty file at the end.
///
/// Symbolic links are followed inside the root; of one that dangles the target
/// is made, also inside.
pub fn make_in_root(root: BorrowedFd<'_>, path: &Path, make: Make) -> Result<OwnedFd> {
    find_or_make(root, path, make).map(|(fd, _)| fd)
}

/// [`make_in_root`]; tells as well whether it was there before.
pub fn find_or_make(root: BorrowedFd<'_>, path: &Path, make: Make) -> Result<(OwnedFd, bool)> {
    const MAX_LINKS: u32 = 40;
    match open_in_root(root, path, libc::O_PATH) {
        Err(e) if e.is(libc::ENOENT) => {}
        result => return Ok((result?, true)),
    }
    let mut names = components(path);
    for _ in 0..MAX_LINKS {
        match make_names(root, &names, make)? {
            Made::Done(fd) => return Ok((fd, false)),
            Made::Dangling(target) => names = target,
        }
    }
    Err(Error::new(
        "openat2",
        format_args!("{}", path.display()),
        crate::Errno(libc::ELOOP),
    ))
}

enum Made {
    Done(OwnedFd),
    /// A dangling link is on the way: the path with its target in its place.
    Dangling(Vec<OsString>),
}

fn make_names(root: BorrowedFd<'_>, names: &[OsString], make: Make) -> Result<Made> {
    let mut found = names.len();
    // The longest part that exists, so that a chain of links resolves as a whole.
    let mut dir = loop {
        found = found.saturating_sub(1);
        let prefix: PathBuf = std::iter::once(OsStr::new("/"))
            .chain(names[..found].iter().map(|n| &**n))
            .collect();
        match open_in_root(root, &prefix, libc::O_PATH | libc::O_DIRECTORY) {
            Ok(dir) => break dir,
            Err(e) if e.is(libc::ENOENT) && found > 0 => {}
            Err(e) => return Err(e),
        }
    };
    for (index, name) in names.iter().enumerate().skip(found) {
        let file = index + 1 == names.len() && make == Make::File;
        let made = if file {
            make_file(dir.as_fd(), name)?
        } else {
            make_dir(dir.as_fd(), name)?
        };
        if let Some(fd) = made {
            dir = fd;
            continue;
        }
        if index == found
            && let Ok(target) = read_link_at(dir.as_fd(), Path::new(name))
        {
            return Ok(Made::Dangling(replaced(names, index, &target)));
        }
        // Somebody else was faster. What they may have linked here is not followed.
        let kind = if file { 0 } else { libc::O_DIRECTORY };
        let flags = libc::O_PATH | libc::O_NOFOLLOW | kind;
        dir = open_at(dir.as_fd(), Path::new(name), flags)?;
    }
    Ok(Made::Done(dir))
}

/// `names` with the link at `index` replaced by its target.
fn replaced(names: &[OsString], index: usize, target: &Path) -> Vec<OsString> {
    let base = if target.is_absolute() {
        &[][..]
    } else {
        &names[..index]
    };
    let path: PathBuf = base.iter().map(Path::new).chain([target]).collect();
    let rest = names[index + 1..].iter().cloned();
    components(&path).into_iter().chain(rest).collect()
}

/// The names of `path`; ".." takes back the name before it.
fn components(path: &Path) -> Vec<OsString> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// Makes a directory; `None` when something is there already.
fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(None),
        Err(e) => return Err(e).call("mkdirat", format_args!("{}", name.display())),
    }
    // If somebody put a link here meanwhile this fails with ELOOP or ENOTDIR.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map(Some)
        .call("openat", format_args!("{}", name.display()))
}

/// Opens `name` below `dir` with O_PATH, making an empty file where there is
/// nothing. A symbolic link is opened itself, not followed.
pub fn make_file_at(dir: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd> {
    match make_file(dir, name.as_os_str())? {
        Some(fd) => Ok(fd),
        None => open_at(dir, name, libc::O_PATH | libc::O_NOFOLLOW),
    }
}

/// Makes an empty file; `None` when something is there already.
fn make_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::EXIST) => Ok(None),
        Err(e) => Err(e).call("openat", format_args!("{}, O_CREAT", name.display())),
    }
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Dir,
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket and what else there may be.
    Other,
}

/// The part of stat(2) that this project looks at.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Kind of file.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device the file is on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Device number, if it is a device.
    pub rdev: u64,
}

/// fstat(2); works on O_PATH descriptors.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    rustix::fs::fstat(fd)
        .map(|st| Stat::new(&st))
        .call("fstat", format_args!("fd"))
}

/// fstatat(2) of `name` below `dir`, of a symbolic link itself.
pub fn stat_at(dir: BorrowedFd<'_>, name: &Path) -> Result<Stat> {
    rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map(|st| Stat::new(&st))
        .call("fstatat", format_args!("{}", name.display()))
}

impl Stat {
    fn new(st: &rustix::fs::Stat) -> Self {
        let kind = match FileType::from_raw_mode(st.st_mode) {
            FileType::Directory => Kind::Dir,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Other,
        };
        Self {
            kind,
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            dev: st.st_dev,
            ino: st.st_ino,
            rdev: st.st_rdev,
        }
    }
}

/// Magic number of the file system that `fd` is on (statfs(2)).
pub fn fs_magic(fd: BorrowedFd<'_>) -> Result<i64> {
    rustix::fs::fstatfs(fd)
        .map(|s| s.f_type)
        .call("fstatfs", format_args!("fd"))
}

/// The device number of `major`:`minor`.
pub fn makedev(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// mknodat(2): `kind` is one of `libc::S_IFCHR`, `S_IFBLK`, `S_IFIFO`. The umask
/// applies.
pub fn mknod(dir: BorrowedFd<'_>, name: &Path, kind: u32, mode: u32, dev: u64) -> Result<()> {
    rustix::fs::mknodat(
        dir,
        name,
        FileType::from_raw_mode(kind),
        Mode::from_raw_mode(mode),
        dev,
    )
    .call("mknodat", format_args!("{}", name.display()))
}

/// symlinkat(2).
pub fn symlink(target: &Path, dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    rustix::fs::symlinkat(target, dir, name).call(
        "symlinkat",
        format_args!("{} -> {}", name.display(), target.display()),
    )
}

/// fchownat(2) of a name, symbolic links not followed.
pub fn chown_at(dir: BorrowedFd<'_>, name: &Path, uid: u32, gid: u32) -> Result<()> {
    rustix::fs::chownat(
        dir,
        name,
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .call("fchownat", format_args!("{}, {uid}:{gid}", name.display()))
}

/// fchmodat(2) of a name that was just made.
pub fn chmod_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
    rustix::fs::chmodat(
        dir,
        name,
        Mode::from_raw_mode(mode),
        rustix::fs::AtFlags::empty(),
    )
    .call("fchmodat", format_args!("{}, {mode:o}", name.display()))
}

/// mkdirat(2).
pub fn mkdir_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))
        .call("mkdirat", format_args!("{}", name.display()))
}

/// unlinkat(2) of a file.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty())
        .call("unlinkat", format_args!("{}", name.display()))
}

/// readlinkat(2).
pub fn read_link_at(dir: BorrowedFd<'_>, name: &Path) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = rustix::fs::readlinkat(dir, name, Vec::new())
        .call("readlinkat", format_args!("{}", name.display()))?
        .into_bytes();
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

/// mkfifo(3) with exactly `mode`, whatever the umask.
pub fn mkfifo(path: &Path, mode: u32) -> Result<()> {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        FileType::Fifo,
        Mode::from_raw_mode(mode),
        0,
    )
    .call("mknod", format_args!("{}, S_IFIFO", path.display()))?;
    // The umask took bits of it: a user namespace's root is anybody here, and has to open it.
    rustix::fs::chmodat(
        rustix::fs::CWD,
        path,
        Mode::from_raw_mode(mode),
        rustix::fs::AtFlags::empty(),
    )
    .call("chmod", format_args!("{}, {mode:o}", path.display()))
}

/// fchdir(2).
pub fn chdir_fd(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(dir).call("fchdir", format_args!("fd"))
}

/// getcwd(2), raw: fails with ENOENT, or does not start with "/", when the
/// working directory is outside of the root (CVE-2024-21626).
pub fn cwd_is_inside_root() -> bool {
    rustix::process::getcwd(Vec::new()).is_ok_and(|p| p.as_bytes().starts_with(b"/"))
}

pub use libc::{
    EBUSY, EEXIST, EINVAL, ENOENT, ENOSYS, ENOTDIR, EPERM, EROFS, O_DIRECTORY, O_NOCTTY,
    O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, S_IFBLK, S_IFCHR,
};

/// statfs(2) magic of procfs.
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// statfs(2) magic of devpts.
pub const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// statfs(2) magic of cgroup v2.
pub const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The working directory, for functions that take a directory (AT_FDCWD).
pub fn cwd() -> BorrowedFd<'static> {
    rustix::fs::CWD
}

/// Opens directory `path` below `root`, refusing every symbolic link on the way.
pub fn open_plain_in_root(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, libc::O_PATH | libc::O_DIRECTORY, how)
}

/// Opens a file of `proc` (a procfs held by descriptor) below the links "self"
/// or "thread-self", which are links that procfs itself makes.
pub fn open_proc_self(proc: BorrowedFd<'_>, path: &Path, flags: i32) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(proc, path, flags, how)
}

/// Creates file `name` (O_EXCL) below `dir`, open for writing.
pub fn create_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
        .call("openat", format_args!("{}, O_CREAT", name.display()))
}

/// The names in a directory (any descriptor of it), "." and ".." left out.
pub fn list(dir: BorrowedFd<'_>) -> Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let entries = rustix::fs::Dir::read_from(open_at(dir, Path::new("."), libc::O_DIRECTORY)?)
        .call("getdents64", format_args!("directory"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.call("getdents64", format_args!("directory"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// fchown(2); `None` leaves an id as it is.
pub fn chown_fd(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::fchown(
        fd,
        uid.map(rustix::fs::Uid::from_raw),
        gid.map(rustix::fs::Gid::from_raw),
    )
    .call("fchown", format_args!("fd, {uid:?}, {gid:?}"))
}

/// Whether the caller may execute `path` (faccessat2(2), X_OK, effective ids). Where a seccomp filter
/// does not let it ask, which is older than that call (Linux 5.8), whether anybody may.
pub fn may_execute(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    use rustix::io::Errno;
    use std::os::unix::fs::PermissionsExt;
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::PERM | Errno::NOSYS) => {
            std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
        }
        result => result.is_ok(),
    }
}

/// chroot(2) to the working directory.
pub fn chroot_here() -> Result<()> {
    nix::unistd::chroot(c".").call("chroot", format_args!("."))
}
