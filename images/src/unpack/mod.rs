//! Layers into directories.
//!
//! ```text
//! chunks ─▶ hash, keep ─▶ inflate ─┬─▶ hash
//!                                  └─▶ read tar, write files ─▶ finish ─▶ sync directories
//!                                                          └─▶ sync files
//! ```
//!
//! Each arrow is a bounded channel between threads: the layer is never whole in memory.

mod dirs;
mod entry;
mod finish;
mod path;
mod pipeline;
mod stream;
mod sync;
mod write;

use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use pipeline::{Job, Keep, run, run_unpacked};

use crate::identity::Privilege;
use crate::{Compression, Error, Result, Usage};

/// Bounds against hostile layers. A layer beyond one is refused with the entry named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one uncompressed layer.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// How often larger the uncompressed layer may be than the compressed one, beyond the
    /// first 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            layer_entries: 4_000_000,
            ratio: 1100,
        }
    }
}

/// How entries become files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// Owners are set; rootless, all is the user's.
    pub owners: bool,
    /// Device nodes are made.
    pub devices: bool,
    /// Opaque directories are marked with `user.overlay.*`.
    pub user_xattr: bool,
    /// Files go to the disk while those that follow are written.
    pub synced: bool,
}

impl Mode {
    pub fn overlay(privilege: Privilege) -> Self {
        Self {
            owners: privilege != Privilege::User,
            devices: privilege == Privilege::Root,
            user_xattr: privilege != Privilege::Root,
            synced: true,
        }
    }

    /// The same for a tree that goes again soon, of which nothing need come to the disk.
    pub fn unsynced(self) -> Self {
        Self {
            synced: false,
            ..self
        }
    }
}

/// A layer whose entries are written, to be finished when the layers below are there.
#[derive(Debug)]
pub(crate) struct Written {
    layer: String,
    fs: PathBuf,
    mode: Mode,
    left: write::Unfinished,
}

impl Written {
    /// True where the tree is not whole without the layers below.
    pub fn needs_below(&self) -> bool {
        !self.left.links.is_empty()
    }

    /// Does what needs the layers below (topmost first), and waits for the disk.
    pub fn finish(mut self, lower: &[PathBuf]) -> Result<Usage> {
        let files = std::mem::take(&mut self.left.files);
        let path = self.fs.clone();
        self.finish_unsynced(lower)?;
        files
            .finish()
            .and_then(|()| finish::sync_directories(&path))
            .map_err(|source| file_error("sync", &path, source))
    }

    /// The same for a tree that goes before a power cut could matter.
    pub fn finish_unsynced(self, lower: &[PathBuf]) -> Result<()> {
        let refused = |refused: entry::Refused| layer_error(&self.layer, &refused);
        let open = finish::open_root(&self.fs);
        let root = open.map_err(|source| file_error("open", &self.fs, source))?;
        finish::finish(root, self.left, lower, self.mode).map_err(refused)
    }
}

fn layer_error(layer: &str, refused: &entry::Refused) -> Error {
    Error::Layer {
        layer: layer.to_owned(),
        entry: String::from_utf8_lossy(&refused.entry).into_owned(),
        why: refused.why.clone(),
    }
}

fn file_error(verb: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Reads a file as an archive, by what it starts with.
fn archive_reader(path: &Path) -> std::io::Result<Box<dyn std::io::BufRead>> {
    use std::io::{BufRead, BufReader};
    let mut file = BufReader::with_capacity(stream::BUFFER, std::fs::File::open(path)?);
    Ok(match Compression::sniff(file.fill_buf()?) {
        Compression::Gzip => {
            let inflated = flate2::bufread::MultiGzDecoder::new(file);
            Box::new(BufReader::with_capacity(stream::BUFFER, inflated))
        }
        Compression::Zstd => {
            let inflated = zstd::stream::read::Decoder::with_buffer(file)?;
            Box::new(BufReader::with_capacity(stream::BUFFER, inflated))
        }
        Compression::None => Box::new(file),
    })
}

/// Whether a file is an archive that [`archive`] unpacks, or one that only others can.
pub(crate) fn is_archive(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = archive_reader(path).and_then(|file| file.take(512).read_to_end(&mut start));
    let foreign = start.starts_with(b"BZh") || start.starts_with(b"\xfd7zXZ");
    read.is_ok() && (foreign || start.get(257..262) == Some(b"ustar"))
}

/// Unpacks an archive's entries into an empty directory, which is not for long.
pub(crate) fn archive(path: &Path, fs: &Path, mode: Mode, limits: &Limits) -> Result<()> {
    let reader = archive_reader(path).map_err(|source| file_error("read", path, source))?;
    write_archive(fs, mode.unsynced(), limits, reader)?.finish_unsynced(&[])
}

/// Writes the entries of an archive.
pub(crate) fn write_archive(
    fs: &Path,
    mode: Mode,
    limits: &Limits,
    archive: impl std::io::BufRead,
) -> Result<Written> {
    let root = finish::open_root(fs).map_err(|source| file_error("open", fs, source))?;
    let writer = write::Writer::new(root, mode, limits);
    let writer = writer.map_err(|source| file_error("open", fs, source))?;
    let left = writer.write_all(archive);
    Ok(Written {
        layer: String::new(),
        fs: fs.to_owned(),
        mode,
        left: left.map_err(|refused| layer_error("", &refused))?,
    })
}

#[cfg(feature = "fuzzing")]
pub(crate) use pipeline::inflate_all;
