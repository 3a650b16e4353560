//! The store: every object in memory, every acknowledged write on disk.
//!
//! One thread owns all mutation ([`writer`]): it takes the writes that wait, checks each against the
//! index, gives each the next resource version, commits them in one database transaction (one fsync
//! for all), and only then shows them to readers and watchers. Readers never wait for the disk.

mod backup;
#[cfg(test)]
mod crash;
mod disk;
mod object;
pub(crate) mod packed;
mod selector;
mod shard;
mod watch;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};

use serde_json::Value;
use tokio::sync::oneshot;

pub use backup::{Snapshot, restore_into};
pub use disk::Error as DiskError;
pub use object::Object;
pub use selector::Selector;
pub use shard::Event;
pub use watch::{Watch, WatchError};

use shard::Shard;

/// Address of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `plural.group`, or the plural alone for the core group.
    pub resource: Arc<str>,
    /// `namespace/name`, or the name alone for cluster-wide objects.
    pub path: Arc<str>,
}

impl Key {
    /// An empty namespace stands for a cluster-wide object.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        let path = if namespace.is_empty() {
            name.into()
        } else {
            format!("{namespace}/{name}").into()
        };
        Self {
            resource: resource.into(),
            path,
        }
    }
}

/// What must be true of the object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// It is at this resource version.
    Version(u64),
}

/// A change of one object.
#[derive(Debug)]
pub struct Write {
    /// Which object.
    pub key: Key,
    /// Precondition.
    pub expect: Expect,
    /// The new object, whose resource version the store fills in; `None` deletes.
    pub value: Option<Value>,
    /// Whether it survives a restart.
    pub durable: bool,
}

/// Why a write was refused.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// [`Expect::Absent`] and it exists.
    #[error("exists")]
    Exists,
    /// It does not exist.
    #[error("does not exist")]
    Missing,
    /// It is at another version.
    #[error("is at another version")]
    Stale,
    /// The disk refused; nothing was changed.
    #[error("{0}")]
    Disk(Arc<DiskError>),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A consistent list.
#[derive(Debug, Default)]
pub struct List {
    /// In the order of namespace and name.
    pub items: Vec<Arc<Object>>,
    /// A watch from here sees everything that happens after the list.
    pub resource_version: u64,
}

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writes: mpsc::Sender<writer::Request>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

struct Shared {
    shards: RwLock<HashMap<Arc<str>, Arc<Shard>>>,
    /// Every event up to here is in the index.
    published: AtomicU64,
    /// Histories start after here: what happened before was in another process.
    floor: u64,
}

impl Shared {
    fn shard(&self, resource: &str) -> Arc<Shard> {
        let found = self
            .shards
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(resource)
            .cloned();
        found.unwrap_or_else(|| {
            let mut all = self.shards.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(resource.into())
                .or_insert_with(|| Arc::new(Shard::new(self.floor)))
                .clone()
        })
    }
}

impl Store {
    /// Opens the database in a directory, creating both when they do not exist.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        Self::start(disk::Disk::open(dir)?)
    }

    fn start(mut disk: disk::Disk) -> Result<Self, DiskError> {
        let (objects, floor) = disk.load()?;
        let shared = Arc::new(Shared {
            shards: RwLock::default(),
            published: AtomicU64::new(floor),
            floor,
        });
        for (key, object) in objects {
            shared.shard(&key.resource).load(&key, object);
        }
        let (writes, requests) = mpsc::channel();
        let thread = writer::spawn(shared.clone(), disk, requests);
        Ok(Self {
            shared,
            writes,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// An object, if it exists.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.shard(&key.resource).get(&key.path)
    }

    /// All objects of a resource in a namespace (`""`: in all) that a selector selects.
    pub fn list(&self, resource: &str, namespace: &str, selector: &Selector) -> List {
        let shard = self.shared.shard(resource);
        shard.list(namespace, selector, || {
            self.shared.published.load(Ordering::Acquire)
        })
    }

    /// Events after a resource version. Errors with [`WatchError::Expired`] when some of them are
    /// no longer known.
    pub fn watch(
        &self,
        resource: &str,
        namespace: &str,
        selector: Selector,
        after: u64,
    ) -> Result<Watch, WatchError> {
        Watch::new(self.shared.shard(resource), namespace, selector, after)
    }

    /// The newest resource version that readers see.
    pub fn resource_version(&self) -> u64 {
        self.shared.published.load(Ordering::Acquire)
    }

    /// The version of the newest change of a resource's objects.
    pub fn newest(&self, resource: &str) -> u64 {
        self.shared.shard(resource).newest()
    }

    /// Makes a change; returns when it is on disk and visible, with the new object, or for a
    /// deletion with the last one at the version of its deletion.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writes
            .send(writer::Request::Write(write, reply))
            .map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Whether writes would be kept. Nothing is written to find out unless the last write failed.
    pub async fn check(&self) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writes
            .send(writer::Request::Check(reply))
            .map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Ends the writer once everything queued is done. Later writes get [`WriteError::Closed`].
    pub fn close(self) {
        let Self { writes, thread, .. } = self;
        let _ = writes.send(writer::Request::Stop);
        if let Some(t) = thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = t.join();
        }
    }
}
