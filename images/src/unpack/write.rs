//! Entries into a tree, for overlayfs.

use std::collections::HashMap;
use std::io::BufRead;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat,
    openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::dirs::Dirs;
use super::entry::{Entries, Entry, Kind, Refused};
use super::path::{self, Components, Target};
use super::sync::Syncer;
use super::{Limits, Mode as UnpackMode};

/// More extended attributes than any file system keeps on one file.
const XATTR_LIMIT: usize = 256;

/// What is known of a directory of the layer until its attributes are set at the end.
#[derive(Clone, Debug)]
pub(super) enum Directory {
    /// Made on the way to an entry; the archive does not say how it looks.
    Implied,
    /// As its entry says.
    Given { mode: u32, mtime: (i64, u32) },
}

/// A hard link whose target is not in the layer so far.
#[derive(Clone, Debug)]
pub(super) struct PendingLink {
    pub entry: Vec<u8>,
    pub path: Components,
    pub target: Components,
}

/// What is left to be done once all entries and the layers below are there.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    pub directories: HashMap<Components, Directory>,
    pub links: Vec<PendingLink>,
    /// Files on their way to the disk.
    pub files: Syncer,
}

/// Writes the entries of one layer below a directory.
pub(super) struct Writer<'a> {
    dirs: Dirs,
    link_dirs: Dirs,
    mode: UnpackMode,
    limits: &'a Limits,
    entries: u64,
    left: Unfinished,
}

type Outcome = Result<(), String>;

fn failed(what: &str) -> impl FnOnce(Errno) -> String + '_ {
    move |errno| match errno {
        Errno::LOOP | Errno::NOTDIR => format!("{what}: a part of its path is no directory"),
        // Only an owner has an id that may be invalid.
        Errno::INVAL if what == "set its owner" => {
            format!("{what}: the user namespace has no such id (see /etc/subuid and /etc/subgid)")
        }
        Errno::NAMETOOLONG => format!("{what}: a name in its path is too long"),
        other => format!("{what}: {}", std::io::Error::from(other)),
    }
}

impl<'a> Writer<'a> {
    pub fn new(root: OwnedFd, mode: UnpackMode, limits: &'a Limits) -> std::io::Result<Self> {
        let link_dirs = Dirs::new(root.try_clone()?);
        let dirs = Dirs::new(root);
        Ok(Self {
            dirs,
            link_dirs,
            mode,
            limits,
            entries: 0,
            left: Unfinished::default(),
        })
    }

    /// Writes all entries. What is returned must be finished with [`super::finish`].
    pub fn write_all<R: BufRead>(mut self, reader: R) -> Result<Unfinished, Refused> {
        let mut entries = Entries::new(reader);
        while let Some(entry) = entries.next_entry()? {
            self.entries += 1;
            let refuse = |why: String| Refused::new(&entry.path, why);
            if self.entries > self.limits.layer_entries {
                return Err(refuse(format!(
                    "more than {} entries",
                    self.limits.layer_entries
                )));
            }
            match path::target(&entry.path).map_err(refuse)? {
                Target::Ignored => {}
                Target::Opaque(dir) => self.opaque(&dir).map_err(refuse)?,
                Target::Whiteout(path) => self.whiteout(&path).map_err(refuse)?,
                Target::Path(path) if entry.kind == Kind::File => {
                    self.file(&path, &entry, &mut entries)?;
                }
                Target::Path(path) => self.node(path, &entry).map_err(refuse)?,
            }
        }
        Ok(self.left)
    }

    fn parent<'d>(
        dirs: &'d mut Dirs,
        left: &mut Unfinished,
        path: &[Vec<u8>],
    ) -> Result<BorrowedFd<'d>, String> {
        let parents = &path[..path.len() - 1];
        let mut made = |dir: &[Vec<u8>]| {
            left.directories.insert(dir.to_vec(), Directory::Implied);
        };
        dirs.open_or_make(parents, &mut made)
            .map_err(|error| format!("open its directory: {error}"))
    }

    fn file<R: BufRead>(
        &mut self,
        path: &Components,
        entry: &Entry,
        entries: &mut Entries<R>,
    ) -> Result<(), Refused> {
        let refuse = |why: String| Refused::new(&entry.path, why);
        let name = path
            .last()
            .ok_or_else(|| refuse("a file cannot be the root".into()))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |parent: BorrowedFd<'_>| {
            openat(parent, name.as_slice(), flags, Mode::RUSR | Mode::WUSR)
        };
        let parent = Self::parent(&mut self.dirs, &mut self.left, path).map_err(refuse)?;
        let file = match open(parent) {
            Err(Errno::EXIST) => {
                self.clear(path).map_err(refuse)?;
                open(Self::parent(&mut self.dirs, &mut self.left, path).map_err(refuse)?)
            }
            other => other,
        };
        let file = file.map_err(failed("create it")).map_err(refuse)?;
        let mut written = 0;
        loop {
            let bytes = entries.data()?;
            if bytes.is_empty() {
                break;
            }
            let n = rustix::io::write(&file, bytes)
                .map_err(failed("write it"))
                .map_err(refuse)?;
            entries.consume(n);
            written += n as u64;
        }
        self.file_attributes(&file, entry).map_err(refuse)?;
        if !self.mode.synced {
            return Ok(());
        }
        let synced = self.left.files.add(file, written);
        synced.map_err(|error| refuse(format!("sync it: {error}")))
    }

    fn file_attributes(&self, file: &OwnedFd, entry: &Entry) -> Outcome {
        // Files are made as root and no directory is set-group-id before the end, so root's
        // files have their owner already.
        if self.mode.owners && (entry.uid, entry.gid) != (0, 0) {
            fchown(
                file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(failed("set its owner"))?;
        }
        fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(failed("set its mode"))?;
        for (name, value) in checked_xattrs(entry)? {
            if let Err(errno) = fsetxattr(file, name, value, XattrFlags::empty()) {
                self.xattr_error(name, errno)?;
            }
        }
        futimens(file, &times(entry.mtime)).map_err(failed("set its time"))
    }

    fn node(&mut self, path: Components, entry: &Entry) -> Outcome {
        match entry.kind {
            Kind::Directory => return self.directory(path, entry),
            Kind::HardLink => return self.hard_link(path, entry),
            Kind::CharDevice | Kind::BlockDevice if !self.mode.devices => {
                return Err("it is a device, which only root may make".into());
            }
            _ if path.is_empty() => return Err("the root can only be a directory".into()),
            _ => {}
        }
        self.clear(&path)?;
        let owners = self.mode.owners;
        let parent = Self::parent(&mut self.dirs, &mut self.left, &path)?;
        let name = path
            .last()
            .expect("an empty path was refused above")
            .as_slice();
        let mode = Mode::from_raw_mode(entry.mode);
        let device = makedev(entry.device.0, entry.device.1);
        let make = |kind, device| mknodat(parent, name, kind, mode, device);
        match entry.kind {
            Kind::Symlink => symlinkat(entry.link.as_slice(), parent, name),
            Kind::Fifo => make(FileType::Fifo, 0),
            Kind::CharDevice => make(FileType::CharacterDevice, device),
            _ => make(FileType::BlockDevice, device),
        }
        .map_err(failed("create it"))?;
        if owners && (entry.uid, entry.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(
                parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed("set its owner"))?;
        }
        if entry.kind != Kind::Symlink {
            // The umask took bits away. The name is fresh, so nothing is followed.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
                .map_err(failed("set its mode"))?;
        }
        self.node_xattrs(&path, entry)?;
        let parent = Self::parent(&mut self.dirs, &mut self.left, &path)?;
        utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set its time"))
    }

    /// Links and devices have no descriptor to set attributes on but their directory's.
    fn node_xattrs(&mut self, path: &Components, entry: &Entry) -> Outcome {
        let attributes = checked_xattrs(entry)?;
        if attributes.is_empty() {
            return Ok(());
        }
        let parent = Self::parent(&mut self.dirs, &mut self.left, path)?;
        let mut full = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        full.extend_from_slice(path.last().expect("only called for named nodes"));
        for (name, value) in attributes {
            if let Err(errno) = lsetxattr(full.as_slice(), name, value, XattrFlags::empty()) {
                self.xattr_error(name, errno)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: Components, entry: &Entry) -> Outcome {
        if !path.is_empty() {
            self.make_directory(&path)?;
        }
        let fd = self
            .dirs
            .open(&path)
            .map_err(|error| format!("open it: {error}"))?;
        if self.mode.owners {
            fchown(
                fd,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(failed("set its owner"))?;
        }
        for (name, value) in checked_xattrs(entry)? {
            if let Err(errno) = fsetxattr(fd, name, value, XattrFlags::empty()) {
                xattr_error(self.mode, name, errno)?;
            }
        }
        let given = Directory::Given {
            mode: entry.mode,
            mtime: entry.mtime,
        };
        self.left.directories.insert(path, given);
        Ok(())
    }

    fn make_directory(&mut self, path: &Components) -> Outcome {
        let parent = Self::parent(&mut self.dirs, &mut self.left, path)?;
        let name = path.last().expect("the root exists").as_slice();
        let mode = Mode::from_raw_mode(0o755);
        match mkdirat(parent, name, mode) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat =
                    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat it"))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::Directory {
                    return Ok(());
                }
                let hid_lower = kind == FileType::CharacterDevice && stat.st_rdev == 0;
                self.clear(path)?;
                let parent = Self::parent(&mut self.dirs, &mut self.left, path)?;
                mkdirat(parent, name, mode).map_err(failed("create it"))?;
                if hid_lower { self.opaque(path) } else { Ok(()) }
            }
            Err(errno) => Err(failed("create it")(errno)),
        }
    }

    fn hard_link(&mut self, path: Components, entry: &Entry) -> Outcome {
        let target = path::link_target(&entry.link)?;
        if path.is_empty() {
            return Err("the root can only be a directory".into());
        }
        if path == target {
            return Err("it is a hard link to itself".into());
        }
        self.clear(&path)?;
        match self.link(&path, &target) {
            Ok(()) => Ok(()),
            // It may come later in this layer, or lie in a layer below.
            Err(Errno::NOENT) => {
                Self::parent(&mut self.dirs, &mut self.left, &path)?;
                self.left.links.push(PendingLink {
                    entry: entry.path.clone(),
                    path,
                    target,
                });
                Ok(())
            }
            Err(Errno::PERM) => Err("its hard link target is a directory".into()),
            Err(errno) => Err(failed("link it")(errno)),
        }
    }

    fn link(&mut self, path: &Components, target: &Components) -> Result<(), Errno> {
        let as_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let (target_name, target_dir) = target.split_last().expect("an empty target was refused");
        let from = self.link_dirs.open(target_dir).map_err(as_errno)?;
        let (name, dir) = path.split_last().expect("the root was refused");
        let left = &mut self.left;
        let mut made = |dir: &[Vec<u8>]| {
            left.directories.insert(dir.to_vec(), Directory::Implied);
        };
        let to = self.dirs.open_or_make(dir, &mut made).map_err(as_errno)?;
        linkat(
            from,
            target_name.as_slice(),
            to,
            name.as_slice(),
            AtFlags::empty(),
        )
    }

    /// A whiteout speaks of the layers below; what this layer has itself stays.
    fn whiteout(&mut self, path: &Components) -> Outcome {
        let parent = Self::parent(&mut self.dirs, &mut self.left, path)?;
        let name = path.last().expect("a whiteout has a name").as_slice();
        match mknodat(
            parent,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        ) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat =
                    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat it"))?;
                let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if directory { self.opaque(path) } else { Ok(()) }
            }
            Err(errno) => Err(failed("make the whiteout")(errno)),
        }
    }

    fn opaque(&mut self, dir: &Components) -> Outcome {
        let left = &mut self.left;
        let mut made = |dir: &[Vec<u8>]| {
            left.directories.insert(dir.to_vec(), Directory::Implied);
        };
        let fd = self
            .dirs
            .open_or_make(dir, &mut made)
            .map_err(|e| format!("open it: {e}"))?;
        let name = if self.mode.user_xattr {
            "user.overlay.opaque"
        } else {
            "trusted.overlay.opaque"
        };
        fsetxattr(fd, name, b"y", XattrFlags::empty()).map_err(failed("make it opaque"))
    }

    /// Removes what an earlier entry made under this name.
    fn clear(&mut self, path: &Components) -> Outcome {
        let parent = Self::parent(&mut self.dirs, &mut self.left, path)?;
        let name = path.last().expect("the root is never replaced").as_slice();
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(failed("replace what an earlier entry made")(errno)),
        }
        remove_directory(parent, name).map_err(failed("replace an earlier directory"))?;
        self.left
            .directories
            .retain(|dir, _| !dir.starts_with(path));
        self.left.links.retain(|link| !link.path.starts_with(path));
        self.dirs.forget();
        self.link_dirs.forget();
        Ok(())
    }

    fn xattr_error(&self, name: &[u8], errno: Errno) -> Outcome {
        xattr_error(self.mode, name, errno)
    }
}

/// An attribute that the file system or a rootless user cannot keep is left out, as all peers
/// do; `security.capability` is not, since without it the program does not work.
fn xattr_error(mode: UnpackMode, name: &[u8], errno: Errno) -> Outcome {
    let dispensable = name != b"security.capability" || !mode.owners;
    match errno {
        Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS if dispensable => Ok(()),
        other => Err(failed(&format!("set {}", String::from_utf8_lossy(name)))(
            other,
        )),
    }
}

/// Name and value.
type Attribute<'a> = (&'a [u8], &'a [u8]);

/// Those of the kernel's, and of fuse-overlayfs.
const OVERLAYS_OWN: [&[u8]; 3] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
];

/// An entry's attributes; those that are overlayfs' own language are refused.
fn checked_xattrs(entry: &Entry) -> Result<Vec<Attribute<'_>>, String> {
    if entry.xattrs.len() > XATTR_LIMIT {
        return Err(format!("more than {XATTR_LIMIT} extended attributes"));
    }
    let mut attributes = Vec::with_capacity(entry.xattrs.len());
    for (name, value) in &entry.xattrs {
        if OVERLAYS_OWN.iter().any(|own| name.starts_with(own)) {
            return Err(format!(
                "its attribute {} is overlayfs' own",
                String::from_utf8_lossy(name)
            ));
        }
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(
                "the name of an extended attribute is empty, too long, or has a NUL".into(),
            );
        }
        // The label is the host's to give.
        if name != b"security.selinux" {
            attributes.push((name.as_slice(), value.as_slice()));
        }
    }
    Ok(attributes)
}

fn remove_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty())?;
    let names: Vec<Vec<u8>> = rustix::fs::Dir::read_from(&fd)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()))
        .filter(|name| name != b"." && name != b"..")
        .collect();
    for name in names {
        match unlinkat(&fd, name.as_slice(), AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_directory(fd.as_fd(), &name)?,
            other => other?,
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

pub(super) fn times(mtime: (i64, u32)) -> Timestamps {
    let access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    Timestamps {
        last_access: access,
        last_modification: Timespec {
            tv_sec: mtime.0,
            tv_nsec: i64::from(mtime.1),
        },
    }
}
