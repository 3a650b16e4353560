//! Load: images from a file into the store.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::source::Source;
use crate::error::FileContext;
use crate::manifest::{self, Compression, Config, Descriptor, Document, Manifest};
use crate::store::{Lease, Record};
use crate::{Digest, Error, Hasher, ImageId, Limits, Platform, Reference, Result, Store, files};

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const DOCKER_MANIFEST: &str = manifest::DOCKER_MANIFEST;
const IMAGES: usize = 1000;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: Digest,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image of a source, still to be brought in.
struct Found {
    manifest: Manifest,
    config: Config,
    record: Record,
}

impl Store {
    /// Loads the images of an OCI layout, an OCI archive or a docker-archive (`-` is standard
    /// input; gzip and zstd are seen through). Where the source has no name that is whole,
    /// `name` is given to a single image. Blocks.
    pub fn load(
        &self,
        path: &Path,
        name: Option<&Reference>,
        limits: &Limits,
    ) -> Result<Vec<ImageId>> {
        let source = Source::open(self, path)?;
        let mut lease = Lease::new(self)?;
        let mut found = if source.has("index.json") {
            self.load_oci(&source, &mut lease)?
        } else if source.has("manifest.json") {
            self.load_docker(&source, &mut lease)?
        } else {
            let why = "has neither index.json (OCI) nor manifest.json (docker-archive)";
            return Err(Error::document(source.name(), why));
        };
        if let Some(name) = name {
            let [only] = found.as_mut_slice() else {
                let why = format!("holds {} images: a name fits one only", found.len());
                return Err(Error::document(source.name(), why));
            };
            only.record.tags = name.tagged().into_iter().collect();
        }
        let mut ids = Vec::new();
        for image in &found {
            let layers = image.manifest.layers_with(&image.config);
            lease.add(layers.iter().map(|layer| &layer.chain_id))?;
            for n in 1..=layers.len() {
                self.install_from_blob(&layers[..n], limits)?;
            }
            ids.push(image.record.id.clone());
        }
        self.change(|index| {
            for image in found {
                index.add(image.record);
            }
            Ok(())
        })?;
        Ok(ids)
    }

    fn load_oci(&self, source: &Source, lease: &mut Lease) -> Result<Vec<Found>> {
        let what = format!("{}: index.json", source.name());
        let index: Index = serde_json::from_slice(&source.document("index.json")?)
            .map_err(|error| Error::document(&what, error))?;
        if index.manifests.len() > IMAGES {
            return Err(Error::document(
                what,
                format!("lists more than {IMAGES} images"),
            ));
        }
        let mut found: Vec<Found> = Vec::new();
        for entry in &index.manifests {
            let image = self.oci_image(source, entry, lease)?;
            match found
                .iter_mut()
                .find(|known| known.record.manifest == image.record.manifest)
            {
                Some(known) => known.record.tags.extend(image.record.tags),
                None => found.push(image),
            }
        }
        if found.is_empty() {
            return Err(Error::document(what, "lists no image"));
        }
        Ok(found)
    }

    fn oci_image(&self, source: &Source, entry: &IndexEntry, lease: &mut Lease) -> Result<Found> {
        let name = format!("{}: {}", source.name(), entry.digest);
        let first = blob_document(source, &entry.digest)?;
        let mut bytes = first.clone();
        let mut document = Document::parse(&name, &bytes)?;
        for _ in 0..4 {
            let Document::Index(descriptors) = &document else {
                break;
            };
            let chosen = manifest::choose(&name, descriptors, &Platform::host())?;
            bytes = blob_document(source, &chosen.digest)?;
            document = Document::parse(&name, &bytes)?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(Error::document(name, "indexes nested too deep"));
        };
        manifest
            .layers
            .iter()
            .try_for_each(Descriptor::check_layer)?;
        let config_bytes = blob_document(source, &manifest.config.digest)?;
        let config = Config::parse(&name, &config_bytes)?;
        manifest.check_against(&name, &config)?;
        let digest = Digest::of(&bytes);
        lease.add([&entry.digest, &digest, &manifest.config.digest])?;
        lease.add(manifest.layers.iter().map(|layer| &layer.digest))?;
        for bytes in [&first, &bytes, &config_bytes] {
            self.put_document(bytes)?;
        }
        for layer in &manifest.layers {
            let (reader, _) = source.file(&blob_name(&layer.digest))?;
            self.put_blob(&format!("{name}: layer"), reader, &layer.digest, layer.size)?;
        }
        let tag = oci_name(entry);
        let mut repo_digests = BTreeSet::new();
        // An index is known by its digest; without a name there is none to join it to.
        if let Some(tag) = tag.as_ref().filter(|_| entry.digest != digest) {
            repo_digests.insert(tag.with_digest(&entry.digest));
        }
        let record = Record {
            manifest: digest,
            media_type: manifest.media_type.clone(),
            size: bytes.len() as u64,
            id: manifest.config.digest.clone(),
            tags: tag.and_then(|tag| tag.tagged()).into_iter().collect(),
            repo_digests,
            pinned: false,
        };
        Ok(Found {
            manifest: *manifest,
            config,
            record,
        })
    }

    fn load_docker(&self, source: &Source, lease: &mut Lease) -> Result<Vec<Found>> {
        let what = format!("{}: manifest.json", source.name());
        let entries: Vec<DockerEntry> = serde_json::from_slice(&source.document("manifest.json")?)
            .map_err(|error| Error::document(&what, error))?;
        if entries.is_empty() || entries.len() > IMAGES {
            return Err(Error::document(
                what,
                format!("lists no image, or more than {IMAGES}"),
            ));
        }
        entries
            .iter()
            .map(|entry| self.docker_image(source, entry, lease))
            .collect()
    }

    /// A docker-archive has no manifest of image-spec: one is made, with its layers as they are.
    fn docker_image(
        &self,
        source: &Source,
        entry: &DockerEntry,
        lease: &mut Lease,
    ) -> Result<Found> {
        let name = format!("{}: {}", source.name(), entry.config);
        let config_bytes = source.document(&entry.config)?;
        let config = Config::parse(&name, &config_bytes)?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            let (reader, _) = source.file(layer)?;
            let (digest, size, compression) =
                self.ingest_blob(&format!("{name}: {layer}"), reader, lease)?;
            let suffix = match compression {
                Compression::None => "tar",
                Compression::Gzip => "tar.gzip",
                Compression::Zstd => "tar.zstd",
            };
            let kind = format!("application/vnd.docker.image.rootfs.diff.{suffix}");
            layers.push(json!({"mediaType": kind, "digest": digest, "size": size}));
        }
        let id = Digest::of(&config_bytes);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": id,
                "size": config_bytes.len(),
            },
            "layers": layers,
        });
        let bytes = crate::draft::canonical(&manifest)?;
        let manifest = Manifest::parse(&name, &bytes)?;
        manifest.check_against(&name, &config)?;
        let digest = Digest::of(&bytes);
        lease.add([&digest, &id])?;
        self.put_document(&config_bytes)?;
        self.put_document(&bytes)?;
        let mut tags = BTreeSet::new();
        for tag in entry.repo_tags.iter().flatten() {
            tags.extend(tag.parse::<Reference>()?.tagged());
        }
        let size = bytes.len() as u64;
        let media_type = DOCKER_MANIFEST.to_owned();
        let repo_digests = BTreeSet::new();
        let record = Record {
            manifest: digest,
            media_type,
            size,
            id,
            tags,
            repo_digests,
            pinned: false,
        };
        Ok(Found {
            manifest,
            config,
            record,
        })
    }

    /// Stores a blob whose digest is known, verified.
    pub(crate) fn put_blob(
        &self,
        what: &str,
        reader: impl Read,
        expected: &Digest,
        size: u64,
    ) -> Result<()> {
        if self.has_blob(expected, size) {
            return Ok(());
        }
        let temp = self
            .ingest_dir()
            .join(format!("{}.{}", expected.hex(), files::unique_name()));
        let copied = copy_hashed(reader.take(size + 1), &temp);
        let checked = copied.and_then(|(got, length, _)| {
            if length != size {
                let what = format!("{what} {expected}");
                return Err(Error::SizeMismatch {
                    what,
                    expected: size,
                    got: length,
                });
            }
            if got != *expected {
                let expected = expected.clone();
                return Err(Error::DigestMismatch {
                    what: what.to_owned(),
                    expected,
                    got,
                });
            }
            let blob = self.blob_path(expected);
            fs::rename(&temp, &blob).at("rename to", &blob)?;
            files::sync_dir(&self.blob_dir())
        });
        if checked.is_err() {
            files::remove_all(&temp)?;
        }
        checked
    }

    /// Stores a blob whose digest is not known before.
    fn ingest_blob(
        &self,
        what: &str,
        reader: impl Read,
        lease: &mut Lease,
    ) -> Result<(Digest, u64, Compression)> {
        let temp = lease.temp()?;
        let done = copy_hashed(reader, &temp).and_then(|(digest, size, compression)| {
            lease.add([&digest])?;
            let blob = self.blob_path(&digest);
            fs::rename(&temp, &blob).at("rename to", &blob)?;
            files::sync_dir(&self.blob_dir())?;
            Ok((digest, size, compression))
        });
        if done.is_err() {
            files::remove_all(&temp)?;
            tracing::debug!(what, "a blob was not taken in");
        }
        done
    }
}

/// Writes a stream to a new file, durably.
fn copy_hashed(mut reader: impl Read, path: &Path) -> Result<(Digest, u64, Compression)> {
    use std::io::Write;
    let mut file = File::create_new(path).at("create", path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    let mut compression = None;
    loop {
        let n = match reader.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.at("read into", path)?,
        };
        if n == 0 {
            break;
        }
        compression.get_or_insert_with(|| Compression::sniff(&buffer[..n]));
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).at("write", path)?;
    }
    file.sync_all().at("sync", path)?;
    let (digest, size) = hasher.finish();
    Ok((digest, size, compression.unwrap_or(Compression::None)))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn blob_document(source: &Source, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = source.document(&blob_name(digest))?;
    let got = Digest::of(&bytes);
    if got != *digest {
        let what = format!("{}: {}", source.name(), blob_name(digest));
        return Err(Error::DigestMismatch {
            what,
            expected: digest.clone(),
            got,
        });
    }
    Ok(bytes)
}

/// A name that says which registry or repository it is of: a bare tag does not.
fn oci_name(entry: &IndexEntry) -> Option<Reference> {
    let names = [CONTAINERD_NAME, REF_NAME]
        .into_iter()
        .filter_map(|key| entry.annotations.get(key));
    names
        .filter(|name| name.contains(['/', ':']))
        .find_map(|name| name.parse().ok())
}
