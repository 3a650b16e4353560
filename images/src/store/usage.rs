//! What the store takes on disk.
//!
//! Layers were counted when they were made and do not change, so that their trees are not walked
//! again; all else is looked at.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use crate::error::FileContext;
use crate::{Digest, DiskUsage, Result, Usage, files};

impl Store {
    /// What blobs and layers take on disk.
    pub fn usage(&self) -> Result<Usage> {
        let (layers, blobs) = (self.layers_usage()?, files::tree_usage(&self.blob_dir())?);
        Ok(add(layers, blobs))
    }

    /// What each part of the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let mut usage = DiskUsage {
            other: own_usage(&self.root)?.unwrap_or_default(),
            ..DiskUsage::default()
        };
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let entry = entry.at("list", &self.root)?;
            let part = match entry.file_name().to_str() {
                Some("layers") => {
                    usage.layers = self.layers_usage()?;
                    continue;
                }
                Some("blobs") => &mut usage.blobs,
                Some("ingest") => &mut usage.downloads,
                Some("build" | "build-cache" | "build-mounts") => &mut usage.builds,
                _ => &mut usage.other,
            };
            *part = add(*part, files::tree_usage(&entry.path())?);
        }
        Ok(usage)
    }

    fn layers_usage(&self) -> Result<Usage> {
        let dir = self.root.join("layers");
        let mut usage = own_usage(&dir)?.unwrap_or_default();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            usage = add(usage, Self::layer_usage(&path)?);
        }
        Ok(usage)
    }

    /// A layer with what is noted of it. One whose note is damaged, as `check` finds, is walked.
    pub(super) fn layer_usage(dir: &Path) -> Result<Usage> {
        let Ok(meta) = Self::layer_meta_at(dir) else {
            return files::tree_usage(dir);
        };
        let mut usage = Usage {
            bytes: meta.bytes,
            inodes: meta.inodes,
        };
        // Few: the tree's own root was counted with it.
        let beside = fs::read_dir(dir).into_iter().flatten().flatten();
        let beside = beside
            .map(|entry| entry.path())
            .filter(|p| !p.ends_with("fs"));
        for path in beside.chain([dir.to_owned()]) {
            usage = add(usage, own_usage(&path)?.unwrap_or_default());
        }
        Ok(usage)
    }

    /// Space of a blob; 0 where it is not kept.
    pub(super) fn blob_bytes(&self, digest: &Digest) -> u64 {
        let usage = own_usage(&self.blob_path(digest));
        usage.ok().flatten().map_or(0, |usage| usage.bytes)
    }
}

fn add(a: Usage, b: Usage) -> Usage {
    Usage {
        bytes: a.bytes + b.bytes,
        inodes: a.inodes + b.inodes,
    }
}

/// A file or directory alone, without what is in it; `None` where it is not there.
fn own_usage(path: &Path) -> Result<Option<Usage>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            let bytes = other.at("stat", path)?.blocks() * 512;
            Ok(Some(Usage { bytes, inodes: 1 }))
        }
    }
}
