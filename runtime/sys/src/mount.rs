//! The mount API by descriptors: fsopen, fsmount, open_tree, move_mount, mount_setattr (kernel
//! 5.2, 5.12), pivot_root.

use crate::error::Call;
use crate::fd::Used;
use crate::{Error, Result};
use rustix::mount as rm;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `MOUNT_ATTR_*` of mount_setattr(2), as a mask.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// No set-user-id programs.
    pub const NOSUID: u64 = 0x2;
    /// No device nodes.
    pub const NODEV: u64 = 0x4;
    /// No execution.
    pub const NOEXEC: u64 = 0x8;
    /// The mask of the access time modes; RELATIME is zero.
    pub const ATIME: u64 = 0x70;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed (5.14).
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// Ids are mapped by a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// User namespace for [`attr::IDMAP`].
    pub userns_fd: u64,
}

impl MountAttr {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// A file system being configured.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    kind: String,
}

impl FsContext {
    /// fsopen(2) of file system type `kind`.
    pub fn open(kind: &str) -> Result<Self> {
        let fd = rm::fsopen(kind, rm::FsOpenFlags::FSOPEN_CLOEXEC)
            .call("fsopen", format_args!("{kind}"))?;
        Ok(Self {
            fd,
            kind: kind.to_owned(),
        })
    }

    /// fspick(2): the file system whose mount `mount` is the root of, to be reconfigured.
    pub fn pick(mount: BorrowedFd<'_>) -> Result<Self> {
        let flags = rm::FsPickFlags::FSPICK_CLOEXEC | rm::FsPickFlags::FSPICK_EMPTY_PATH;
        let fd = rm::fspick(mount, c"", flags).call("fspick", format_args!("a mount"))?;
        Ok(Self {
            fd,
            kind: "remount".to_owned(),
        })
    }

    /// Gives a picked file system the options that were set.
    pub fn reconfigure(&self) -> Result<()> {
        rm::fsconfig_reconfigure(self.fd.as_fd())
            .call("fsconfig", format_args!("{}, reconfigure", self.kind))
            .map_err(|e| self.explain(e))
    }

    /// Sets `key` to `value`.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        rm::fsconfig_set_string(self.fd.as_fd(), key, value)
            .call("fsconfig", format_args!("{}, {key}={value}", self.kind))
            .map_err(|e| self.explain(e))
    }

    /// Sets `key` to the object behind `fd`.
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<()> {
        rm::fsconfig_set_fd(self.fd.as_fd(), key, fd)
            .call("fsconfig", format_args!("{}, {key}=fd", self.kind))
            .map_err(|e| self.explain(e))
    }

    /// Sets the flag `key`.
    pub fn flag(&self, key: &str) -> Result<()> {
        rm::fsconfig_set_flag(self.fd.as_fd(), key)
            .call("fsconfig", format_args!("{}, {key}", self.kind))
            .map_err(|e| self.explain(e))
    }

    /// Makes the superblock and a detached mount of it with `attrs` (`attr::*`).
    pub fn mount(self, attrs: u64) -> Result<OwnedFd> {
        self.make(attrs)
    }

    /// [`Self::mount`], with the context given to `used`.
    pub fn mount_using(self, attrs: u64, used: &mut Used) -> Result<OwnedFd> {
        let tree = self.make(attrs);
        used.put(self.fd);
        tree
    }

    fn make(&self, attrs: u64) -> Result<OwnedFd> {
        rm::fsconfig_create(self.fd.as_fd())
            .call("fsconfig", format_args!("{}, create", self.kind))
            .map_err(|e| self.explain(e))?;
        rm::fsmount(
            self.fd.as_fd(),
            rm::FsMountFlags::FSMOUNT_CLOEXEC,
            rm::MountAttrFlags::from_bits_retain(attrs as u32),
        )
        .call("fsmount", format_args!("{}, {attrs:#x}", self.kind))
        .map_err(|e| self.explain(e))
    }

    /// What the kernel wrote into the context's log, added to the error.
    fn explain(&self, error: Error) -> Error {
        let mut note = String::new();
        let mut line = [0u8; 512];
        while let Ok(n) = rustix::io::read(&self.fd, &mut line) {
            let text = String::from_utf8_lossy(&line[..n]);
            // Lines start with their kind: "e ", "w " or "i ".
            let text = text.trim_end().get(2..).unwrap_or_default().to_owned();
            if !note.is_empty() {
                note.push_str("; ");
            }
            note.push_str(&text);
        }
        error.with_note(&note)
    }
}

/// A detached copy of the mount that `path` below `dir` is on (open_tree(2) with
/// OPEN_TREE_CLONE), with what is mounted below it when `recursive`.
/// `follow` follows a symbolic link at the end.
pub fn clone_tree(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    follow: bool,
) -> Result<OwnedFd> {
    let mut flags = rm::OpenTreeFlags::OPEN_TREE_CLONE | rm::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(rm::OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(rm::OpenTreeFlags::AT_SYMLINK_NOFOLLOW, !follow);
    flags.set(rm::OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    rm::open_tree(dir, path, flags).call("open_tree", format_args!("{path:?}, clone"))
}

/// [`clone_tree`] of what `dir` is opened on, with attributes: one call since 6.15
/// (open_tree_attr(2)), two before.
pub fn clone_tree_with(dir: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<OwnedFd> {
    /// The same on every architecture.
    const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
    let recursion = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::OPEN_TREE_CLONE as i32 | libc::OPEN_TREE_CLOEXEC as i32;
    // SAFETY: an empty C string, and a live struct mount_attr of the size given.
    let fd = unsafe {
        libc::syscall(
            SYS_OPEN_TREE_ATTR,
            dir.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH | recursion,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if fd >= 0 {
        // SAFETY: a new descriptor that nobody else owns.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    }
    // Whatever it was, the older calls say it too.
    let tree = clone_tree(dir, c"", recursive, false)?;
    set_attr(tree.as_fd(), recursive, attr)?;
    Ok(tree)
}

/// Attaches the detached mount `tree` onto `target` (any descriptor, O_PATH included).
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags =
        rm::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | rm::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rm::move_mount(tree, c"", target, c"", flags).call("move_mount", format_args!("fd to fd"))
}

/// Attaches the detached mount `tree` onto `name` below `dir`, a single name. A symbolic
/// link there is not followed; what is put there meanwhile is mounted over or refused.
pub fn attach_at(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
    let flags = rm::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rm::move_mount(tree, c"", dir, name, flags)
        .call("move_mount", format_args!("fd to {}", name.display()))
}

/// mount_setattr(2) on the mount of `fd`, and those below it when `recursive`.
pub fn set_attr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    set(fd, c"", libc::AT_EMPTY_PATH, recursive, attr)
}

/// [`set_attr`] by path, whose symbolic links are followed.
pub fn set_attr_at(path: &CStr, recursive: bool, attr: &MountAttr) -> Result<()> {
    set(rustix::fs::CWD, path, 0, recursive, attr)
}

fn set(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    recursive: bool,
    attr: &MountAttr,
) -> Result<()> {
    let flags = flags | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and `attr` a live struct mount_attr of the size given;
    // the kernel only reads both.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if ret != 0 {
        return Err(Error::last(
            "mount_setattr",
            format_args!(
                "set {:#x}, clear {:#x}, propagation {:#x}{}",
                attr.set,
                attr.clear,
                attr.propagation,
                if recursive { ", recursive" } else { "" }
            ),
        ));
    }
    Ok(())
}

/// Makes the current directory the root mount, and detaches the old root.
///
/// With "." for both, the old root ends up mounted over the new one and is at
/// "." for the umount2 that follows (pivot_root(2), NOTES).
///
/// `shared`: mounts of the old root may be peers of others', to which the unmounting must not travel.
pub fn pivot_root_here(shared: bool) -> Result<()> {
    let old = if shared {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let open = rustix::fs::open(c"/", flags, rustix::fs::Mode::empty());
        Some(open.call("open", format_args!("/"))?)
    } else {
        None
    };
    nix::unistd::pivot_root(c".", c".").call("pivot_root", format_args!(".\", \"."))?;
    if let Some(old) = old {
        let slave = MountAttr {
            propagation: libc::MS_SLAVE,
            ..MountAttr::default()
        };
        set_attr(old.as_fd(), true, &slave)?;
    }
    // The lookup of "." for umount2 climbs to the old root, stacked upon the new one.
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)
        .call("umount2", format_args!("old root, MNT_DETACH"))?;
    nix::unistd::chdir(c"/").call("chdir", format_args!("/"))
}

/// Detaches what is mounted at `path` (MNT_DETACH, symbolic links not followed).
pub fn detach(path: &Path) -> Result<()> {
    use nix::mount::MntFlags;
    nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .call("umount2", format_args!("{}, MNT_DETACH", path.display()))
}

/// Detaches the mount whose root `fd` is. `proc` is a procfs with the caller in it; the working
/// directory is left in it.
pub fn detach_fd(proc: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let own = c"thread-self/fd";
    let dir = rustix::fs::openat(proc, own, flags, rustix::fs::Mode::empty());
    rustix::process::fchdir(dir.call("open", format_args!("thread-self/fd"))?)
        .call("fchdir", format_args!("thread-self/fd"))?;
    let number = fd.as_raw_fd().to_string();
    // The link is the kernel's own, and leads to the mount itself.
    nix::mount::umount2(number.as_str(), nix::mount::MntFlags::MNT_DETACH)
        .call("umount2", format_args!("descriptor {number}, MNT_DETACH"))
}

/// Moves the mount of the current directory over "/" and makes it the root
/// (`--no-pivot`, for a root file system that is a ramfs).
pub fn move_root_here() -> Result<()> {
    nix::mount::mount(
        Some(c"."),
        c"/",
        None::<&CStr>,
        nix::mount::MsFlags::MS_MOVE,
        None::<&CStr>,
    )
    .call("mount", format_args!(".\", \"/\", MS_MOVE"))?;
    nix::unistd::chroot(c".").call("chroot", format_args!("."))?;
    nix::unistd::chdir(c"/").call("chdir", format_args!("/"))
}

/// mount(2) of file system `kind` on `target` with `options`, for options that
/// fsconfig(2) cannot carry.
pub fn mount_classic(source: &str, target: &Path, kind: &str, options: &str) -> Result<()> {
    nix::mount::mount(
        Some(source),
        target,
        Some(kind),
        nix::mount::MsFlags::empty(),
        Some(options),
    )
    .call(
        "mount",
        format_args!("{kind} on {}, {options}", target.display()),
    )
}

/// `struct mnt_id_req` of statmount(2), first version.
#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    mount_id: u64,
    param: u64,
}

/// `struct statmount` with room for one string.
#[repr(C)]
struct StatMount {
    size: u32,
    mount_options: u32,
    mask: u64,
    /// Up to `propagate_from`, which nobody asks for.
    other: [u64; 11],
    /// Where in `strings` the root is.
    root: u32,
    rest: [u8; 512 - 108],
    strings: [u8; libc::PATH_MAX as usize],
}

/// The directory of its file system at which the mount on `path` starts (mountinfo's fourth
/// field), from statmount(2) (6.8): a hundredth of what reading mountinfo takes. An error on
/// older kernels.
pub fn root_of(path: &Path) -> Result<String> {
    const MNT_ID_UNIQUE: u32 = 0x4000;
    const MNT_ROOT: u64 = 0x8;
    const SYS_STATMOUNT: i64 = 457;
    let args = format_args!("{}", path.display());
    let flags = rustix::fs::StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let found = rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), flags)
        .call("statx", args)?;
    if found.stx_mask & MNT_ID_UNIQUE == 0 {
        return Err(Error::new("statx", args, crate::Errno(libc::ENOSYS)));
    }
    let request = MountIdRequest {
        size: size_of::<MountIdRequest>() as u32,
        spare: 0,
        mount_id: found.stx_mnt_id,
        param: MNT_ROOT,
    };
    let mut answer = std::mem::MaybeUninit::<StatMount>::zeroed();
    // SAFETY: `request` says its own size and is only read; `answer` is valid for writes of the
    // size given.
    let ret = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            answer.as_mut_ptr(),
            size_of::<StatMount>(),
            0,
        )
    };
    if ret != 0 {
        return Err(Error::last("statmount", args));
    }
    // SAFETY: integers and bytes, of which every pattern is valid; zeroed before.
    let answer = unsafe { answer.assume_init() };
    let text = answer.strings.get(answer.root as usize..);
    let root = text.and_then(|t| CStr::from_bytes_until_nul(t).ok());
    match root.filter(|_| answer.mask & MNT_ROOT != 0) {
        Some(root) => Ok(root.to_string_lossy().into_owned()),
        None => Err(Error::new("statmount", args, crate::Errno(libc::EINVAL))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_mount_is_what_mountinfo_says() {
        let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        // Of mounts on one path the last is on top.
        let proc = info
            .lines()
            .rfind(|line| line.split(' ').nth(4) == Some("/proc"));
        let root = proc.and_then(|line| line.split(' ').nth(3)).unwrap();
        match root_of(Path::new("/proc")) {
            Ok(found) => assert_eq!(found, root),
            Err(e) => assert!(e.is(libc::ENOSYS), "{e}"),
        }
    }
}
