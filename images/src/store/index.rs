//! `index.json`: which images are whole, their names, ids and pins.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Store;
use crate::{Digest, Error, ImageId, Reference, Result, files};

const FORMAT_VERSION: &str = "1";
const STORE_VERSION: &str = "io.rrun.store.version";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_ID: &str = "io.rrun.image.id";
const REPO_DIGESTS: &str = "io.rrun.image.repo-digests";
const PINNED: &str = "io.rrun.image.pinned";
const MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const INDEX_LIMIT: u64 = 64 << 20;

/// An image of the index: one manifest with all its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub manifest: Digest,
    pub media_type: String,
    pub size: u64,
    pub id: ImageId,
    pub tags: BTreeSet<String>,
    pub repo_digests: BTreeSet<String>,
    pub pinned: bool,
}

impl Record {
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.tags.iter().chain(&self.repo_digests).cloned()
    }

    /// Digests that the record itself names: the manifest, the configuration, and the indexes
    /// by which registries know it.
    pub fn documents(&self) -> impl Iterator<Item = Digest> + '_ {
        let indexes = self
            .repo_digests
            .iter()
            .filter_map(|name| name.split_once('@')?.1.parse().ok());
        [self.manifest.clone(), self.id.clone()]
            .into_iter()
            .chain(indexes)
    }
}

/// The parsed index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Entry>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Index {
    /// Reads the index. One that is not there is empty.
    pub fn load(store: &Store) -> Result<Self> {
        let path = store.root.join("index.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let what = path.display().to_string();
        let file: File = serde_json::from_slice(&files::read_limited(&path, INDEX_LIMIT)?)
            .map_err(|error| Error::document(&what, error))?;
        match file.annotations.get(STORE_VERSION).map(String::as_str) {
            Some(FORMAT_VERSION) => Self::from_entries(&what, file.manifests),
            Some(other) => Err(Error::document(
                what,
                format!("store format {other} is not known here: use the newer rrun that made it"),
            )),
            None => Err(Error::document(
                what,
                "an OCI layout, but not one of our stores",
            )),
        }
    }

    fn from_entries(what: &str, entries: Vec<Entry>) -> Result<Self> {
        let mut index = Self::default();
        for entry in entries {
            let note = |key| entry.annotations.get(key).map(String::as_str);
            let id = note(IMAGE_ID)
                .ok_or_else(|| Error::document(what, format!("{} has no id", entry.digest)))?
                .parse()?;
            let position = index
                .records
                .iter()
                .position(|r| r.manifest == entry.digest);
            let position = position.unwrap_or_else(|| {
                index.records.push(Record {
                    manifest: entry.digest.clone(),
                    media_type: entry.media_type.clone(),
                    size: entry.size,
                    id,
                    tags: BTreeSet::new(),
                    repo_digests: BTreeSet::new(),
                    pinned: false,
                });
                index.records.len() - 1
            });
            let record = &mut index.records[position];
            record.tags.extend(note(REF_NAME).map(str::to_owned));
            let digests = note(REPO_DIGESTS).unwrap_or_default();
            record
                .repo_digests
                .extend(digests.split_whitespace().map(str::to_owned));
            record.pinned |= note(PINNED) == Some("true");
        }
        Ok(index)
    }

    /// Writes the index durably. The caller holds the lock.
    pub fn save(&self, store: &Store) -> Result<()> {
        let file = File {
            schema_version: 2,
            media_type: MEDIA_TYPE.to_owned(),
            manifests: self.records.iter().flat_map(entries).collect(),
            annotations: BTreeMap::from([(STORE_VERSION.to_owned(), FORMAT_VERSION.to_owned())]),
        };
        let bytes = serde_json::to_vec_pretty(&file).expect("the index has only strings as keys");
        files::write_durable(&store.root.join("index.json"), &bytes)
    }

    /// The record of a name, `name@digest`, id, or unique start of an id.
    pub fn find(&self, name: &str) -> Result<Option<&Record>> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && hex.len() == 64 {
            let found = self
                .records
                .iter()
                .find(|r| r.id.hex() == hex || r.manifest.hex() == hex);
            return Ok(found);
        }
        if let Ok(reference) = name.parse::<Reference>()
            && let Some(record) = self.find_reference(&reference)
        {
            return Ok(Some(record));
        }
        if !is_hex {
            name.parse::<Reference>()?;
            return Ok(None);
        }
        let mut matches = self.records.iter().filter(|r| r.id.hex().starts_with(hex));
        let first = matches.next();
        match first {
            Some(first) if matches.any(|other| other.id != first.id) => {
                Err(Error::Ambiguous(name.to_owned()))
            }
            _ => Ok(first),
        }
    }

    /// The digest decides where there is one; a tag beside it is only a remark.
    fn find_reference(&self, reference: &Reference) -> Option<&Record> {
        if let Some(digest) = reference.digest() {
            let name = reference.with_digest(digest);
            return self.records.iter().find(|r| r.repo_digests.contains(&name));
        }
        let tag = reference.tagged()?;
        self.records.iter().find(|r| r.tags.contains(&tag))
    }

    /// Adds a record, or merges its names into the one of the same manifest.
    pub fn add(&mut self, record: Record) {
        for other in self
            .records
            .iter_mut()
            .filter(|r| r.manifest != record.manifest)
        {
            other.tags.retain(|tag| !record.tags.contains(tag));
        }
        match self
            .records
            .iter_mut()
            .find(|r| r.manifest == record.manifest)
        {
            Some(known) => {
                known.tags.extend(record.tags);
                known.repo_digests.extend(record.repo_digests);
                known.pinned |= record.pinned;
            }
            None => self.records.push(record),
        }
    }

    /// Moves a tag to a manifest.
    pub fn set_tag(&mut self, manifest: &Digest, tag: &str) {
        for record in &mut self.records {
            record.tags.remove(tag);
            if record.manifest == *manifest {
                record.tags.insert(tag.to_owned());
            }
        }
    }

    /// Takes a name away, and the image with its last one; or an id with all its names.
    /// Returns the names and images that are gone.
    pub fn remove(&mut self, name: &str) -> Result<(Vec<String>, Vec<ImageId>)> {
        let record = self
            .find(name)?
            .ok_or_else(|| Error::NoImage(name.to_owned()))?;
        let (manifest, id) = (record.manifest.clone(), record.id.clone());
        let mut untagged = Vec::new();
        let reference = name.parse::<Reference>().ok();
        let by_name = reference.filter(|r| self.find_reference(r).is_some());
        for record in self.records.iter_mut().filter(|r| r.id == id) {
            match &by_name {
                Some(reference) if record.manifest == manifest => {
                    take_name(record, reference, &mut untagged);
                }
                Some(_) => {}
                None => {
                    untagged.extend(record.names());
                    record.tags.clear();
                    record.repo_digests.clear();
                }
            }
        }
        let named = |r: &Record| r.id != id || r.names().next().is_some();
        self.records.retain(named);
        let gone = !self.records.iter().any(|r| r.id == id);
        Ok((untagged, if gone { vec![id] } else { Vec::new() }))
    }
}

/// A tag's removal takes the digests of its repository along once no tag of it is left.
fn take_name(record: &mut Record, reference: &Reference, untagged: &mut Vec<String>) {
    let name = match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference.tagged().unwrap_or_default(),
    };
    if record.tags.remove(&name) || record.repo_digests.remove(&name) {
        untagged.push(name);
    }
    let repository = reference.name();
    let tag_prefix = format!("{repository}:");
    if reference.digest().is_none() && !record.tags.iter().any(|t| t.starts_with(&tag_prefix)) {
        let digest_prefix = format!("{repository}@");
        let (gone, kept) = record
            .repo_digests
            .iter()
            .cloned()
            .partition(|d| d.starts_with(&digest_prefix));
        record.repo_digests = kept;
        let gone: BTreeSet<String> = gone;
        untagged.extend(gone);
    }
}

/// One entry for each tag, as image-layout wants it, or one without a name.
fn entries(record: &Record) -> Vec<Entry> {
    let mut notes = BTreeMap::from([(IMAGE_ID.to_owned(), record.id.to_string())]);
    if !record.repo_digests.is_empty() {
        let digests: Vec<&str> = record.repo_digests.iter().map(String::as_str).collect();
        notes.insert(REPO_DIGESTS.to_owned(), digests.join(" "));
    }
    if record.pinned {
        notes.insert(PINNED.to_owned(), "true".to_owned());
    }
    let entry = |name: Option<&String>| {
        let mut annotations = notes.clone();
        annotations.extend(name.map(|name| (REF_NAME.to_owned(), name.clone())));
        Entry {
            media_type: record.media_type.clone(),
            digest: record.manifest.clone(),
            size: record.size,
            annotations,
        }
    };
    if record.tags.is_empty() {
        vec![entry(None)]
    } else {
        record.tags.iter().map(|tag| entry(Some(tag))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8, tags: &[&str], digests: &[&str]) -> Record {
        Record {
            manifest: Digest::of(&[n]),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            size: 1,
            id: Digest::of(&[n, n]),
            tags: tags.iter().map(ToString::to_string).collect(),
            repo_digests: digests.iter().map(ToString::to_string).collect(),
            pinned: n == 1,
        }
    }

    #[test]
    fn the_index_survives_a_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = format!("r.io/a@{}", Digest::of(b"index"));
        let mut index = Index::default();
        index.add(record(1, &["r.io/a:1", "r.io/b:2"], &[&digest]));
        index.add(record(2, &[], &[]));
        index.save(&store).unwrap();
        assert_eq!(Index::load(&store).unwrap(), index);
    }

    #[test]
    fn a_tag_names_one_image_only() {
        let mut index = Index::default();
        index.add(record(1, &["r.io/a:1"], &[]));
        index.add(record(2, &["r.io/a:1"], &[]));
        assert!(index.records[0].tags.is_empty());
        assert_eq!(
            index.find("r.io/a:1").unwrap().unwrap().id,
            Digest::of(&[2, 2])
        );
    }

    #[test]
    fn an_image_goes_with_its_last_name() {
        let digest = format!("r.io/a@{}", Digest::of(b"index"));
        let mut index = Index::default();
        index.add(record(1, &["r.io/a:1", "r.io/a:2"], &[&digest]));
        let (untagged, gone) = index.remove("r.io/a:1").unwrap();
        assert_eq!((untagged.len(), gone.len()), (1, 0));
        let (untagged, gone) = index.remove("r.io/a:2").unwrap();
        assert_eq!(
            (untagged, gone.len()),
            (vec!["r.io/a:2".to_owned(), digest], 1)
        );
        assert!(index.remove("r.io/a:2").unwrap_err().is_not_found());
    }

    #[test]
    fn an_id_takes_all_names_and_may_be_short() {
        let mut index = Index::default();
        index.add(record(1, &["r.io/a:1", "r.io/b:1"], &[]));
        let short = Digest::of(&[1, 1]).hex()[..12].to_owned();
        assert!(index.find(&short).unwrap().is_some());
        let (untagged, gone) = index.remove(&short).unwrap();
        assert_eq!((untagged.len(), gone.len()), (2, 1));
    }
}
