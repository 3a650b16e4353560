//! What the store tells about an image.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Digest, ImageId, Platform};

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// `registry/repository:tag` of every tag, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest` by which registries know it, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk as `du` counts them: the unpacked layers and the blobs that are kept, those
    /// shared with other images included.
    pub size: u64,
    /// Not removed by garbage collection of unused images.
    pub pinned: bool,
    /// Annotations of the manifest (image-spec annotations.md).
    pub annotations: BTreeMap<String, String>,
    /// Creation time as the configuration has it (RFC 3339).
    pub created: Option<String>,
    /// What it runs on.
    pub platform: Platform,
    /// What to run and how.
    pub config: ImageConfig,
    /// Bottom layer first.
    pub layers: Vec<Layer>,
    /// How the image came to be, oldest step first.
    pub history: Vec<History>,
}

impl Image {
    /// An image that is being built, with an id of its own.
    pub(crate) fn of_draft(draft: &crate::draft::Draft) -> Self {
        let layers = draft.layers();
        let id = layers
            .last()
            .map_or_else(|| Digest::of(b""), |layer| layer.chain_id.clone());
        Self {
            manifest: id.clone(),
            id,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: 0,
            pinned: false,
            annotations: BTreeMap::new(),
            created: None,
            platform: draft.platform.clone(),
            config: draft.config.clone(),
            layers,
            history: Vec::new(),
        }
    }
}

/// The part of an image's configuration that a runtime needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, `uid:gid` …, empty for root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Start of the command line.
    pub entrypoint: Vec<String>,
    /// Rest of the command line, replaced by what the user gives.
    pub cmd: Vec<String>,
    /// Working directory, empty for `/`.
    pub working_dir: String,
    /// Signal that stops the container, empty for SIGTERM.
    pub stop_signal: String,
    /// Paths that want a volume of their own.
    pub volumes: Vec<String>,
    /// `80/tcp` …
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Digest as the registry has it.
    pub digest: Digest,
    /// Compressed size in bytes.
    pub compressed_size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Digest over this and all layers below (image-spec config.md): the unpacked layer's name.
    pub chain_id: Digest,
}

/// A step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct History {
    /// RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// True where the step made no layer.
    pub empty_layer: bool,
}

/// What the store takes on disk, for CRI's ImageFsInfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes allocated, as `du` counts them.
    pub bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

/// What each part of the store takes on disk. Together they are what `du` says of the store's
/// directory; of a change that is under way they may have one half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskUsage {
    /// Layers, unpacked.
    pub layers: Usage,
    /// Layers as they were fetched, and documents.
    pub blobs: Usage,
    /// What is being fetched, or broke off.
    pub downloads: Usage,
    /// Builds that run, and what they cached.
    pub builds: Usage,
    /// The index, locks, leases, records of containers, and what is being deleted.
    pub other: Usage,
}

impl DiskUsage {
    /// All of it.
    pub fn total(&self) -> Usage {
        let parts = [
            self.layers,
            self.blobs,
            self.downloads,
            self.builds,
            self.other,
        ];
        parts.into_iter().fold(Usage::default(), |sum, part| Usage {
            bytes: sum.bytes + part.bytes,
            inodes: sum.inodes + part.inodes,
        })
    }
}

/// What [`Store::dedup`](crate::Store::dedup) did; earlier runs' work counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deduplicated {
    /// Files that have no blocks of their own any more.
    pub files: u64,
    /// Bytes that they share with others.
    pub bytes: u64,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Names that no longer name an image.
    pub untagged: Vec<String>,
    /// Images that are gone.
    pub images: Vec<ImageId>,
    /// Bytes given back.
    pub bytes: u64,
}
