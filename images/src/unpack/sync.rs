//! Files on their way to the disk, beside the writing of those that follow.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rrun_sys::writeback;

/// Threads of one layer that wait for the disk. They use no CPU.
const THREADS: usize = 4;
/// Files that are synced together. Their bytes and their inodes, which lie beside each other, go to
/// the disk at once, so that the first fsync leaves little to the others. Each is an open
/// descriptor until then.
const BATCH: usize = 24;
/// A batch is whole with this many bytes too: the disk is not to wait for more.
const BATCH_BYTES: u64 = 4 << 20;
/// Batches that wait for a thread.
const WAITING: usize = 1;

/// Descriptors of the whole process from which on files are synced one by one. A daemon that
/// pulls many images may have no more than 1024.
const ENOUGH: usize = 384;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A file that is not synced yet.
#[derive(Debug)]
struct Unsynced(OwnedFd);

impl Unsynced {
    fn new(file: OwnedFd) -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(file)
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

type Batch = Vec<Unsynced>;
/// The threads share their end.
type Queue = (SyncSender<Batch>, Arc<Mutex<Receiver<Batch>>>);

/// Makes files durable. Threads are started as files come, and end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    batch: Batch,
    bytes: u64,
    queue: Option<Queue>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    given_up: Arc<AtomicBool>,
}

impl Syncer {
    /// Takes a file whose bytes, this many, and attributes are written.
    pub fn add(&mut self, file: OwnedFd, bytes: u64) -> io::Result<()> {
        self.batch.push(Unsynced::new(file));
        self.bytes += bytes;
        let open = OPEN.load(Ordering::Relaxed);
        if self.batch.len() < BATCH && self.bytes < BATCH_BYTES && open < ENOUGH {
            return Ok(());
        }
        self.hand_over()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let (sender, receiver) = self.queue.get_or_insert_with(|| {
            let (sender, receiver) = sync_channel(WAITING);
            (sender, Arc::new(Mutex::new(receiver)))
        });
        if self.threads.len() < THREADS {
            let (receiver, given_up) = (Arc::clone(receiver), Arc::clone(&self.given_up));
            let builder = std::thread::Builder::new().name("layer-sync".to_owned());
            let thread = builder.spawn(move || sync_all(&receiver, &given_up))?;
            self.threads.push(thread);
        }
        let gone = |_| io::Error::other("the threads that sync are gone");
        sender.send(batch).map_err(gone)
    }

    /// Returns when all files are on the disk, or with the first error.
    pub fn finish(mut self) -> io::Result<()> {
        let mut result = if self.batch.is_empty() {
            Ok(())
        } else {
            self.hand_over()
        };
        self.queue = None;
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            result = result.and(ended);
        }
        result
    }
}

/// A layer that failed is not waited for.
impl Drop for Syncer {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// Goes on after an error, so that the writer never waits in vain.
fn sync_all(batches: &Mutex<Receiver<Batch>>, given_up: &AtomicBool) -> io::Result<()> {
    let mut result = Ok(());
    loop {
        let batch = match batches.lock() {
            Ok(batches) => batches.recv(),
            Err(_) => return Err(io::Error::other("a thread panicked")),
        };
        let Ok(batch) = batch else { return result };
        if result.is_ok() && !given_up.load(Ordering::Relaxed) {
            result = sync_batch(&batch);
        }
    }
}

fn sync_batch(batch: &[Unsynced]) -> io::Result<()> {
    for file in batch {
        writeback::start(file.0.as_fd(), 0, 0).map_err(io::Error::other)?;
    }
    for file in batch {
        writeback::wait(file.0.as_fd()).map_err(io::Error::other)?;
    }
    // What the file system has to note of bytes that came to the disk is noted by now.
    batch
        .iter()
        .try_for_each(|file| rustix::fs::fsync(&file.0).map_err(io::Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One daemon pulled several images with large batches each, and had no descriptors left.
    #[test]
    fn many_layers_at_once_keep_few_files_open() {
        let dir = tempfile::tempdir().unwrap();
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for layer in 0..48 {
                let (dir, most) = (dir.path(), &most);
                scope.spawn(move || {
                    let mut syncer = Syncer::default();
                    for n in 0..60 {
                        let file = std::fs::File::create(dir.join(format!("{layer}-{n}")));
                        syncer.add(file.unwrap().into(), 0).unwrap();
                        most.fetch_max(OPEN.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    syncer.finish().unwrap();
                });
            }
        });
        let most = most.into_inner();
        // Each layer has at most a few more: for itself, its queue and its threads.
        assert!(
            most <= ENOUGH + 48 * (THREADS + WAITING + 4),
            "{most} files open"
        );
    }

    #[test]
    fn an_error_of_a_file_is_the_layers() {
        let mut syncer = Syncer::default();
        let (pipe, _writer) = std::io::pipe().unwrap();
        syncer.add(pipe.into(), BATCH_BYTES).unwrap();
        assert!(syncer.finish().is_err(), "a pipe cannot be synced");
    }
}
