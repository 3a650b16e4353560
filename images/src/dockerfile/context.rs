//! Files for COPY: found below a root, put into a layer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::ignore::{Ignore, matches_path};
use super::parse::Inline;
use crate::pack::LayerWriter;

/// A tree that COPY takes from: the build context, or the files of a stage.
pub(super) struct Tree {
    pub root: PathBuf,
    pub ignore: Ignore,
}

/// One thing to copy: where it is, and its name in the image.
pub(super) struct Item {
    from: PathBuf,
    /// Below the root, for `.dockerignore`.
    path: Vec<String>,
    to: PathBuf,
    /// The directory itself exists in the image; only what is in it is new.
    contents: bool,
}

impl Item {
    pub fn is_directory(&self) -> bool {
        self.contents
    }

    pub fn name(&self) -> String {
        self.path.join("/")
    }

    /// What is in a directory, whatever its name.
    pub fn directory(from: &Path, to: &Path) -> Self {
        Self {
            from: from.to_owned(),
            path: Vec::new(),
            to: to.to_owned(),
            contents: true,
        }
    }

    /// A file that no `.dockerignore` speaks of.
    pub fn file(from: &Path, to: &Path) -> Self {
        Self {
            contents: false,
            ..Self::directory(from, to)
        }
    }

    pub fn path(&self) -> &Path {
        &self.from
    }

    /// True for what Docker's ADD unpacks: tar, also compressed. A compressed file that is no tar
    /// is copied as it is, as Docker does.
    pub fn is_archive(&self) -> bool {
        !self.contents && crate::unpack::is_archive(&self.from)
    }
}

impl Tree {
    /// Here-documents as files of a directory, as old as the Dockerfile: another time would make
    /// another layer of the same text.
    pub fn of_documents(
        root: &Path,
        dockerfile: &Path,
        documents: &[Inline],
    ) -> Result<Self, String> {
        let write = |path: &Path, text: &str| -> io::Result<()> {
            fs::write(path, text)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
            let time = fs::metadata(dockerfile)?.modified()?;
            fs::File::options()
                .write(true)
                .open(path)?
                .set_modified(time)
        };
        for document in documents {
            let path = root.join(&document.name);
            write(&path, &document.text)
                .map_err(|error| format!("here-document {}: {error}", document.name))?;
        }
        Ok(Self {
            root: root.to_owned(),
            ignore: Ignore::default(),
        })
    }

    /// The files that sources name, as they are to lie in the image. `to` is absolute; it is a
    /// directory where it ends with a slash.
    pub fn items(
        &self,
        sources: &[String],
        to: &Path,
        to_directory: bool,
    ) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        for source in sources {
            let found = self.find(source)?;
            if found.is_empty() {
                return Err(format!(
                    "{source:?} is not there, or .dockerignore hides it"
                ));
            }
            for path in found {
                let from = self.resolve(&path)?;
                let directory = from.is_dir();
                if !to_directory && sources.len() > 1 {
                    return Err("the destination of several sources must end with /".to_owned());
                }
                let name = path.last().map_or("", String::as_str);
                let to = if to_directory && !directory {
                    to.join(name)
                } else {
                    to.to_owned()
                };
                items.push(Item {
                    from,
                    path,
                    to,
                    contents: directory,
                });
            }
        }
        Ok(items)
    }

    /// Paths that match a source, sorted. `..` does not lead out of the root, as in Docker.
    fn find(&self, source: &str) -> Result<Vec<Vec<String>>, String> {
        let mut pattern: Vec<&str> = Vec::new();
        for part in source.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(pattern.pop()),
                part => pattern.push(part),
            }
        }
        let mut found: BTreeSet<Vec<String>> = BTreeSet::from([Vec::new()]);
        for part in pattern {
            let mut next = BTreeSet::new();
            for path in found {
                let child = |name: &str| [path.as_slice(), &[name.to_owned()]].concat();
                if !part.contains(['*', '?', '[', '\\']) {
                    next.insert(child(part));
                    continue;
                }
                let Ok(dir) = self.resolve(&path) else {
                    continue;
                };
                for entry in fs::read_dir(&dir).into_iter().flatten() {
                    let name = entry
                        .map_err(|error| format!("{}: {error}", dir.display()))?
                        .file_name();
                    if let Some(name) = name.to_str().filter(|name| matches_path(&[part], &[name]))
                    {
                        next.insert(child(name));
                    }
                }
            }
            found = next;
        }
        let there = |path: &Vec<String>| {
            self.resolve(path).is_ok() && (path.is_empty() || !self.hides(path))
        };
        Ok(found.into_iter().filter(there).collect())
    }

    fn hides(&self, path: &[String]) -> bool {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        self.ignore.hides(&parts)
    }

    /// The real path of what lies below the root, links followed inside of it.
    fn resolve(&self, path: &[String]) -> Result<PathBuf, String> {
        let inner = path.join("/");
        let failed = |error: io::Error| format!("{inner:?}: {error}");
        let root = fs::File::open(&self.root).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let name = if inner.is_empty() { "." } else { &inner };
        let fd =
            openat2(&root, name, flags, Mode::empty(), within).map_err(|e| failed(e.into()))?;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(failed)
    }

    /// The real path of what a bind mount shows. Where `.dockerignore` hides some of it, a copy
    /// below `scratch` without that.
    pub fn visible(&self, source: &str, scratch: &Path) -> Result<PathBuf, String> {
        let path = self.find(source)?.into_iter().next();
        let path =
            path.ok_or_else(|| format!("{source:?} is not there, or .dockerignore hides it"))?;
        let real = self.resolve(&path)?;
        if self.ignore.is_empty() || !real.is_dir() {
            return Ok(real);
        }
        let copy = scratch.join("visible");
        let copied = fs::create_dir(&copy).and_then(|()| self.copy_visible(&real, &path, &copy));
        copied.map_err(|error| format!("{source:?}: {error}"))?;
        Ok(copy)
    }

    fn copy_visible(&self, from: &Path, path: &[String], to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            let (child, copy) = (from.join(&name), to.join(&name));
            let path = [path, &[name.to_string_lossy().into_owned()]].concat();
            let meta = fs::symlink_metadata(&child)?;
            let hidden = self.hides(&path);
            if meta.is_dir() {
                let kept = self.ignore.has_exceptions() && self.keeps_below(&child, &path)?;
                if !hidden || kept {
                    fs::create_dir(&copy)?;
                    self.copy_visible(&child, &path, &copy)?;
                    fs::set_permissions(&copy, meta.permissions())?;
                }
            } else if !hidden {
                copy_file(&child, &copy, &meta)?;
            }
        }
        Ok(())
    }

    /// Puts items into a layer.
    pub fn pack(&self, items: &[Item], packer: &mut LayerWriter) -> io::Result<()> {
        for item in items {
            let to = item.to.strip_prefix("/").unwrap_or(&item.to);
            if item.contents {
                self.directory(&item.from, &item.path, to, packer)?;
            } else {
                packer.single(&item.from, to)?;
            }
        }
        Ok(())
    }

    fn directory(
        &self,
        from: &Path,
        path: &[String],
        to: &Path,
        packer: &mut LayerWriter,
    ) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(from)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let (child, inner) = (from.join(&name), to.join(&name));
            let path = [path, &[name.to_string_lossy().into_owned()]].concat();
            let hidden = self.hides(&path);
            let directory = fs::symlink_metadata(&child)?.is_dir();
            if hidden
                && !(directory
                    && self.ignore.has_exceptions()
                    && self.keeps_below(&child, &path)?)
            {
                continue;
            }
            packer.single(&child, &inner)?;
            if directory {
                self.directory(&child, &path, &inner, packer)?;
            }
        }
        Ok(())
    }

    /// True where an exception keeps something in a hidden directory.
    fn keeps_below(&self, from: &Path, path: &[String]) -> io::Result<bool> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let path = [path, &[entry.file_name().to_string_lossy().into_owned()]].concat();
            let directory = entry.file_type()?.is_dir();
            if !self.hides(&path) || (directory && self.keeps_below(&entry.path(), &path)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)
    } else if fs::hard_link(from, to).is_ok() {
        Ok(())
    } else {
        fs::copy(from, to).map(drop)
    }
}

/// A path of the image in its plain form, absolute.
pub(super) fn plain(base: &str, path: &str) -> PathBuf {
    let mut plain = PathBuf::from("/");
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(plain.pop()),
            part => plain.push(OsStr::from_bytes(part.as_bytes())),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_paths_are_made_plain() {
        assert_eq!(plain("/a", "b/../c/./d/"), PathBuf::from("/a/c/d"));
        assert_eq!(plain("/a", "/x"), PathBuf::from("/x"));
        assert_eq!(plain("/", "../../x"), PathBuf::from("/x"));
    }
}
