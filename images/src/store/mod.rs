//! The store: an OCI layout whose `index.json` lists the images that are whole, beside the
//! unpacked layers.
//!
//! ```text
//! <root>/oci-layout, index.json    image-layout; annotations carry names, ids and pins
//! <root>/blobs/sha256/<hex>        manifests, configurations, indexes, layers as fetched
//! <root>/layers/<chain>/fs         one layer unpacked for overlayfs (whiteouts are devices 0:0), or
//!                                  where its erofs image is mounted
//! <root>/layers/<chain>/layer.erofs that image (see snapshot)
//! <root>/layers/<chain>/layer.json what it is and how large
//! <root>/layers/<chain>/extents    which of its files have which bytes, where its maker said so
//! <root>/ingest/                   what is being fetched and unpacked
//! <root>/leases/<name>             what running pulls need, locked while they run
//! <root>/rootfs/<key>.json         which layers a container stands on
//! <root>/build-mounts/             directories that RUN --mount=type=cache keeps
//! <root>/build/, build-cache/   running builds; which layers a command made before
//! <root>/trash/                    what garbage collection is deleting
//! <root>/index.lock, locks/        flock(2)
//! ```
//!
//! Any number of processes may use a store at the same time. Every change of `index.json`, and
//! every decision of what is garbage, is made under `index.lock`, which is held for
//! milliseconds. A pull writes a lease that names what it needs before it looks what is there.

mod check;
mod dedup;
mod extents;
mod fuse;
mod gc;
mod index;
mod layers;
mod lease;
mod mounts;
mod quota;
mod rootfs;
mod snapshot;
mod usage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use check::{CheckReport, Problem};
pub use mounts::{Change, ChangeKind};
pub use rootfs::OverlayRootfs;
pub use snapshot::LayerFormat;

pub(crate) use index::{Index, Record};
pub(crate) use layers::LayerMeta;
pub(crate) use lease::Lease;
pub(crate) use snapshot::LayerTree;

use crate::error::FileContext;
use crate::identity::Privilege;
use crate::manifest::{self, Manifest};
use crate::{Digest, Error, Image, ImageId, Reference, Removed, Result, files};

/// An image store. Cheap to clone; all clones and all processes may use it at once.
///
/// Methods that are not `async` do short file operations and block.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    privilege: Privilege,
    format: LayerFormat,
}

/// Documents (manifests, indexes, configurations) are refused above this size in bytes, the
/// limit that registries have.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;

impl Store {
    /// Opens the store below `root`, and makes it where there is none. What a killed process
    /// left half-made is removed.
    ///
    /// The root is its owner's alone (mode 0700): layers hold programs that are set-user-id, with
    /// whatever weakness their version has, and no other user of the machine may reach them
    /// (CVE-2021-41103 was that in containerd). An overlay mount needs no way through it for the
    /// container's processes: its layers are resolved once, by who mounts.
    pub fn open(root: &Path) -> Result<Self> {
        let dirs = [
            "build",
            "build-cache",
            "blobs/sha256",
            "layers",
            "ingest",
            "leases",
            "rootfs",
            "trash",
            "locks",
        ];
        files::create_private(root)?;
        for dir in dirs {
            let path = root.join(dir);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        files::spread_directories(&root.join("ingest"));
        let root = root.canonicalize().at("resolve", root)?;
        let layout = root.join("oci-layout");
        if !layout.exists() {
            files::write_durable(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let privilege = Privilege::now();
        let store = Self {
            root,
            privilege,
            format: LayerFormat::default(),
        };
        Index::load(&store)?;
        if store.has_stale_lease()? {
            store.gc()?;
        }
        Ok(store)
    }

    /// The directory given to [`Store::open`], resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images that are whole, each once, sorted by their first name.
    ///
    /// An image whose documents are damaged is left out and reported through `tracing`;
    /// `check` says more.
    pub fn list(&self) -> Result<Vec<Image>> {
        let index = Index::load(self)?;
        let mut images: Vec<Image> = Vec::new();
        for record in &index.records {
            match self.image_of(record) {
                Ok(image) => merge(&mut images, image),
                Err(error) => tracing::warn!(
                    manifest = %record.manifest,
                    error = &error as &dyn std::error::Error,
                    "image left out: its documents are damaged"
                ),
            }
        }
        images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        Ok(images)
    }

    /// The image of a name, a `name@digest`, an id, or the first characters of an id.
    pub fn get(&self, name: &str) -> Result<Option<Image>> {
        let index = Index::load(self)?;
        let Some(first) = index.find(name)? else {
            return Ok(None);
        };
        let mut images = Vec::new();
        for record in index.records.iter().filter(|r| r.id == first.id) {
            merge(&mut images, self.image_of(record)?);
        }
        Ok(images.pop())
    }

    /// The same, where a missing image is an error.
    pub fn inspect(&self, name: &str) -> Result<Image> {
        self.get(name)?
            .ok_or_else(|| Error::NoImage(name.to_owned()))
    }

    pub(crate) fn record(&self, name: &str) -> Result<Record> {
        let index = Index::load(self)?;
        let record = index.find(name)?.cloned();
        record.ok_or_else(|| Error::NoImage(name.to_owned()))
    }

    /// Gives an image one more name.
    pub fn tag(&self, name: &str, new: &Reference) -> Result<()> {
        let tag = new.tagged().ok_or(Error::Reference {
            input: new.to_string(),
            why: "a new name needs a tag, not a digest",
        })?;
        self.change(|index| {
            let record = index
                .find(name)?
                .ok_or_else(|| Error::NoImage(name.to_owned()))?;
            let manifest = record.manifest.clone();
            index.set_tag(&manifest, &tag);
            Ok(())
        })
    }

    /// Protects an image from [`Store::prune`], or ends that.
    pub fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        self.change(|index| {
            let id = index
                .find(name)?
                .ok_or_else(|| Error::NoImage(name.to_owned()))?
                .id
                .clone();
            index
                .records
                .iter_mut()
                .filter(|r| r.id == id)
                .for_each(|r| r.pinned = pinned);
            Ok(())
        })
    }

    /// Removes by name (the image goes with its last name), or by id (with all its names).
    ///
    /// Layers that a container stands on stay until it is released. An image that is not there
    /// is [`Error::NoImage`].
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let mut removed = Removed::default();
        self.change(|index| {
            let (untagged, images) = index.remove(name)?;
            removed.untagged = untagged;
            removed.images = images;
            Ok(())
        })?;
        removed.bytes = self.gc()?;
        Ok(removed)
    }

    /// Removes the images that no tag names, or with `all` those that no container uses.
    /// Pinned images stay.
    pub fn prune(&self, all: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        let used: Vec<ImageId> = self
            .rootfs_records()?
            .into_iter()
            .map(|r| r.image)
            .collect();
        self.change(|index| {
            let keep = |r: &Record| {
                r.pinned
                    || if all {
                        used.contains(&r.id)
                    } else {
                        !r.tags.is_empty()
                    }
            };
            for record in index.records.iter().filter(|r| !keep(r)) {
                removed.untagged.extend(record.names());
                removed.images.push(record.id.clone());
            }
            index.records.retain(keep);
            Ok(())
        })?;
        removed.bytes = self.gc_all()?;
        Ok(removed)
    }

    /// Runs one change of the index under its lock and makes it durable.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = self.lock_index()?;
        let mut index = Index::load(self)?;
        let result = edit(&mut index)?;
        index.save(self)?;
        Ok(result)
    }

    /// What its process may do.
    pub(crate) fn privilege(&self) -> Privilege {
        self.privilege
    }

    pub(crate) fn lock_index(&self) -> Result<File> {
        lock_file(&self.root.join("index.lock"))
    }

    /// One fetch or unpack of the same content at a time, over all processes. Blocks.
    pub(crate) fn lock_content(&self, digest: &Digest) -> Result<File> {
        lock_file(&self.root.join("locks").join(digest.hex()))
    }

    pub(crate) fn blob_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir().join(digest.hex())
    }

    /// Where builds run, one directory each, named as their lease has it.
    pub(crate) fn build_dir(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Directories of `RUN --mount=type=cache`, each with its lock beside it.
    pub(crate) fn cache_mount_dir(&self) -> PathBuf {
        self.root.join("build-mounts")
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|meta| meta.len() == size)
    }

    /// Stores a document durably. Its digest is its name.
    pub(crate) fn put_document(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest, bytes.len() as u64) {
            files::write_durable(&self.blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Reads a document and verifies it.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = files::read_limited(&path, DOCUMENT_LIMIT)?;
        let got = Digest::of(&bytes);
        if got != *digest {
            let what = path.display().to_string();
            return Err(Error::DigestMismatch {
                what,
                expected: digest.clone(),
                got,
            });
        }
        Ok(bytes)
    }

    /// Manifest and configuration of a record, as they are in the store.
    pub(crate) fn manifest_of(&self, record: &Record) -> Result<(Manifest, manifest::Config)> {
        let name = record.manifest.as_str();
        let manifest = Manifest::parse(name, &self.document(&record.manifest)?)?;
        let config = manifest::Config::parse(name, &self.document(&manifest.config.digest)?)?;
        manifest.check_against(name, &config)?;
        Ok((manifest, config))
    }

    fn image_of(&self, record: &Record) -> Result<Image> {
        let (manifest, config) = self.manifest_of(record)?;
        let layers = manifest.layers_with(&config);
        let mut size = 0;
        for layer in &layers {
            size +=
                Self::layer_usage(&self.layer_dir(&layer.chain_id)).map_or(0, |usage| usage.bytes);
            size += self.blob_bytes(&layer.digest);
        }
        size += self.blob_bytes(&record.manifest) + self.blob_bytes(&record.id);
        Ok(Image {
            id: record.id.clone(),
            manifest: record.manifest.clone(),
            repo_tags: record.tags.iter().cloned().collect(),
            repo_digests: record.repo_digests.iter().cloned().collect(),
            size,
            pinned: record.pinned,
            annotations: manifest.annotations,
            created: config.created.clone(),
            platform: config.platform.clone(),
            config: config.run,
            layers,
            history: config.history,
        })
    }
}

/// Two manifests with the same configuration are one image.
fn merge(images: &mut Vec<Image>, image: Image) {
    let Some(known) = images.iter_mut().find(|known| known.id == image.id) else {
        images.push(image);
        return;
    };
    known.repo_tags.extend(image.repo_tags);
    known.repo_digests.extend(image.repo_digests);
    known.repo_tags.sort();
    known.repo_digests.sort();
    known.repo_tags.dedup();
    known.repo_digests.dedup();
    known.pinned |= image.pinned;
    for (key, value) in image.annotations {
        known.annotations.entry(key).or_insert(value);
    }
}

fn lock_file(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .at("open", path)?;
    file.lock().at("lock", path)?;
    Ok(file)
}
