//! One layer into the store, from the network or from a blob that is there.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use hyper::body::Bytes;

use crate::error::FileContext;
use crate::store::{LayerMeta, LayerTree, Store};
use crate::unpack::{self, Job, Keep};
use crate::{Digest, Error, Layer, Limits, Result, files};

/// Size of the pieces in which a file is read.
const PIECE: usize = 256 << 10;

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    Existed,
    New,
}

/// Brings the last of `layers` into the store; those before it lie below. Blocks.
///
/// `fetch` is called with the first byte wanted before `pieces` is asked, and not at all where
/// nothing is wanted. `wait_below` returns once the layer below is there, false where it will
/// not be. With `keep` the compressed blob stays too.
pub(crate) fn install(
    store: &Store,
    layers: &[Layer],
    limits: &Limits,
    keep: bool,
    fetch: &mut dyn FnMut(u64),
    pieces: &mut dyn Iterator<Item = Result<Bytes>>,
    wait_below: &dyn Fn() -> bool,
) -> Result<Installed> {
    let layer = layers.last().expect("the caller gives the layer itself");
    let _chain = store.lock_content(&layer.chain_id)?;
    let has_layer = store.has_layer(&layer.chain_id);
    let has_blob = store.has_blob(&layer.digest, layer.compressed_size);
    if has_layer && (has_blob || !keep) {
        return Ok(Installed::Existed);
    }
    // Two layers of one image may be the same blob; a chain's lock is taken first by everybody.
    let _blob = if layer.digest == layer.chain_id {
        None
    } else {
        Some(store.lock_content(&layer.digest)?)
    };
    let mut work = Work {
        store,
        layer,
        limits,
        staged: None,
    };
    if store.has_blob(&layer.digest, layer.compressed_size) {
        let path = store.blob_path(&layer.digest);
        work.unpack_from(&mut file_pieces(&path)?, None)?;
    } else if keep {
        work.fetch_and_keep(fetch, pieces, has_layer)?;
    } else {
        fetch(0);
        work.unpack_from(pieces, None)?;
    }
    if has_layer {
        return Ok(Installed::New);
    }
    work.finish(layers, wait_below)
}

/// The same from the pieces of the layer's unpacked archive. Its diffID is verified; there is no
/// blob to be kept.
pub(crate) fn install_unpacked(
    store: &Store,
    layers: &[Layer],
    limits: &Limits,
    archive: &mut dyn Iterator<Item = Result<Bytes>>,
    wait_below: &dyn Fn() -> bool,
) -> Result<Installed> {
    let layer = layers.last().expect("the caller gives the layer itself");
    let _chain = store.lock_content(&layer.chain_id)?;
    if store.has_layer(&layer.chain_id) {
        return Ok(Installed::Existed);
    }
    let mut work = Work {
        store,
        layer,
        limits,
        staged: None,
    };
    work.unpack_with(None, |job| unpack::run_unpacked(job, archive))?;
    work.finish(layers, wait_below)
}

/// A layer on its way; what is staged goes when it is dropped.
struct Work<'a> {
    store: &'a Store,
    layer: &'a Layer,
    limits: &'a Limits,
    staged: Option<(PathBuf, unpack::Written)>,
}

impl Work<'_> {
    /// A fresh directory in `ingest`, named so that collection leaves it to us.
    fn stage(&self) -> Result<PathBuf> {
        let name = format!("{}.{}", self.layer.chain_id.hex(), files::unique_name());
        let path = self.store.ingest_dir().join(name);
        fs::create_dir_all(path.join("fs")).at("create", &path)?;
        Ok(path)
    }

    fn unpack_from(
        &mut self,
        pieces: &mut dyn Iterator<Item = Result<Bytes>>,
        keep: Option<Keep<'_>>,
    ) -> Result<()> {
        self.unpack_with(keep, |job| unpack::run(job, pieces))
    }

    fn unpack_with(
        &mut self,
        keep: Option<Keep<'_>>,
        run: impl FnOnce(&Job<'_>) -> Result<unpack::Written>,
    ) -> Result<()> {
        let staged = self.stage()?;
        let job = Job {
            layer: self.layer,
            fs: staged.join("fs"),
            mode: self.store.unpack_mode(),
            limits: self.limits,
            keep,
        };
        match run(&job) {
            Ok(written) => {
                self.staged = Some((staged, written));
                Ok(())
            }
            Err(error) => {
                files::remove_all(&staged)?;
                Err(error)
            }
        }
    }

    /// Fetches, unpacks, and keeps the blob. What an earlier attempt kept is taken first.
    fn fetch_and_keep(
        &mut self,
        fetch: &mut dyn FnMut(u64),
        pieces: &mut dyn Iterator<Item = Result<Bytes>>,
        has_layer: bool,
    ) -> Result<()> {
        let path = self
            .store
            .ingest_dir()
            .join(format!("{}.partial", self.layer.digest.hex()));
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .at("open", &path)?;
        let mut have = file.metadata().at("stat", &path)?.len();
        if have > self.layer.compressed_size {
            file.set_len(0).at("truncate", &path)?;
            have = 0;
        }
        let kept = file_pieces(&path)?;
        let missing = have < self.layer.compressed_size;
        if missing {
            fetch(have);
        }
        let rest = missing.then_some(pieces).into_iter().flatten();
        let mut all = kept.take_bytes(have).chain(rest);
        let keep = Keep {
            file: &file,
            path: path.clone(),
            skip: have,
        };
        let done = if has_layer {
            keep_only(self.layer, &mut all, &keep)
        } else {
            self.unpack_from(&mut all, Some(keep))
        };
        match done {
            // The network's fault: the next attempt goes on from here.
            Err(
                error @ (Error::Registry { .. } | Error::Denied { .. } | Error::NotFound { .. }),
            ) => {
                return Err(error);
            }
            Err(error) => {
                files::remove_all(&path)?;
                return Err(error);
            }
            Ok(()) => {}
        }
        file.sync_all().at("sync", &path)?;
        let blob = self.store.blob_path(&self.layer.digest);
        fs::rename(&path, &blob).at("rename to", &blob)?;
        files::sync_dir(&self.store.blob_dir())
    }

    /// Publishes the layer once the one below is there.
    fn finish(mut self, layers: &[Layer], wait_below: &dyn Fn() -> bool) -> Result<Installed> {
        if !wait_below() {
            return Err(Error::Worker("a layer below was not finished".to_owned()));
        }
        let trees = layers[..layers.len() - 1].iter().rev();
        let trees: Vec<LayerTree> = trees
            .map(|layer| self.store.layer_fs(&layer.chain_id))
            .collect::<Result<_>>()?;
        let below: Vec<PathBuf> = trees.iter().map(|tree| tree.to_path_buf()).collect();
        self.publish(&below)?;
        Ok(Installed::New)
    }

    fn publish(&mut self, below: &[PathBuf]) -> Result<()> {
        let (staged, written) = self
            .staged
            .take()
            .expect("the layer was unpacked just before");
        let layer = self.layer;
        let (digest, size) = (layer.digest.clone(), layer.compressed_size);
        let mut meta = LayerMeta::new(digest, size, layer.diff_id.clone());
        let (store, chain) = (self.store, &layer.chain_id);
        let finished = store
            .seal_layer(&staged, written, below, chain, &mut meta)
            .and_then(|()| store.publish_layer(&staged, chain, &meta));
        if finished.is_err() {
            files::remove_all(&staged)?;
        }
        finished
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Some((staged, _)) = self.staged.take()
            && let Err(error) = files::remove_all(&staged)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a staged layer stays behind"
            );
        }
    }
}

/// Writes a blob whose layer is unpacked already, and verifies it.
fn keep_only(
    layer: &Layer,
    pieces: &mut dyn Iterator<Item = Result<Bytes>>,
    keep: &Keep<'_>,
) -> Result<()> {
    let mut hasher = crate::Hasher::default();
    let mut bytes = 0;
    for piece in pieces {
        let piece = piece?;
        hasher.update(&piece);
        keep.take(bytes, &piece)?;
        bytes += piece.len() as u64;
    }
    let what = || format!("layer {}", layer.digest);
    let (got, length) = hasher.finish();
    if length != layer.compressed_size {
        return Err(Error::SizeMismatch {
            what: what(),
            expected: layer.compressed_size,
            got: length,
        });
    }
    check_digest(what(), &layer.digest, got)
}

fn check_digest(what: String, expected: &Digest, got: Digest) -> Result<()> {
    if got == *expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what,
        expected: expected.clone(),
        got,
    })
}

/// A file in pieces.
pub(crate) struct FilePieces {
    file: File,
    path: PathBuf,
    left: u64,
}

pub(crate) fn file_pieces(path: &Path) -> Result<FilePieces> {
    let file = File::open(path).at("open", path)?;
    Ok(FilePieces {
        file,
        path: path.to_owned(),
        left: u64::MAX,
    })
}

impl FilePieces {
    fn take_bytes(self, bytes: u64) -> Self {
        Self {
            left: bytes,
            ..self
        }
    }
}

impl Iterator for FilePieces {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        let mut buffer = vec![0; PIECE.min(usize::try_from(self.left).unwrap_or(PIECE))];
        match self.file.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => {
                buffer.truncate(n);
                self.left -= n as u64;
                Some(Ok(Bytes::from(buffer)))
            }
            Err(error) => Some(Err(error).at("read", &self.path)),
        }
    }
}
