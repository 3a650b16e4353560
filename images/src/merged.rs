//! An image's layers as one tree, without mounting them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};

use crate::error::FileContext;
use crate::identity::Privilege;
use crate::pack::LayerWriter;
use crate::{Error, Image, Layer, Result, Store, files};

const LINKS: usize = 40;
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

impl Store {
    /// Reads a file of an image, `None` where there is none. Symbolic links are followed inside
    /// of the image. At most `limit` bytes.
    pub fn read_file(&self, image: &Image, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let shown = PathBuf::from(path);
        let merged = Merged::open(self, &image.layers)?;
        let Some(file) = merged.file(path).at("open", &shown)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .at("read", &shown)?;
        if bytes.len() as u64 > limit {
            return Err(Error::document(path, format!("longer than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Writes an image's files into a directory, layers merged. The directory must be empty or
    /// missing; on an error what was made is removed.
    pub fn unpack_flat(&self, image: &str, directory: &Path) -> Result<()> {
        let image = self.inspect(image)?;
        let existed = directory.exists();
        fs::create_dir_all(directory).at("create", directory)?;
        if fs::read_dir(directory)
            .at("list", directory)?
            .next()
            .is_some()
        {
            return Err(Error::document(
                directory.display().to_string(),
                "is not empty",
            ));
        }
        let merged = self.merge_into(&image.layers, directory);
        if merged.is_err() && existed {
            for entry in fs::read_dir(directory).at("list", directory)?.flatten() {
                files::remove_all(&entry.path())?;
            }
        } else if merged.is_err() {
            files::remove_all(directory)?;
        }
        merged
    }

    /// Copies layers over each other into an empty directory.
    pub(crate) fn merge_into(&self, layers: &[Layer], directory: &Path) -> Result<()> {
        for layer in layers {
            let from = self.layer_fs(&layer.chain_id)?;
            Copier::default()
                .merge(&from, directory)
                .at("copy to", directory)?;
        }
        Ok(())
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The layers of an image, looked at as overlayfs would show them.
pub(crate) struct Merged {
    /// The topmost first.
    roots: Vec<OwnedFd>,
}

impl Merged {
    pub fn open(store: &Store, layers: &[Layer]) -> Result<Self> {
        let open = |layer: &Layer| {
            let root = store.layer_fs(&layer.chain_id)?;
            rustix::fs::open(&*root, DIRECTORY, Mode::empty()).at("open", &root)
        };
        Ok(Self {
            roots: layers.iter().rev().map(open).collect::<Result<_>>()?,
        })
    }

    /// The path with its symbolic links followed, as far as it is there; the rest as it is.
    pub fn real(&self, path: &Path) -> io::Result<Vec<Vec<u8>>> {
        let mut left: Vec<Vec<u8>> = parts(path);
        left.reverse();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            let Some((root, FileType::Symlink)) = find(&self.roots, &at)? else {
                continue;
            };
            links += 1;
            if links > LINKS {
                return Err(io::Error::other("too many symbolic links"));
            }
            let target = readlinkat(&self.roots[root], at.join(&b'/').as_slice(), Vec::new())?;
            at.pop();
            if target.as_bytes().starts_with(b"/") {
                at.clear();
            }
            let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
            left.extend(parts(target).into_iter().rev());
        }
        Ok(at)
    }

    /// True where a real path is a directory.
    pub fn is_directory(&self, real: &[Vec<u8>]) -> bool {
        real.is_empty() || matches!(find(&self.roots, real), Ok(Some((_, FileType::Directory))))
    }

    fn file(&self, path: &str) -> io::Result<Option<File>> {
        let real = self.real(Path::new(path))?;
        let Some((root, FileType::RegularFile)) = find(&self.roots, &real)? else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = real.join(&b'/');
        Ok(Some(File::from(openat2(
            &self.roots[root],
            name.as_slice(),
            flags,
            Mode::empty(),
            BELOW,
        )?)))
    }

    /// Puts the directories on the way to a real path into a layer, with `itself` its own too:
    /// as they are in the image, or new ones of root's (the last of `owner`).
    pub fn pack_parents(
        &self,
        real: &[Vec<u8>],
        itself: bool,
        owner: (u32, u32),
        packer: &mut LayerWriter,
    ) -> io::Result<()> {
        let end = if itself {
            real.len()
        } else {
            real.len().saturating_sub(1)
        };
        for n in 1..=end {
            let inner = real[..n].join(&b'/');
            let path = Path::new(std::ffi::OsStr::from_bytes(&inner));
            match find(&self.roots, &real[..n])? {
                Some((root, FileType::Directory)) => {
                    let stat = statat(
                        &self.roots[root],
                        inner.as_slice(),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                    let owner = match Privilege::now() {
                        // All that a plain user has unpacked is root's in the image.
                        Privilege::User => (0, 0),
                        _ => (stat.st_uid, stat.st_gid),
                    };
                    packer.existing_directory(path, stat.st_mode, owner, stat.st_mtime)?;
                }
                Some(_) => {
                    let why = format!("{} is in the image and no directory", path.display());
                    return Err(io::Error::other(why));
                }
                None => {
                    let owner = if n == real.len() { owner } else { (0, 0) };
                    packer.made_directory(path, 0o755, owner)?;
                }
            }
        }
        Ok(())
    }
}

const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn parts(path: &Path) -> Vec<Vec<u8>> {
    let part = |component| match component {
        Component::Normal(name) => Some(name.as_bytes().to_vec()),
        Component::ParentDir => Some(b"..".to_vec()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// The topmost layer that has the path, unless one above hides it.
fn find(roots: &[OwnedFd], path: &[Vec<u8>]) -> io::Result<Option<(usize, FileType)>> {
    for (i, root) in roots.iter().enumerate() {
        for n in 1..=path.len() {
            let part = path[..n].join(&b'/');
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = openat2(root, part.as_slice(), flags, Mode::empty(), BELOW) else {
                break;
            };
            let stat = statat(&fd, "", AtFlags::EMPTY_PATH)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return Ok(None);
            }
            if n == path.len() {
                return Ok(Some((i, kind)));
            }
            if kind != FileType::Directory {
                return Ok(None);
            }
            if is_opaque(root, &part) && !exists(root, path) {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn exists(root: &OwnedFd, path: &[Vec<u8>]) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(
        root,
        path.join(&b'/').as_slice(),
        flags,
        Mode::empty(),
        BELOW,
    )
    .is_ok()
}

fn is_opaque(root: &OwnedFd, path: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(fd) = openat2(root, path, flags, Mode::empty(), BELOW) else {
        return false;
    };
    let mut value = [0; 8];
    OPAQUE
        .iter()
        .any(|name| rustix::fs::fgetxattr(&fd, *name, &mut value[..]) == Ok(1) && value[0] == b'y')
}

/// Copies layers over each other, bottom first. Both sides are ours: the layers are in the
/// store, and nobody else writes the directory.
#[derive(Default)]
struct Copier {
    links: std::collections::HashMap<u64, PathBuf>,
}

impl Copier {
    fn merge(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let (from, to) = {
                let entry = entry?;
                (entry.path(), to.join(entry.file_name()))
            };
            let meta = fs::symlink_metadata(&from)?;
            self.entry(&from, &to, &meta).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", to.display()))
            })?;
        }
        attributes(from, to, &fs::symlink_metadata(from)?)
    }

    fn entry(&mut self, from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        let there = fs::symlink_metadata(to).ok();
        if kind.is_dir() {
            let merges = there.as_ref().is_some_and(fs::Metadata::is_dir) && !opaque_path(from);
            if !merges {
                clear(to, there.is_some())?;
                fs::create_dir(to)?;
            }
            return self.merge(from, to);
        }
        clear(to, there.is_some())?;
        if kind.is_char_device() && meta.rdev() == 0 {
            return Ok(());
        }
        if meta.nlink() > 1 {
            if let Some(known) = self.links.get(&meta.ino()) {
                return fs::hard_link(known, to);
            }
            self.links.insert(meta.ino(), to.to_owned());
        }
        if kind.is_file() {
            copy_file(from, to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else {
            let kind = FileType::from_raw_mode(meta.mode());
            let mode = Mode::from_raw_mode(meta.mode() & 0o7777);
            rustix::fs::mknodat(rustix::fs::CWD, to, kind, mode, meta.rdev())?;
        }
        attributes(from, to, meta)
    }
}

/// Shares the blocks where the file system can (FICLONE), else copies.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let mut target = File::create_new(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    io::copy(&mut &source, &mut target).map(drop)
}

pub(crate) fn opaque_path(path: &Path) -> bool {
    let mut value = [0; 8];
    OPAQUE
        .iter()
        .any(|name| rustix::fs::lgetxattr(path, *name, &mut value[..]) == Ok(1) && value[0] == b'y')
}

fn clear(path: &Path, there: bool) -> io::Result<()> {
    if there {
        files::remove_all(path).map_err(io::Error::other)
    } else {
        Ok(())
    }
}

fn attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    }
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(from, &mut names).unwrap_or(0);
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
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(from, name, &mut value)?;
        rustix::fs::lsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: meta.atime(),
            tv_nsec: meta.atime_nsec(),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: meta.mtime(),
            tv_nsec: meta.mtime_nsec(),
        },
    };
    Ok(rustix::fs::utimensat(
        rustix::fs::CWD,
        to,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
