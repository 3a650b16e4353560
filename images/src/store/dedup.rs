//! Identical files of different layers, stored once: blocks that files share (reflink).
//!
//! Nothing that reads a layer can tell: names, attributes and inode numbers stay, and the kernel
//! compares the bytes itself before it lets go of one copy. Hard links would share on any file
//! system, but a file with another owner, time or link count is another file in a container. It is
//! asked for, and no part of a pull: every byte of what may be the same has to be read.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rrun_sys::dedupe::share_range;
use rustix::io::Errno;

use super::Store;
use crate::error::FileContext;
use crate::{Deduplicated, Digest, Error, Result};

/// Smaller files have little to share but their block.
const LEAST: u64 = 4 << 10;
/// What file systems compare at once.
const STEP: u64 = 16 << 20;

impl Store {
    /// Lets identical files of the layers share their blocks, where the file system can (XFS with
    /// reflink, btrfs); [`Error::Unsupported`] elsewhere. May run beside pulls, collection and
    /// containers, and may be killed. Blocks.
    ///
    /// `du` counts blocks that files share for each of them, and so do the store's own sizes.
    pub fn dedup(&self) -> Result<Deduplicated> {
        let mut done = Deduplicated::default();
        for (size, paths) in self.of_one_size()? {
            let mut same: HashMap<Digest, Vec<PathBuf>> = HashMap::new();
            for path in paths {
                if let Some(digest) = digest_of(&path)? {
                    same.entry(digest).or_default().push(path);
                }
            }
            for paths in same.into_values() {
                let Some((first, others)) = paths.split_first() else {
                    continue;
                };
                for other in others {
                    let shared = share(first, other, size);
                    let shared = shared.map_err(|error| self.cannot(other, &error))?;
                    done.files += u64::from(shared == size);
                    done.bytes += shared;
                }
            }
        }
        Ok(done)
    }

    /// Files of layers by their size, each inode once; sizes that only one has are left out.
    fn of_one_size(&self) -> Result<HashMap<u64, Vec<PathBuf>>> {
        let mut sizes: HashMap<u64, u32> = HashMap::new();
        self.each_file(|_, size| *sizes.entry(size).or_default() += 1)?;
        let mut files: HashMap<u64, Vec<PathBuf>> = HashMap::new();
        self.each_file(|path, size| {
            if sizes.get(&size).is_some_and(|count| *count > 1) {
                files.entry(size).or_default().push(path.to_owned());
            }
        })?;
        Ok(files)
    }

    /// Regular files worth it. What is removed meanwhile is left out.
    fn each_file(&self, mut visit: impl FnMut(&Path, u64)) -> Result<()> {
        let mut seen = HashSet::new();
        let layers = self.root.join("layers");
        let mut pending: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&layers).at("list", &layers)? {
            let layer = entry.at("list", &layers)?.path();
            // An erofs image has its files in itself.
            if Self::layer_meta_at(&layer).is_ok_and(|meta| meta.erofs.is_none()) {
                pending.push(layer.join("fs"));
            }
        }
        while let Some(dir) = pending.pop() {
            let Some(entries) = there(fs::read_dir(&dir)).at("list", &dir)? else {
                continue;
            };
            for entry in entries {
                let path = entry.at("list", &dir)?.path();
                let Some(meta) = there(fs::symlink_metadata(&path)).at("stat", &path)? else {
                    continue;
                };
                if meta.is_dir() {
                    pending.push(path);
                } else if meta.is_file() && meta.len() >= LEAST && seen.insert(meta.ino()) {
                    visit(&path, meta.len());
                }
            }
        }
        Ok(())
    }

    fn cannot(&self, path: &Path, error: &rrun_sys::Error) -> Error {
        let lacks = [Errno::OPNOTSUPP, Errno::NOTTY, Errno::INVAL];
        if lacks.iter().any(|errno| error.is(errno.raw_os_error())) {
            let what = format!("deduplication in {}", self.root.display());
            let why = "its file system lets no files share blocks: XFS with reflink, or btrfs";
            return Error::unsupported(what, why);
        }
        Error::File {
            verb: "share blocks of",
            path: path.to_owned(),
            source: io::Error::other(error.to_string()),
        }
    }
}

/// `None` for what is not there any more.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A file of a layer; its directories are the store's own.
fn open(path: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

fn digest_of(path: &Path) -> Result<Option<Digest>> {
    let Some(file) = there(open(path)).at("open", path)? else {
        return Ok(None);
    };
    let (digest, _) = crate::digest_reader(file).at("read", path)?;
    Ok(Some(digest))
}

/// How many bytes two files share now.
fn share(first: &Path, other: &Path, size: u64) -> rrun_sys::Result<u64> {
    // One of them is gone, or something else by now: there is nothing to share.
    let (Ok(first), Ok(other)) = (open(first), open(other)) else {
        return Ok(0);
    };
    let mut at = 0;
    while at < size {
        let step = STEP.min(size - at);
        match share_range(first.as_fd(), other.as_fd(), at, step)? {
            0 => break,
            shared => at += shared,
        }
    }
    Ok(at)
}
