//! The records in memory, each with a lock for those who change it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tokio::sync::watch;

use super::Record;
use crate::error::{Error, Result};

/// A record, and who may change it.
pub struct Entry<R> {
    /// Held over a change and its side effects; readers need no lock.
    pub lock: tokio::sync::Mutex<()>,
    /// Whether a stop of this daemon's life has sent a container its stop signal: programs take a
    /// second one for impatience.
    pub told_to_end: AtomicBool,
    record: watch::Sender<Arc<R>>,
}

impl<R: Record> Entry<R> {
    /// The record as it is now.
    pub fn get(&self) -> Arc<R> {
        self.record.borrow().clone()
    }

    /// Wakes on every change; closed when the entry is dropped.
    pub fn watch(&self) -> watch::Receiver<Arc<R>> {
        self.record.subscribe()
    }

    pub(super) fn set(&self, record: R) {
        self.record.send_replace(Arc::new(record));
    }
}

/// All records of a kind, by id.
pub struct Table<R>(RwLock<BTreeMap<String, Arc<Entry<R>>>>);

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<R: Record> Table<R> {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Entry<R>>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every entry, by id.
    pub fn all(&self) -> Vec<Arc<Entry<R>>> {
        self.read().values().cloned().collect()
    }

    /// The entry of an id.
    pub fn get(&self, id: &str) -> Option<Arc<Entry<R>>> {
        self.read().get(id).cloned()
    }

    /// The entry whose id is, or alone starts with, what a user wrote.
    pub fn find(&self, id: &str) -> Result<Option<Arc<Entry<R>>>> {
        if id.is_empty() {
            return Err(Error::invalid("the id is empty"));
        }
        let map = self.read();
        let mut matching = map
            .range(id.to_owned()..)
            .take_while(|(key, _)| key.starts_with(id));
        match (matching.next(), matching.next()) {
            (Some((key, entry)), second) if second.is_none() || key == id => {
                Ok(Some(entry.clone()))
            }
            (Some(_), _) => Err(Error::invalid(format!(
                "{id:?} is the start of more than one id: write more of it"
            ))),
            (None, _) => Ok(None),
        }
    }

    pub(super) fn insert(&self, record: R) -> Arc<Entry<R>> {
        let id = record.id().to_owned();
        let entry = Arc::new(Entry {
            lock: tokio::sync::Mutex::default(),
            told_to_end: AtomicBool::new(false),
            record: watch::Sender::new(Arc::new(record)),
        });
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(id, entry.clone());
        entry
    }

    pub(super) fn remove(&self, id: &str) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.remove(id);
    }
}

/// One lock per name, so that a retried request waits for the first one and finds its result.
#[derive(Default)]
pub struct KeyLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl KeyLocks {
    /// Waits for everybody else who holds the key.
    pub async fn lock(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.retain(|_, lock| lock.strong_count() > 0);
            if let Some(lock) = map.get(&key).and_then(Weak::upgrade) {
                lock
            } else {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                map.insert(key, Arc::downgrade(&lock));
                lock
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SandboxRecord;

    #[test]
    fn the_start_of_an_id_finds_it_if_it_is_the_only_one() {
        let table = Table::default();
        for id in ["abc", "abd", "b"] {
            table.insert(SandboxRecord {
                id: id.into(),
                ..Default::default()
            });
        }
        assert_eq!(table.find("abd").unwrap().unwrap().get().id, "abd");
        assert_eq!(table.find("b").unwrap().unwrap().get().id, "b");
        assert!(table.find("ab").is_err());
        assert!(table.find("").is_err());
        assert!(table.find("x").unwrap().is_none());
    }

    #[test]
    fn a_whole_id_wins_over_longer_ones() {
        let table = Table::default();
        for id in ["ab", "abc"] {
            table.insert(SandboxRecord {
                id: id.into(),
                ..Default::default()
            });
        }
        assert_eq!(table.find("ab").unwrap().unwrap().get().id, "ab");
    }
}
