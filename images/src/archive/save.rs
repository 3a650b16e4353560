//! Save: images of the store into a file. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::error::FileContext;
use crate::store::Record;
use crate::{Digest, Error, Reference, Result, Store, files};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A directory as image-spec's image-layout.md has it.
    OciLayout,
    /// The same in a tar archive.
    OciArchive,
    /// The same with the `manifest.json` that `docker load` reads.
    DockerArchive,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oci-layout" | "oci-dir" => Ok(Self::OciLayout),
            "oci-archive" | "oci" => Ok(Self::OciArchive),
            "docker-archive" | "docker" => Ok(Self::DockerArchive),
            _ => Err("write oci-layout, oci-archive or docker-archive".to_owned()),
        }
    }
}

/// Where an archive goes.
pub enum SaveTarget<'a> {
    /// A path; a file is replaced once it is whole.
    Path(&'a Path),
    /// A stream; archives only.
    Stream(Box<dyn Write + 'a>),
}

/// A member of what is saved.
enum Member {
    Bytes(Vec<u8>),
    Blob(PathBuf, u64),
}

impl Store {
    /// Saves images with all their names, or with the name by which each was asked for.
    /// Blocks.
    pub fn save(&self, names: &[String], format: Format, target: SaveTarget<'_>) -> Result<()> {
        let members = self.members(names, format)?;
        match (format, target) {
            (Format::OciLayout, SaveTarget::Path(path)) => write_layout(&members, path),
            (Format::OciLayout, SaveTarget::Stream(_)) => Err(Error::unsupported(
                "an OCI layout on standard output",
                "write to a directory",
            )),
            (_, SaveTarget::Stream(stream)) => {
                write_archive(&members, stream).at("write", Path::new("the archive"))
            }
            (_, SaveTarget::Path(path)) => save_file(&members, path),
        }
    }

    fn members(&self, names: &[String], format: Format) -> Result<BTreeMap<String, Member>> {
        let mut members = BTreeMap::new();
        let mut entries = Vec::new();
        let mut docker: BTreeMap<Digest, (serde_json::Value, BTreeSet<String>)> = BTreeMap::new();
        for name in names {
            let record = self.record(name)?;
            let tags = chosen_tags(name, &record);
            let (manifest, _) = self.manifest_of(&record)?;
            let documents = [
                (&record.manifest, record.size),
                (&record.id, manifest.config.size),
            ];
            let layers = manifest
                .layers
                .iter()
                .map(|layer| (&layer.digest, layer.size));
            for (digest, size) in documents.into_iter().chain(layers) {
                if !self.has_blob(digest, size) {
                    let why = "it is kept unpacked only: pull the image again with its blobs";
                    return Err(Error::document(format!("blob {digest} of {name}"), why));
                }
                members.insert(
                    blob_name(digest),
                    Member::Blob(self.blob_path(digest), size),
                );
            }
            entries.extend(index_entries(&record, &tags));
            let layers: Vec<_> = manifest
                .layers
                .iter()
                .map(|layer| blob_name(&layer.digest))
                .collect();
            let base = json!({"Config": blob_name(&record.id), "Layers": layers});
            docker
                .entry(record.id.clone())
                .or_insert((base, BTreeSet::new()))
                .1
                .extend(tags);
        }
        entries.sort_by_key(ToString::to_string);
        entries.dedup();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": crate::manifest::OCI_INDEX,
            "manifests": entries,
        });
        members.insert(
            "index.json".into(),
            Member::Bytes(crate::draft::canonical(&index)?),
        );
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        members.insert("oci-layout".into(), Member::Bytes(layout));
        if format == Format::DockerArchive {
            let list: Vec<_> = docker.into_values().map(docker_entry).collect();
            members.insert(
                "manifest.json".into(),
                Member::Bytes(crate::draft::canonical(&list)?),
            );
        }
        Ok(members)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The tag asked for, or all where it was an id or a digest.
fn chosen_tags(name: &str, record: &Record) -> BTreeSet<String> {
    let asked = name
        .parse::<Reference>()
        .ok()
        .and_then(|reference| reference.tagged());
    match asked.filter(|tag| record.tags.contains(tag)) {
        Some(tag) => BTreeSet::from([tag]),
        None => record.tags.clone(),
    }
}

fn index_entries(record: &Record, tags: &BTreeSet<String>) -> Vec<serde_json::Value> {
    let entry = |annotations: serde_json::Value| {
        let mut entry = json!({
            "mediaType": record.media_type,
            "digest": record.manifest,
            "size": record.size,
        });
        if annotations.as_object().is_some_and(|map| !map.is_empty()) {
            entry["annotations"] = annotations;
        }
        entry
    };
    if tags.is_empty() {
        return vec![entry(json!({}))];
    }
    let named = tags.iter().map(|tag| {
        // Each tool reads the name from the annotation it knows.
        entry(json!({"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag}))
    });
    named.collect()
}

fn docker_entry((mut entry, tags): (serde_json::Value, BTreeSet<String>)) -> serde_json::Value {
    entry["RepoTags"] = tags.iter().map(|tag| familiar(tag)).collect();
    entry
}

/// Docker writes its own registry's names short.
fn familiar(tag: &str) -> &str {
    let short = tag.strip_prefix("docker.io/").unwrap_or(tag);
    short
        .strip_prefix("library/")
        .filter(|_| short != tag)
        .unwrap_or(short)
}

fn write_layout(members: &BTreeMap<String, Member>, path: &Path) -> Result<()> {
    if path.exists() && fs::read_dir(path).at("list", path)?.next().is_some() {
        return Err(Error::document(path.display().to_string(), "is not empty"));
    }
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).at("create", &blobs)?;
    // The index comes last: without it the directory is no image.
    let (last, first): (Vec<_>, Vec<_>) =
        members.iter().partition(|(name, _)| *name == "index.json");
    for (name, member) in first.into_iter().chain(last) {
        let to = path.join(name);
        match member {
            Member::Bytes(bytes) => files::write_durable(&to, bytes)?,
            Member::Blob(from, _) => {
                let mut source = File::open(from).at("open", from)?;
                let mut target = File::create(&to).at("create", &to)?;
                io::copy(&mut source, &mut target).at("write", &to)?;
                target.sync_all().at("sync", &to)?;
            }
        }
    }
    Ok(())
}

fn save_file(members: &BTreeMap<String, Member>, path: &Path) -> Result<()> {
    let name = path
        .file_name()
        .map_or("archive".into(), |name| name.to_string_lossy());
    let temp = path.with_file_name(format!(".{name}.{}", files::unique_name()));
    let file = File::create_new(&temp).at("create", &temp)?;
    let written = write_archive(members, BufWriter::with_capacity(256 << 10, &file))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temp, path));
    if written.is_err() {
        files::remove_all(&temp)?;
    }
    written.at("write", path)
}

fn write_archive(members: &BTreeMap<String, Member>, stream: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(stream);
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = header(0, 0o755);
        header.set_entry_type(EntryType::Directory);
        builder.append_data(&mut header, directory, io::empty())?;
    }
    for (name, member) in members {
        match member {
            Member::Bytes(bytes) => {
                builder.append_data(
                    &mut header(bytes.len() as u64, 0o644),
                    name,
                    bytes.as_slice(),
                )?;
            }
            Member::Blob(path, size) => {
                let file = File::open(path)?;
                builder.append_data(&mut header(*size, 0o644), name, file.take(*size))?;
            }
        }
    }
    builder.into_inner()?.flush()
}

fn header(size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_own_names_are_short() {
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(familiar("docker.io/user/app:1"), "user/app:1");
        assert_eq!(familiar("r.io/library/app:1"), "r.io/library/app:1");
    }
}
