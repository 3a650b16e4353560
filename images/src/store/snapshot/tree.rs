//! A layer as a directory with its files.

use std::path::{Path, PathBuf};

use super::{LayerTree, Snapshotter};
use crate::store::LayerMeta;
use crate::unpack::Written;
use crate::{Digest, Result, files};

pub(super) struct Tree;

impl Snapshotter for Tree {
    fn keeps_tree(&self) -> bool {
        true
    }

    fn seal(
        &self,
        _staged: &Path,
        written: Written,
        below: &[PathBuf],
        _chain: &Digest,
        meta: &mut LayerMeta,
    ) -> Result<()> {
        let usage = written.finish(below)?;
        (meta.bytes, meta.inodes) = (usage.bytes, usage.inodes);
        Ok(())
    }

    fn ready(&self, dir: &Path) -> Result<LayerTree> {
        Ok(LayerTree {
            path: dir.join("fs"),
            _held: None,
        })
    }

    fn retire(&self, _dir: &Path, _even_held: bool) -> Result<()> {
        Ok(())
    }

    fn check(&self, dir: &Path, meta: &LayerMeta) -> Result<Option<String>> {
        let usage = match files::tree_usage(&dir.join("fs")) {
            Ok(usage) => usage,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let changed = usage.inodes != meta.inodes;
        Ok(changed.then(|| format!("{} inodes, there were {}", usage.inodes, meta.inodes)))
    }
}
