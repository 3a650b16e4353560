//! Mounts of a RUN made ready: directories, secrets and locks that last as long as the command.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

use super::context::Tree;
use super::mounts::{Kind, Look, RunMount, Sharing};
use super::{BuildOptions, Failed, Secret};
use crate::error::FileContext;
use crate::{Digest, Hasher, Layer, Result, Store, files};

const SECRET_LIMIT: u64 = 512 << 10;

/// What a command gets.
#[derive(Default)]
pub(super) struct Prepared {
    pub mounts: Vec<Mount>,
    /// `NAME=value` of secrets.
    pub env: Vec<String>,
    /// What the command's result depends on, for the layer cache.
    pub key: Vec<String>,
    locks: Vec<File>,
}

/// As `config.json` has it.
pub(super) struct Mount {
    pub to: PathBuf,
    pub kind: &'static str,
    pub source: PathBuf,
    pub options: Vec<String>,
}

/// Where a bind mount comes from: a tree, and what names its content.
pub(super) struct Origin {
    pub tree: Tree,
    /// The layers of a stage or image; `None` for the context, whose files are read.
    pub content: Option<String>,
}

impl Prepared {
    /// Adds one mount. `dir` is the command's own, and goes with it; `to` is the absolute target.
    pub fn add(
        &mut self,
        store: &Store,
        options: &BuildOptions,
        mount: &RunMount,
        to: PathBuf,
        dir: &Path,
        origin: impl FnOnce(Option<&String>, &Path) -> Result<Origin, Failed>,
    ) -> Result<(), Failed> {
        self.key.push(format!("{mount:?} at {}", to.display()));
        let number = self.key.len();
        match &mount.kind {
            Kind::Tmpfs { size } => {
                let mut options = texts(&["nosuid", "nodev", "mode=1777"]);
                options.extend(size.map(|size| format!("size={size}")));
                self.push(to, "tmpfs", PathBuf::from("tmpfs"), options);
            }
            Kind::Cache {
                id,
                sharing,
                read_only,
                look,
            } => {
                let (source, lock) = cache_directory(store, id, *sharing, *look)?;
                self.locks.push(lock);
                self.bind(to, source, !*read_only);
            }
            Kind::Secret {
                id,
                required,
                variable,
                look,
            } => {
                let Some(bytes) = secret(options, id)? else {
                    if *required {
                        let why = format!("there is no secret {id}: give --secret");
                        return Err(Failed::Step(why));
                    }
                    return Ok(());
                };
                if let Some(name) = variable {
                    let text = std::str::from_utf8(&bytes)
                        .map_err(|_| format!("the secret {id} is no text for a variable"))?;
                    self.env.push(format!("{name}={text}"));
                }
                if !mount.target.is_empty() {
                    let source = dir.join(format!("secret.{number}"));
                    write_secret(&source, &bytes, *look)?;
                    self.bind(to, source, false);
                }
            }
            Kind::Bind { from, source } => {
                let scratch = dir.join(format!("bind.{number}"));
                let flat = scratch.join("tree");
                fs::create_dir_all(&flat).at("create", &flat)?;
                let Origin { tree, content } = origin(from.as_ref(), &flat)?;
                let real = tree.visible(source, &scratch)?;
                let content = match content {
                    Some(content) => content,
                    None => digest_of(&real).at("read", &real)?.to_string(),
                };
                self.key.push(content);
                self.bind(to, real, false);
            }
        }
        Ok(())
    }

    fn bind(&mut self, to: PathBuf, source: PathBuf, writes: bool) {
        let write = if writes { "rw" } else { "ro" };
        let options = texts(&["rbind", write, "nosuid", "nodev"]);
        self.push(to, "bind", source, options);
    }

    fn push(&mut self, to: PathBuf, kind: &'static str, source: PathBuf, options: Vec<String>) {
        self.mounts.push(Mount {
            to,
            kind,
            source,
            options,
        });
    }

    /// Takes away the mount points that the runtime made in what the command wrote.
    pub fn tidy(&self, store: &Store, upper: &Path, layers: &[Layer]) -> Result<()> {
        for mount in &self.mounts {
            let mut path = mount.to.as_path();
            while let Some(parent) = path.parent() {
                let inner = path.strip_prefix("/").unwrap_or(path);
                let mut below = false;
                for layer in layers {
                    let tree = store.layer_fs(&layer.chain_id)?;
                    below |= fs::symlink_metadata(tree.join(inner)).is_ok();
                }
                if below || !remove_empty(upper, inner).at("tidy", path)? {
                    break;
                }
                path = parent;
            }
        }
        Ok(())
    }
}

/// Removes an empty file or directory below a root, through no link: the command may have put
/// one there. False where it is something else, or not there.
fn remove_empty(root: &Path, inner: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (inner.parent(), inner.file_name()) else {
        return Ok(false);
    };
    let top = File::open(root)?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let dir: OwnedFd = match openat2(&top, parent, flags, Mode::empty(), within) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        other => other?,
    };
    match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(true),
        Err(Errno::NOTDIR) => {}
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let file = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let empty = file == rustix::fs::FileType::RegularFile && stat.st_size == 0;
    if empty {
        unlinkat(&dir, name, AtFlags::empty())?;
    }
    Ok(empty)
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// `build-mounts/<digest of the id>`, locked against collection, and against others where only
/// one may have it.
fn cache_directory(
    store: &Store,
    id: &str,
    sharing: Sharing,
    look: Look,
) -> Result<(PathBuf, File)> {
    let all = store.cache_mount_dir();
    let dir = all.join(Digest::of(id.as_bytes()).hex());
    let path = dir.with_extension("lock");
    fs::create_dir_all(&all).at("create", &all)?;
    let file = File::options().create(true).append(true).open(&path);
    let lock = file.at("open", &path)?;
    match sharing {
        Sharing::Shared => lock.lock_shared(),
        Sharing::Locked => lock.lock(),
    }
    .at("lock", &path)?;
    if !dir.exists() {
        fs::create_dir_all(&dir).at("create", &dir)?;
        give(&dir, look)?;
    }
    Ok((dir, lock))
}

fn give(path: &Path, look: Look) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(look.uid), Some(look.gid)).at("chown", path)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(look.mode)).at("chmod", path)
}

/// In the store's build directory, which is its owner's alone, until the command has ended.
fn write_secret(path: &Path, bytes: &[u8], look: Look) -> Result<()> {
    files::write_private(path, bytes)?;
    give(path, look)
}

fn secret(options: &BuildOptions, id: &str) -> Result<Option<Vec<u8>>, Failed> {
    match options.secrets.get(id) {
        None => Ok(None),
        Some(Secret::File(path)) => Ok(Some(files::read_limited(path, SECRET_LIMIT)?)),
        Some(Secret::Variable(name)) => match std::env::var(name) {
            Ok(value) => Ok(Some(value.into_bytes())),
            Err(_) => Err(Failed::Step(format!("the secret {id}: {name} is not set"))),
        },
    }
}

/// Names, kinds, modes and bytes of a tree.
fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut pending = vec![path.to_owned()];
    while let Some(at) = pending.pop() {
        let meta = fs::symlink_metadata(&at)?;
        let inner = at.strip_prefix(path).unwrap_or(&at);
        hasher.update(inner.as_os_str().as_bytes());
        hasher.update(format!("\0{:o} {}\n", meta.mode(), meta.len()).as_bytes());
        if meta.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(&at)?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()?;
            names.sort();
            pending.extend(names);
        } else if meta.is_symlink() {
            hasher.update(fs::read_link(&at)?.as_os_str().as_bytes());
        } else if meta.is_file() {
            let (digest, _) = crate::digest_reader(File::open(&at)?)?;
            hasher.update(digest.as_str().as_bytes());
        }
    }
    Ok(hasher.finish().0)
}

/// The target of a mount, absolute and without dots; none on the root itself.
pub(super) fn target(workdir: &str, path: &str) -> Result<PathBuf, String> {
    let plain = super::context::plain(workdir, path);
    if plain.components().all(|c| c == Component::RootDir) {
        return Err("--mount cannot cover the root".to_owned());
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that puts a link where a mount point was must not have files of the host removed.
    #[test]
    fn mount_points_are_removed_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, host) = (dir.path().join("upper"), dir.path().join("host"));
        fs::create_dir_all(upper.join("a/b")).unwrap();
        fs::create_dir_all(host.join("empty")).unwrap();
        std::os::unix::fs::symlink(&host, upper.join("link")).unwrap();
        fs::write(upper.join("file"), "").unwrap();
        fs::write(upper.join("kept"), "x").unwrap();
        let remove = |inner: &str| remove_empty(&upper, Path::new(inner)).unwrap();
        assert!(!remove("link/empty") && host.join("empty").exists());
        assert!(!remove("link") && !remove("kept") && !remove("a") && !remove("gone/x"));
        assert!(remove("a/b") && remove("a") && remove("file"));
    }

    #[test]
    fn a_tree_s_digest_sees_names_modes_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "1").unwrap();
        let first = digest_of(dir.path()).unwrap();
        assert_eq!(digest_of(dir.path()).unwrap(), first);
        fs::write(&file, "2").unwrap();
        let second = digest_of(dir.path()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        let third = digest_of(dir.path()).unwrap();
        assert!(first != second && second != third);
        assert!(target("/", "..").is_err() && target("/w", "x").is_ok());
    }
}
