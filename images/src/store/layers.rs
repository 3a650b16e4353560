//! Unpacked layers and what is known of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::snapshot::{self, LayerTree};
use super::{DOCUMENT_LIMIT, Store};
use crate::error::FileContext;
use crate::{Digest, Error, Result, files};

const FORMAT_VERSION: u32 = 1;

/// `layer.json`, written before the layer appears under its chain id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    pub version: u32,
    pub diff_id: Digest,
    /// As it was fetched.
    pub digest: Digest,
    pub compressed_size: u64,
    /// Space on disk.
    pub bytes: u64,
    pub inodes: u64,
    /// Where it is kept as an erofs image (version 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erofs: Option<snapshot::Image>,
}

impl LayerMeta {
    pub fn new(digest: Digest, compressed_size: u64, diff_id: Digest) -> Self {
        Self {
            version: FORMAT_VERSION,
            diff_id,
            digest,
            compressed_size,
            bytes: 0,
            inodes: 0,
            erofs: None,
        }
    }
}

impl Store {
    /// Directory of a layer, whether it is there or not.
    pub(crate) fn layer_dir(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// The tree that overlayfs gets.
    pub(crate) fn layer_fs(&self, chain: &Digest) -> Result<LayerTree> {
        Self::tree_at(&self.layer_dir(chain))
    }

    /// True where the layer is whole.
    pub(crate) fn has_layer(&self, chain: &Digest) -> bool {
        self.layer_meta(chain).is_ok()
    }

    pub(crate) fn layer_meta(&self, chain: &Digest) -> Result<LayerMeta> {
        Self::layer_meta_at(&self.layer_dir(chain))
    }

    pub(crate) fn layer_meta_at(dir: &Path) -> Result<LayerMeta> {
        let path = dir.join("layer.json");
        let meta: LayerMeta = serde_json::from_slice(&files::read_limited(&path, DOCUMENT_LIMIT)?)
            .map_err(|error| Error::document(path.display().to_string(), error))?;
        if meta.version != FORMAT_VERSION + u32::from(meta.erofs.is_some()) {
            let why = format!("layer format {} is not known here", meta.version);
            return Err(Error::document(path.display().to_string(), why));
        }
        Ok(meta)
    }

    /// Gives a finished layer its name. `staged` holds `fs`, already durable.
    pub(crate) fn publish_layer(
        &self,
        staged: &Path,
        chain: &Digest,
        meta: &LayerMeta,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(meta).expect("the metadata is plain");
        files::write_durable(&staged.join("layer.json"), &bytes)?;
        let dir = self.layer_dir(chain);
        if dir.exists() && !self.has_layer(chain) {
            Self::retire_layer(&dir)?;
            files::remove_all(&dir)?;
        }
        match fs::rename(staged, &dir) {
            Err(_) if self.has_layer(chain) => files::remove_all(staged)?,
            other => other.at("rename to", &dir)?,
        }
        files::sync_dir(&self.root.join("layers"))
    }
}
