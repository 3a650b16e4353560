//! Layers into directories.
//!
//! ```text
//! chunks ─▶ hash, keep ─▶ inflate ─┬─▶ hash
//!                                  └─▶ read tar, write files ─▶ finish ─▶ sync
//! ```
//!
//! Each arrow is a bounded channel between threads: the layer is never whole in memory.

mod dirs;
mod entry;
mod finish;
mod path;
mod pipeline;
mod stream;
mod write;

use std::path::{Path, PathBuf};

pub(crate) use pipeline::{Job, Keep, run};

use crate::{Error, Result, Usage};

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
}

impl Mode {
    pub fn overlay(rootless: bool) -> Self {
        Self {
            owners: !rootless,
            devices: !rootless,
            user_xattr: rootless,
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
    pub fn finish(self, lower: &[PathBuf]) -> Result<Usage> {
        let refused = |refused: entry::Refused| layer_error(&self.layer, &refused);
        let open = finish::open_root(&self.fs);
        let root = open.map_err(|source| file_error("open", &self.fs, source))?;
        finish::finish(root, self.left, lower, self.mode).map_err(refused)?;
        finish::sync_tree(&self.fs).map_err(|source| file_error("sync", &self.fs, source))
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
