//! Durable intent: one record per sandbox and container in a redb file, each written before the
//! side effect it announces. Unreadable records are set aside and reported, never deleted.

mod fault;
mod record;
mod table;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

pub use record::{ContainerPhase, ContainerRecord, Record, SandboxPhase, SandboxRecord, VERSION};
pub use table::{Entry, KeyLocks, Table};

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

const SANDBOXES: Definition = TableDefinition::new("sandboxes");
const CONTAINERS: Definition = TableDefinition::new("containers");
const SET_ASIDE: Definition = TableDefinition::new("set-aside");

/// redb's default page cache is a gibibyte; all records of this daemon are a few hundred kilobytes.
const CACHE: usize = 512 * 1024;

/// The file, and what it says.
pub struct Store {
    db: Arc<Database>,
    /// Every sandbox.
    pub sandboxes: Table<SandboxRecord>,
    /// Every container.
    pub containers: Table<ContainerRecord>,
}

/// A kind of record, and the table it is in.
pub trait Stored: Record {
    #[doc(hidden)]
    const TABLE: Definition;
    #[doc(hidden)]
    fn table(store: &Store) -> &Table<Self>;
}

impl Stored for SandboxRecord {
    const TABLE: Definition = SANDBOXES;
    fn table(store: &Store) -> &Table<Self> {
        &store.sandboxes
    }
}

impl Stored for ContainerRecord {
    const TABLE: Definition = CONTAINERS;
    fn table(store: &Store) -> &Table<Self> {
        &store.containers
    }
}

impl Store {
    /// Opens or makes `<root>/state.redb` and reads every record. A second daemon on the same
    /// root is refused by redb's lock on the file.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("state.redb");
        let db = Database::builder()
            .set_cache_size(CACHE)
            .create(&path)
            .with_context(|| format!("open state {}", path.display()))?;
        let store = Self {
            db: Arc::new(db),
            sandboxes: Table::default(),
            containers: Table::default(),
        };
        store.load::<SandboxRecord>()?;
        store.load::<ContainerRecord>()?;
        Ok(store)
    }

    fn load<R: Stored>(&self) -> Result<()> {
        // The tables must exist for the read.
        let write = self.db.begin_write()?;
        write.open_table(R::TABLE)?;
        write.commit()?;
        let mut broken = Vec::new();
        let read = self.db.begin_read()?;
        for row in read.open_table(R::TABLE)?.iter()? {
            let (key, value) = row?;
            match R::decode(value.value()) {
                Ok(record) if record.version() == VERSION && record.id() == key.value() => {
                    R::table(self).insert(record);
                }
                Ok(record) => broken.push((
                    key.value().to_owned(),
                    format!("version {} (known: {VERSION})", record.version()),
                )),
                Err(error) => broken.push((key.value().to_owned(), error.to_string())),
            }
        }
        drop(read);
        for (key, why) in broken {
            tracing::error!(key, why, "a record is unreadable and was set aside");
            self.set_aside(R::TABLE, &key)?;
        }
        Ok(())
    }

    fn set_aside(&self, table: Definition, key: &str) -> Result<()> {
        let write = self.db.begin_write()?;
        {
            let mut from = write.open_table(table)?;
            let mut to = write.open_table(SET_ASIDE)?;
            if let Some(value) = from.remove(key)? {
                to.insert(key, value.value())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Ids of the records that were set aside.
    pub fn set_aside_ids(&self) -> Result<Vec<String>> {
        let read = self.db.begin_read()?;
        let table = match read.open_table(SET_ASIDE) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(vec![]),
            other => other?,
        };
        let mut ids = Vec::new();
        for row in table.iter()? {
            ids.push(row?.0.value().to_owned());
        }
        Ok(ids)
    }

    /// Adds a record, durably, and gives its entry.
    pub async fn add<R: Stored>(&self, record: R) -> Result<Arc<Entry<R>>> {
        self.write(R::TABLE, record.id(), Some(record.encode_to_vec()))
            .await?;
        Ok(R::table(self).insert(record))
    }

    /// Changes a record, durably, then shows the change to everybody. The caller holds the
    /// entry's lock.
    pub async fn update<R: Stored>(
        &self,
        entry: &Entry<R>,
        change: impl FnOnce(&mut R),
    ) -> Result<()> {
        let mut record = R::clone(&entry.get());
        change(&mut record);
        self.write(R::TABLE, record.id(), Some(record.encode_to_vec()))
            .await?;
        entry.set(record);
        Ok(())
    }

    /// Removes a record, durably.
    pub async fn remove<R: Stored>(&self, entry: &Entry<R>) -> Result<()> {
        let record = entry.get();
        self.write(R::TABLE, record.id(), None).await?;
        R::table(self).remove(record.id());
        Ok(())
    }

    async fn write(&self, table: Definition, key: &str, value: Option<Vec<u8>>) -> Result<()> {
        let db = self.db.clone();
        let key = key.to_owned();
        tokio::task::spawn_blocking(move || -> Result<()> {
            let write = db.begin_write()?;
            {
                let mut table = write.open_table(table)?;
                match value {
                    Some(value) => table.insert(&*key, &*value)?,
                    None => table.remove(&*key)?,
                };
            }
            fault::point();
            write.commit()?;
            fault::point();
            Ok(())
        })
        .await?
        .context("write the durable state")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str) -> SandboxRecord {
        SandboxRecord {
            version: VERSION,
            id: id.to_owned(),
            phase: SandboxPhase::Creating as i32,
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn records_survive_and_show_their_last_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let entry = store.add(sandbox("aa")).await.unwrap();
        store.add(sandbox("bb")).await.unwrap();
        store
            .update(&entry, |r| r.set_phase(SandboxPhase::Ready))
            .await
            .unwrap();
        let gone = store.sandboxes.get("bb").unwrap();
        store.remove(&gone).await.unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.sandboxes.all().len(), 1);
        let record = store.sandboxes.get("aa").unwrap().get();
        assert_eq!(record.phase(), SandboxPhase::Ready);
    }

    #[tokio::test]
    async fn an_unreadable_record_is_set_aside_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.add(sandbox("aa")).await.unwrap();
        let future = SandboxRecord {
            version: 99,
            ..sandbox("bb")
        };
        store.add(future).await.unwrap();
        store
            .write(SANDBOXES, "cc", Some(b"\xff\xff".to_vec()))
            .await
            .unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.sandboxes.all().len(), 1);
        let read = store.db.begin_read().unwrap();
        let aside = read.open_table(SET_ASIDE).unwrap();
        assert!(aside.get("bb").unwrap().is_some());
        assert_eq!(aside.get("cc").unwrap().unwrap().value(), b"\xff\xff");
    }
}
