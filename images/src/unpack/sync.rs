//! Files on their way to the disk, beside the writing of those that follow.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Threads of one layer that wait for the disk. They use no CPU: more of them let the file system
/// commit many files at once.
const THREADS: usize = 8;
/// Files that wait for a thread; each is an open descriptor.
const WAITING: usize = 32;

/// The threads share their end.
type Queue = (SyncSender<OwnedFd>, Arc<Mutex<Receiver<OwnedFd>>>);

/// Makes files durable. Threads are started as files come, and end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    queue: Option<Queue>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    given_up: Arc<AtomicBool>,
}

impl Syncer {
    /// Takes a file whose bytes and attributes are written.
    pub fn add(&mut self, file: OwnedFd) -> io::Result<()> {
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
        sender.send(file).map_err(gone)
    }

    /// Returns when all files are on the disk, or with the first error.
    pub fn finish(mut self) -> io::Result<()> {
        self.queue = None;
        let mut result = Ok(());
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
fn sync_all(files: &Mutex<Receiver<OwnedFd>>, given_up: &AtomicBool) -> io::Result<()> {
    let mut result = Ok(());
    loop {
        let file = match files.lock() {
            Ok(files) => files.recv(),
            Err(_) => return Err(io::Error::other("a thread panicked")),
        };
        let Ok(file) = file else { return result };
        if result.is_ok() && !given_up.load(Ordering::Relaxed) {
            result = rustix::fs::fsync(&file).map_err(io::Error::from);
        }
    }
}
