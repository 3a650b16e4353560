//! How the store keeps unpacked layers: one implementation of [`Snapshotter`] each.
//!
//! Whichever it is, a layer's files are to be seen in `<layer>/fs` once [`Store::tree_at`] was
//! asked for them, and overlayfs stacks those directories.

mod erofs;
mod tree;

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(super) use erofs::Image;

use super::{LayerMeta, Store};
use crate::identity::Privilege;
use crate::unpack::{Mode, Written};
use crate::{Digest, Error, Result};

/// What new layers are kept as. Layers that a store has stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerFormat {
    /// `overlayfs`: a directory with the layer's files.
    #[default]
    Overlayfs,
    /// `erofs`: one image file, mounted when its files are needed, and protected by fs-verity where
    /// the store's file system has it.
    Erofs,
    /// `erofs-verity`: the same; a file system without fs-verity is an error.
    ErofsVerity,
    /// `fuse-overlayfs`: the directories of `overlayfs`, which fuse-overlayfs(1) stacks. For users who
    /// are not root; all files are their own.
    FuseOverlayfs,
}

impl LayerFormat {
    const WORDS: [(&'static str, Self); 4] = [
        ("overlayfs", Self::Overlayfs),
        ("erofs", Self::Erofs),
        ("erofs-verity", Self::ErofsVerity),
        ("fuse-overlayfs", Self::FuseOverlayfs),
    ];
}

impl FromStr for LayerFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::WORDS.iter().find(|(word, _)| *word == text);
        known.map(|(_, format)| *format).ok_or_else(|| {
            let what = format!("snapshotter {text:?}");
            let why = "write overlayfs, fuse-overlayfs, erofs or erofs-verity";
            Error::document(what, why)
        })
    }
}

impl fmt::Display for LayerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::WORDS.iter().find(|(_, format)| format == self);
        f.write_str(known.map_or("", |(word, _)| word))
    }
}

/// One way to keep layers. A layer's directory is `dir`, or `staged` before it has its name.
pub(super) trait Snapshotter: Sync {
    /// Whether the unpacked tree is what stays.
    fn keeps_tree(&self) -> bool;

    /// Makes of an unpacked tree in `staged/fs` what is kept, durably, and notes it. `below` are
    /// the trees of the layers below, the topmost first.
    fn seal(
        &self,
        staged: &Path,
        written: Written,
        below: &[PathBuf],
        chain: &Digest,
        meta: &mut LayerMeta,
    ) -> Result<()>;

    /// Lets the layer's files be seen in `dir/fs` as long as what is returned lives.
    fn ready(&self, dir: &Path) -> Result<LayerTree>;

    /// Ends what [`Snapshotter::ready`] made, unless somebody holds it or `even_held`. What was never
    /// made is not an error.
    fn retire(&self, dir: &Path, even_held: bool) -> Result<()>;

    /// What is wrong with what is kept, beside what a comparison with the layer's archive shows.
    fn check(&self, dir: &Path, meta: &LayerMeta) -> Result<Option<String>>;
}

/// A directory with a layer's files. They stay there while this lives.
#[derive(Debug)]
pub(crate) struct LayerTree {
    path: PathBuf,
    _held: Option<File>,
}

impl Deref for LayerTree {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// By what a layer's directory holds.
fn of(dir: &Path) -> &'static dyn Snapshotter {
    if erofs::is_image(dir) {
        &erofs::Erofs { must: false }
    } else {
        &tree::Tree
    }
}

impl Store {
    /// The same store, in which new layers are kept in another format.
    pub fn with_format(mut self, format: LayerFormat) -> Result<Self> {
        use LayerFormat::{Erofs, ErofsVerity, FuseOverlayfs, Overlayfs};
        let refused = match (format, self.privilege()) {
            (FuseOverlayfs, Privilege::User) => {
                self.note_fuse()?;
                None
            }
            (FuseOverlayfs, _) => Some("it is for users who are not root: take overlayfs"),
            (Erofs | ErofsVerity, Privilege::User | Privilege::Namespace) => {
                Some("only root may mount erofs images: take overlayfs")
            }
            (Overlayfs, Privilege::Namespace) if self.knows_fuse() => {
                Some("the store is one of fuse-overlayfs: take that, or another --store")
            }
            _ => None,
        };
        if let Some(why) = refused {
            return Err(Error::unsupported(format!("snapshotter {format}"), why));
        }
        self.format = format;
        Ok(self)
    }

    fn snapshotter(&self) -> &'static dyn Snapshotter {
        match self.format {
            LayerFormat::Overlayfs | LayerFormat::FuseOverlayfs => &tree::Tree,
            LayerFormat::Erofs => &erofs::Erofs { must: false },
            LayerFormat::ErofsVerity => &erofs::Erofs { must: true },
        }
    }

    /// How a layer is unpacked that is to be sealed.
    pub(crate) fn unpack_mode(&self) -> Mode {
        let mode = Mode::overlay(self.privilege());
        if self.snapshotter().keeps_tree() {
            mode
        } else {
            mode.unsynced()
        }
    }

    /// Makes a layer of what was unpacked in `staged`, and notes of it what is known.
    pub(crate) fn seal_layer(
        &self,
        staged: &Path,
        written: Written,
        below: &[PathBuf],
        chain: &Digest,
        meta: &mut LayerMeta,
    ) -> Result<()> {
        self.snapshotter().seal(staged, written, below, chain, meta)
    }

    /// The files of a layer's directory.
    pub(crate) fn tree_at(dir: &Path) -> Result<LayerTree> {
        of(dir).ready(dir)
    }

    /// Before a layer's directory goes.
    pub(super) fn retire_layer(dir: &Path) -> Result<()> {
        of(dir).retire(dir, true)
    }

    /// Where nobody needs its files for now.
    pub(super) fn rest_layer(dir: &Path) -> Result<()> {
        of(dir).retire(dir, false)
    }

    /// What is wrong with a layer's directory.
    pub(super) fn check_kept(dir: &Path, meta: &LayerMeta) -> Result<Option<String>> {
        of(dir).check(dir, meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_words() {
        for (word, format) in LayerFormat::WORDS {
            assert_eq!(word.parse::<LayerFormat>().unwrap(), format);
            assert_eq!(format.to_string(), word);
        }
        assert!("zfs".parse::<LayerFormat>().is_err());
    }
}
