//! Check: is everything in the store what its name says? And repair of what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{Index, Record, Store};
use crate::error::FileContext;
use crate::unpack::{self, Job, Mode};
use crate::{
    Digest, Error, ImageId, Layer, Limits, ProgressSink, PullOptions, Reference, RegistryOptions,
    Result, digest_reader, files,
};

/// Something in the store that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The blob or the chain id of the layer.
    pub digest: Digest,
    /// True for an unpacked layer, false for a blob.
    pub layer: bool,
    /// Images that need it.
    pub images: BTreeSet<ImageId>,
    /// What is wrong.
    pub why: String,
}

/// What [`Store::check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Blobs that were read.
    pub blobs: u64,
    /// Unpacked layers that were compared with their blob, file by file.
    pub layers: u64,
    /// Unpacked layers whose blob is not kept: only their numbers were compared.
    pub layers_counted: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What an image needs.
#[derive(Default)]
struct Needs {
    /// With true where the image cannot be listed without it.
    blobs: BTreeMap<Digest, (bool, BTreeSet<ImageId>)>,
    layers: BTreeMap<Digest, (Layer, BTreeSet<ImageId>)>,
}

impl Store {
    /// Reads all blobs that images need and compares the unpacked layers with them. Blocks.
    pub fn check(&self) -> Result<CheckReport> {
        let mut lease = super::Lease::new(self)?;
        let index = Index::load(self)?;
        let mut report = CheckReport::default();
        let needs = self.needs(&index);
        for (digest, (required, images)) in &needs.blobs {
            let path = self.blob_path(digest);
            let why = match File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => continue,
                Err(error) => Some(format!("open: {error}")),
                Ok(file) => match digest_reader(file) {
                    Err(error) => Some(format!("read: {error}")),
                    Ok((got, _)) if got != *digest => Some(format!("its bytes have digest {got}")),
                    Ok(_) => None,
                },
            };
            report.blobs += 1;
            report.add(digest, false, images, why);
        }
        lease.add(needs.layers.keys())?;
        for (chain, (layer, images)) in &needs.layers {
            let broken = report
                .problems
                .iter()
                .any(|p| !p.layer && p.digest == layer.digest);
            let kept = !broken && self.has_blob(&layer.digest, layer.compressed_size);
            let why = self.check_layer(layer, kept)?;
            if kept {
                report.layers += 1;
            } else {
                report.layers_counted += 1;
            }
            report.add(chain, true, images, why);
        }
        Ok(report)
    }

    fn needs(&self, index: &Index) -> Needs {
        let mut needs = Needs::default();
        for record in &index.records {
            for digest in record.documents() {
                needs
                    .blobs
                    .entry(digest)
                    .or_insert((true, BTreeSet::new()))
                    .1
                    .insert(record.id.clone());
            }
            // Damaged documents are found as blobs.
            let Ok((manifest, config)) = self.manifest_of(record) else {
                continue;
            };
            for layer in manifest.layers_with(&config) {
                let blob = needs
                    .blobs
                    .entry(layer.digest.clone())
                    .or_insert((false, BTreeSet::new()));
                blob.1.insert(record.id.clone());
                let chain = layer.chain_id.clone();
                let unpacked = needs
                    .layers
                    .entry(chain)
                    .or_insert((layer, BTreeSet::new()));
                unpacked.1.insert(record.id.clone());
            }
        }
        needs
    }

    /// What is wrong with an unpacked layer.
    fn check_layer(&self, layer: &Layer, kept: bool) -> Result<Option<String>> {
        let meta = match self.layer_meta(&layer.chain_id) {
            Ok(meta) => meta,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let dir = self.layer_dir(&layer.chain_id);
        let why = Self::check_kept(&dir, &meta)?;
        if why.is_some() || !kept {
            return Ok(why);
        }
        let fs = Self::tree_at(&dir)?;
        let name = format!("{}.{}", layer.chain_id.hex(), files::unique_name());
        let staged = self.ingest_dir().join(name);
        let compared = self.compare_layer(layer, &staged, &fs);
        files::remove_all(&staged)?;
        compared
    }

    fn compare_layer(&self, layer: &Layer, staged: &Path, fs: &Path) -> Result<Option<String>> {
        let fresh = staged.join("fs");
        fs::create_dir_all(&fresh).at("create", &fresh)?;
        let limits = Limits::default();
        let job = Job {
            layer,
            fs: fresh.clone(),
            mode: Mode::overlay(self.privilege()).unsynced(),
            limits: &limits,
            keep: None,
        };
        let mut pieces = crate::install::file_pieces(&self.blob_path(&layer.digest))?;
        let written = match unpack::run(&job, &mut pieces) {
            Ok(written) => written,
            Err(error) => return Ok(Some(error.to_string())),
        };
        // Links and directories that the layers below complete are in the store's tree only.
        let incomplete = written.needs_below();
        drop(written);
        compare(&fresh, fs, Path::new(""), incomplete).at("compare", fs)
    }

    /// Repairs what [`Store::check`] found: layers are unpacked again from their blobs; what has
    /// no good blob is fetched again from where the image came. Gives what is still wrong.
    pub async fn repair(
        &self,
        report: &CheckReport,
        registry: &RegistryOptions,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Vec<Error>> {
        let mut failed = Vec::new();
        let used = self.rootfs_records()?;
        let mut images: BTreeSet<ImageId> = BTreeSet::new();
        for problem in &report.problems {
            let users: Vec<String> = used
                .iter()
                .filter(|r| problem.layer && r.layers.contains(&problem.digest))
                .map(|r| r.key.clone())
                .collect();
            if users.is_empty() {
                let path = if problem.layer {
                    let dir = self.layer_dir(&problem.digest);
                    Self::retire_layer(&dir)?;
                    dir
                } else {
                    self.blob_path(&problem.digest)
                };
                files::remove_all(&path)?;
                images.extend(problem.images.iter().cloned());
            } else {
                let image = problem.digest.to_string();
                failed.push(Error::InUse {
                    image,
                    users: users.join(", "),
                });
            }
        }
        for record in Index::load(self)?
            .records
            .iter()
            .filter(|r| images.contains(&r.id))
        {
            if let Err(error) = self.repair_image(record, registry, &progress).await {
                failed.push(error);
            }
        }
        Ok(failed)
    }

    async fn repair_image(
        &self,
        record: &Record,
        registry: &RegistryOptions,
        progress: &Arc<dyn ProgressSink>,
    ) -> Result<()> {
        if let Ok((manifest, config)) = self.manifest_of(record) {
            let layers = manifest.layers_with(&config);
            let local = |l: &Layer| {
                self.has_layer(&l.chain_id) || self.has_blob(&l.digest, l.compressed_size)
            };
            if layers.iter().all(local) {
                let missing =
                    (1..=layers.len()).filter(|&n| !self.has_layer(&layers[n - 1].chain_id));
                for n in missing {
                    self.install_from_blob(&layers[..n], &Limits::default())?;
                }
                // A blob that was kept and is gone: push and save need it, running does not.
                if layers
                    .iter()
                    .all(|l| self.has_blob(&l.digest, l.compressed_size))
                {
                    return Ok(());
                }
            }
        }
        let mut last = Error::document(
            format!("image {}", record.id),
            "it did not come from a registry: load or build it again",
        );
        for name in &record.repo_digests {
            let reference: Reference = name.parse()?;
            let options = PullOptions {
                registry: registry.clone(),
                ..PullOptions::default()
            };
            match self.pull(&reference, &options, Arc::clone(progress)).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl CheckReport {
    fn add(
        &mut self,
        digest: &Digest,
        layer: bool,
        images: &BTreeSet<ImageId>,
        why: Option<String>,
    ) {
        if let Some(why) = why {
            let (digest, images) = (digest.clone(), images.clone());
            self.problems.push(Problem {
                digest,
                layer,
                images,
                why,
            });
        }
    }
}

/// The first difference between two trees. With `incomplete` the second may have more.
fn compare(a: &Path, b: &Path, at: &Path, incomplete: bool) -> std::io::Result<Option<String>> {
    let names = |dir: &Path| -> std::io::Result<BTreeSet<_>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    let (ours, theirs) = (names(a)?, names(b)?);
    let odd = if incomplete {
        ours.difference(&theirs).next()
    } else {
        ours.symmetric_difference(&theirs).next()
    };
    if let Some(odd) = odd {
        return Ok(Some(format!(
            "{} is missing or too many",
            at.join(odd).display()
        )));
    }
    for name in ours {
        let (a, b, at) = (a.join(&name), b.join(&name), at.join(&name));
        let (x, y) = (fs::symlink_metadata(&a)?, fs::symlink_metadata(&b)?);
        let what = if x.is_dir() && y.is_dir() {
            if let Some(found) = compare(&a, &b, &at, incomplete)? {
                return Ok(Some(found));
            }
            continue;
        } else if (x.mode(), x.uid(), x.gid(), x.rdev()) != (y.mode(), y.uid(), y.gid(), y.rdev()) {
            "mode, owner or kind"
        } else if x.is_symlink() && fs::read_link(&a)? != fs::read_link(&b)? {
            "target"
        } else if x.is_file() && (x.len() != y.len() || !same_bytes(&a, &b)?) {
            "content"
        } else {
            continue;
        };
        return Ok(Some(format!(
            "{}: its {what} is not the layer's",
            at.display()
        )));
    }
    Ok(None)
}

fn same_bytes(one: &Path, other: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        let read = other.read_exact(&mut right[..length]);
        if read.is_err() || left[..length] != right[..length] {
            return Ok(false);
        }
    }
}
