//! The threads of one layer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use hyper::body::Bytes;

use super::entry::Refused;
use super::stream::{ChannelReader, Pool};
use super::write::{Unfinished, Writer};
use super::{Limits, Mode, Written, file_error, finish, layer_error};
use crate::manifest::Compression;
use crate::{Digest, Error, Hasher, Layer, Result};

/// Compressed chunks that wait for the inflater.
const CHUNKS: usize = 4;
/// Unpacked buffers that wait for the writer or the hasher, 256 KiB each.
const BUFFERS: usize = 3;
/// A layer may be this large whatever its compressed size is.
const RATIO_FROM: u64 = 64 << 20;

/// Where a layer comes from, in order; an error ends it.
pub(crate) type Source<'a> = &'a mut dyn Iterator<Item = Result<Bytes>>;

/// What is to be done with a layer.
pub(crate) struct Job<'a> {
    pub layer: &'a Layer,
    /// An empty directory.
    pub fs: PathBuf,
    pub mode: Mode,
    pub limits: &'a Limits,
    /// Gets the compressed bytes from `skip` on, where they are to be kept.
    pub keep: Option<Keep<'a>>,
}

/// The file that keeps the compressed bytes.
pub(crate) struct Keep<'a> {
    pub file: &'a File,
    pub path: PathBuf,
    /// Bytes of the source that are in the file already.
    pub skip: u64,
}

/// Bytes of a kept file that are started to the disk at once.
const WRITEBACK: u64 = 4 << 20;

impl Keep<'_> {
    /// Takes a piece of the source that begins at `at`. What is written goes on to the disk at
    /// once, so that the sync at the end does not wait for all of it.
    pub fn take(&self, at: u64, piece: &[u8]) -> Result<()> {
        let end = at + piece.len() as u64;
        if end <= self.skip {
            return Ok(());
        }
        let from = self.skip.saturating_sub(at) as usize;
        let mut file = self.file;
        file.write_all(&piece[from..])
            .map_err(|source| file_error("write", &self.path, source))?;
        if at / WRITEBACK < end / WRITEBACK {
            let from = (at / WRITEBACK) * WRITEBACK;
            rrun_sys::writeback::start(file.as_fd(), from, end - from)
                .map_err(|error| file_error("write", &self.path, io::Error::other(error)))?;
        }
        Ok(())
    }
}

/// Unpacks a layer from its compressed bytes and verifies both digests. Blocks.
pub(crate) fn run(job: &Job<'_>, source: Source<'_>) -> Result<Written> {
    let root = finish::open_root(&job.fs).map_err(|source| file_error("open", &job.fs, source))?;
    let writer = Writer::new(root, job.mode, job.limits)
        .map_err(|source| file_error("open", &job.fs, source))?;
    let fetched = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (chunks, chunks_end) = sync_channel(CHUNKS);
        let (to_writer, writer_end) = sync_channel(BUFFERS);
        let (to_hasher, hasher_end) = sync_channel(BUFFERS);
        let name = |what| std::thread::Builder::new().name(format!("layer-{what}"));
        let write = spawn(name("write"), scope, move || {
            writer.write_all(ChannelReader::new(writer_end))
        })?;
        let hash = spawn(name("hash"), scope, move || hash_buffers(&hasher_end))?;
        let fetched = &fetched;
        let inflate = spawn(name("inflate"), scope, move || {
            inflate(job, chunks_end, &to_writer, &to_hasher, fetched)
        })?;
        let fed = feed(job, source, &chunks, fetched);
        drop(chunks);
        let inflated = join(inflate)?;
        let written = join(write)?;
        let diff_id = join(hash)?;
        judge(job, fed, inflated, written, &diff_id)
    })
}

/// Unpacks a layer from the pieces of its unpacked archive and verifies that one's digest, the
/// diffID. Blocks.
pub(crate) fn run_unpacked(job: &Job<'_>, archive: Source<'_>) -> Result<Written> {
    let root = finish::open_root(&job.fs).map_err(|source| file_error("open", &job.fs, source))?;
    let writer = Writer::new(root, job.mode, job.limits)
        .map_err(|source| file_error("open", &job.fs, source))?;
    std::thread::scope(|scope| {
        let (to_writer, writer_end) = sync_channel(BUFFERS);
        let (to_hasher, hasher_end) = sync_channel(BUFFERS);
        let name = |what| std::thread::Builder::new().name(format!("layer-{what}"));
        let write = spawn(name("write"), scope, move || {
            writer.write_all(ChannelReader::new(writer_end))
        })?;
        let hash = spawn(name("hash"), scope, move || hash_buffers(&hasher_end))?;
        let spread = spread(job, archive, &to_writer, &to_hasher);
        drop((to_writer, to_hasher));
        let written = join(write)?;
        let diff_id = join(hash)?;
        spread?;
        judge(job, Ok(Fed::Unpacked), Ok(()), written, &diff_id)
    })
}

/// Hands the archive on. `Ok` also where a receiver wanted no more.
fn spread(
    job: &Job<'_>,
    archive: Source<'_>,
    to_writer: &SyncSender<Bytes>,
    to_hasher: &SyncSender<Bytes>,
) -> Result<()> {
    let mut bytes = 0;
    for piece in archive {
        let piece = piece?;
        bytes += piece.len() as u64;
        check_bounds(job.limits, bytes, job.layer.compressed_size)
            .map_err(|refused| layer_error(job.layer.digest.as_str(), &refused))?;
        if to_hasher.send(piece.clone()).is_err() || to_writer.send(piece).is_err() {
            break;
        }
    }
    Ok(())
}

fn spawn<'scope, T: Send + 'scope>(
    builder: std::thread::Builder,
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    builder
        .spawn_scoped(scope, work)
        .map_err(|error| Error::Worker(format!("start a thread: {error}")))
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread
        .join()
        .map_err(|_| Error::Worker("a thread of the unpacker panicked".to_owned()))
}

/// How far the compressed stream came.
enum Fed {
    /// All of it, with its digest.
    Whole(Digest),
    /// The inflater wanted no more.
    Stopped,
    /// It is the unpacked archive already.
    Unpacked,
}

/// Hashes and keeps what comes and hands it on.
fn feed(
    job: &Job<'_>,
    source: Source<'_>,
    chunks: &SyncSender<Bytes>,
    fetched: &AtomicU64,
) -> Result<Fed> {
    let mut hasher = Hasher::default();
    let mut bytes = 0;
    let wanted = job.layer.compressed_size;
    for chunk in source {
        let chunk = chunk?;
        let before = bytes;
        bytes += chunk.len() as u64;
        if bytes > wanted {
            return Err(size_mismatch(job, bytes));
        }
        fetched.store(bytes, Ordering::Relaxed);
        hasher.update(&chunk);
        if let Some(keep) = &job.keep {
            keep.take(before, &chunk)?;
        }
        if chunks.send(chunk).is_err() {
            return Ok(Fed::Stopped);
        }
    }
    if bytes < wanted {
        return Err(size_mismatch(job, bytes));
    }
    Ok(Fed::Whole(hasher.finish().0))
}

fn size_mismatch(job: &Job<'_>, got: u64) -> Error {
    let what = format!("layer {}", job.layer.digest);
    Error::SizeMismatch {
        what,
        expected: job.layer.compressed_size,
        got,
    }
}

/// Inflates into shared buffers. `Ok` also where a receiver wanted no more.
fn inflate(
    job: &Job<'_>,
    chunks: Receiver<Bytes>,
    to_writer: &SyncSender<Bytes>,
    to_hasher: &SyncSender<Bytes>,
    fetched: &AtomicU64,
) -> Result<(), Refused> {
    let broken = |error: io::Error| Refused::new(b"", format!("the stream is broken: {error}"));
    let mut reader = decoder(ChannelReader::new(chunks)).map_err(broken)?;
    let pool = Pool::default();
    let mut bytes = 0;
    loop {
        let mut buffer = pool.take();
        let filled = buffer.fill(&mut *reader);
        let length = buffer.as_ref().len() as u64;
        bytes += length;
        check_bounds(job.limits, bytes, fetched.load(Ordering::Relaxed))?;
        let buffer = Bytes::from_owner(buffer);
        // What came before the break is written, so that the entry can be named.
        let wanted =
            length > 0 && to_hasher.send(buffer.clone()).is_ok() && to_writer.send(buffer).is_ok();
        filled.map_err(broken)?;
        if !wanted {
            return Ok(());
        }
    }
}

fn check_bounds(limits: &Limits, bytes: u64, compressed: u64) -> Result<(), Refused> {
    if bytes > limits.layer_bytes {
        let why = format!("it unpacks to more than {} bytes", limits.layer_bytes);
        return Err(Refused::new(b"", why));
    }
    if bytes > RATIO_FROM + compressed.saturating_mul(limits.ratio) {
        let why = format!("it unpacks to more than {} times its size", limits.ratio);
        return Err(Refused::new(b"", why));
    }
    Ok(())
}

/// A reader of unpacked bytes, by what the stream starts with.
fn decoder(mut reader: ChannelReader) -> io::Result<Box<dyn Read>> {
    Ok(match Compression::sniff(reader.peek(4)) {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
        Compression::None => Box::new(reader),
    })
}

/// All of a compressed stream up to `limit` bytes, for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn inflate_all(pieces: &[&[u8]], limit: u64) -> io::Result<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(pieces.len());
    for piece in pieces {
        sender
            .send(Bytes::copy_from_slice(piece))
            .expect("the channel has room for all");
    }
    drop(sender);
    let mut bytes = Vec::new();
    let reader = decoder(ChannelReader::new(receiver))?;
    reader.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hash_buffers(buffers: &Receiver<Bytes>) -> Digest {
    let mut hasher = Hasher::default();
    while let Ok(buffer) = buffers.recv() {
        hasher.update(&buffer);
    }
    hasher.finish().0
}

/// Which of the threads' outcomes is the reason.
fn judge(
    job: &Job<'_>,
    fed: Result<Fed>,
    inflated: Result<(), Refused>,
    written: Result<Unfinished, Refused>,
    diff_id: &Digest,
) -> Result<Written> {
    let layer = job.layer.digest.as_str();
    let refused = |refused: Refused| layer_error(layer, &refused);
    let fed = fed?;
    if let Fed::Whole(digest) = &fed
        && *digest != job.layer.digest
    {
        let (expected, got) = (job.layer.digest.clone(), digest.clone());
        return Err(Error::DigestMismatch {
            what: format!("layer {layer}"),
            expected,
            got,
        });
    }
    // A broken stream is named with the entry in whose data it broke.
    let left = match (inflated, written) {
        (Ok(()), written) => written.map_err(refused)?,
        (Err(broken), Err(at)) if broken.entry.is_empty() => {
            return Err(refused(Refused {
                entry: at.entry,
                why: broken.why,
            }));
        }
        (Err(broken), _) => return Err(refused(broken)),
    };
    if matches!(fed, Fed::Stopped) {
        return Err(refused(Refused::new(
            b"",
            "bytes follow the end of its compressed stream",
        )));
    }
    if *diff_id != job.layer.diff_id {
        let (expected, got) = (job.layer.diff_id.clone(), diff_id.clone());
        return Err(Error::DigestMismatch {
            what: format!("layer {layer} unpacked"),
            expected,
            got,
        });
    }
    Ok(Written {
        layer: layer.to_owned(),
        fs: job.fs.clone(),
        mode: job.mode,
        left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzz target `stream`: the kind was guessed from the first chunk alone.
    #[test]
    fn a_compressed_stream_may_come_byte_by_byte() {
        let text = b"some text, some text, some text".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&text).unwrap();
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for stream in [gzip.finish().unwrap(), zstd, text.clone()] {
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(inflate_all(&bytes, 1 << 20).unwrap(), text);
        }
        assert!(inflate_all(&[], 1).unwrap().is_empty());
    }
}
