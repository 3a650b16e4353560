//! What survives: one redb database.
//!
//! Two tables. `objects` maps `resource\0path` to the object's JSON. `meta` holds `format` (the
//! version of this layout) and `reserved`: no resource version above it was ever given out, so that
//! versions stay monotonic over a restart even though writes that are kept in memory only (Events)
//! are never recorded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Key, Object};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Version of the layout.
const FORMAT: u64 = 1;
/// How many versions are reserved at a time.
const RESERVE: u64 = 1 << 16;
/// Everything is in memory anyway: redb needs pages for the work of one transaction only.
const CACHE_BYTES: usize = 1 << 20;

/// The database does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// redb or the disk beneath it.
    #[error("{}: {why}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        why: Box<redb::Error>,
    },
    /// The directory.
    #[error("{}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Written by a later version of the program.
    #[error("{}: the database has format {found}, this program knows {FORMAT}: start a newer rrun-pods", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
}

pub(super) struct Record<'a> {
    pub key: &'a Key,
    pub json: Option<&'a [u8]>,
}

/// An object under its key.
type Stored = (Key, Arc<Object>);

/// Makes the database where it is missing, or else (`true`) opens one that was there.
type Opener = Box<dyn Fn(bool) -> Result<Database, DatabaseError> + Send>;

pub(super) struct Disk {
    /// Absent after a failure: redb wants to be opened anew then.
    db: Option<Database>,
    opener: Opener,
    path: PathBuf,
    reserved: u64,
}

impl Disk {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let io = |why| Error::Io {
            path: dir.to_owned(),
            why,
        };
        std::fs::create_dir_all(dir).map_err(io)?;
        let path = dir.join("state.redb");
        let new = !path.exists();
        let file = path.clone();
        let opener = Box::new(move |again| {
            let mut builder = Database::builder();
            let builder = builder.set_cache_size(CACHE_BYTES);
            if again {
                builder.open(&file)
            } else {
                builder.create(&file)
            }
        });
        let disk = Self::init(opener, path)?;
        if new {
            std::fs::File::open(dir)
                .and_then(|d| d.sync_all())
                .map_err(io)?;
        }
        Ok(disk)
    }

    /// On any storage, for crash tests.
    #[cfg(test)]
    pub fn on<B: redb::StorageBackend + Clone>(backend: B) -> Result<Self, Error> {
        let opener = move |_| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend.clone())
        };
        Self::init(Box::new(opener), PathBuf::from("memory"))
    }

    fn init(opener: Opener, path: PathBuf) -> Result<Self, Error> {
        let mut disk = Self {
            db: None,
            opener,
            path,
            reserved: 0,
        };
        let found = disk.prepare().map_err(|e| disk.error(e))?;
        if found > FORMAT {
            return Err(Error::Format {
                path: disk.path,
                found,
            });
        }
        Ok(disk)
    }

    /// The database, opened again after a failure. Its disk may be away by then: what lies in its
    /// place is not written to, or the disk's return would take back what was acknowledged.
    fn database(&mut self) -> Result<&Database, redb::Error> {
        if self.db.is_none() {
            let again = self.reserved > 0;
            let db = (self.opener)(again)?;
            if again && reserved(&db)? < self.reserved {
                let why = "another database is there than was open before; stop rrun-pods first";
                return Err(io::Error::other(why).into());
            }
            self.db = Some(db);
        }
        Ok(self.db.as_ref().expect("opened just above"))
    }

    fn error(&self, e: redb::Error) -> Error {
        Error::Database {
            path: self.path.clone(),
            why: Box::new(e),
        }
    }

    /// Makes the tables and reserves versions; returns the format found.
    fn prepare(&mut self) -> Result<u64, redb::Error> {
        let txn = self.database()?.begin_write()?;
        let mut meta = txn.open_table(META)?;
        txn.open_table(OBJECTS)?;
        let found = meta.get("format")?.map_or(FORMAT, |v| v.value());
        if found > FORMAT {
            return Ok(found);
        }
        let floor = meta.get("reserved")?.map_or(0, |v| v.value());
        meta.insert("format", FORMAT)?;
        meta.insert("reserved", floor + RESERVE)?;
        drop(meta);
        txn.commit()?;
        self.reserved = floor + RESERVE;
        Ok(found)
    }

    /// All objects, and the version from which to go on counting.
    pub fn load(&mut self) -> Result<(Vec<Stored>, u64), Error> {
        let objects = self.read_objects().map_err(|e| self.error(e))?;
        Ok((objects, (self.reserved - RESERVE).max(1)))
    }

    fn read_objects(&mut self) -> Result<Vec<Stored>, redb::Error> {
        let txn = self.database()?.begin_read()?;
        let table = txn.open_table(OBJECTS)?;
        let mut out = Vec::new();
        for row in table.iter()? {
            let (key, json) = row?;
            let Some((resource, path)) = key.value().split_once('\0') else {
                continue;
            };
            let Some(object) = decode(json.value()) else {
                tracing::error!(
                    "store: the record of {resource} {path} is not an object: left aside"
                );
                continue;
            };
            out.push((
                Key {
                    resource: resource.into(),
                    path: path.into(),
                },
                object,
            ));
        }
        Ok(out)
    }

    /// Whether the file system is mounted read-only, and what is free on it in bytes; `None` where
    /// that cannot be told.
    pub fn room(&self) -> Option<(bool, u64)> {
        let found = rustix::fs::statvfs(self.path.parent()?).ok()?;
        let read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Some((read_only, found.f_bavail.saturating_mul(found.f_frsize)))
    }

    /// That the file system takes no writes.
    pub fn read_only(&self) -> Error {
        Error::Io {
            path: self.path.clone(),
            why: io::ErrorKind::ReadOnlyFilesystem.into(),
        }
    }

    /// Commits though nothing need be written, to see whether that can be done.
    pub fn probe<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) -> Result<(), Error> {
        // Further versions are reserved: something to write.
        let rv = self.reserved + 1;
        self.commit(records, rv)
    }

    /// Commits durably; `rv` is the highest version in use after it.
    pub fn commit<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
        rv: u64,
    ) -> Result<(), Error> {
        let mut records = records.peekable();
        if records.peek().is_none() && rv <= self.reserved {
            return Ok(());
        }
        self.try_commit(records, rv).map_err(|e| {
            self.db = None;
            self.error(e)
        })
    }

    fn try_commit<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
        rv: u64,
    ) -> Result<(), redb::Error> {
        let txn = self.database()?.begin_write()?;
        {
            let mut table = txn.open_table(OBJECTS)?;
            let mut name = String::new();
            for r in records {
                name.clear();
                name.extend([&r.key.resource, "\0", &r.key.path]);
                match r.json {
                    Some(json) => drop(table.insert(name.as_str(), json)?),
                    None => drop(table.remove(name.as_str())?),
                }
            }
        }
        let reserve = if rv > self.reserved {
            rv + RESERVE
        } else {
            self.reserved
        };
        if reserve != self.reserved {
            txn.open_table(META)?.insert("reserved", reserve)?;
        }
        txn.commit()?;
        self.reserved = reserve;
        Ok(())
    }
}

/// The version up to which a database has reserved them.
fn reserved(db: &Database) -> Result<u64, redb::Error> {
    let meta = db.begin_read()?.open_table(META)?;
    Ok(meta.get("reserved")?.map_or(0, |v| v.value()))
}

fn decode(json: &[u8]) -> Option<Arc<Object>> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let rv = value
        .pointer("/metadata/resourceVersion")?
        .as_str()?
        .parse()
        .ok()?;
    let object = Object::from_json(rv, Bytes::copy_from_slice(json));
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_away_gets_no_new_database_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (here, away) = (dir.path().join("here"), dir.path().join("away"));
        let mut disk = Disk::open(&here).unwrap();
        let key = Key {
            resource: "configmaps".into(),
            path: "default/a".into(),
        };
        let json = br#"{"metadata": {"resourceVersion": "7"}}"#;
        let write = |disk: &mut Disk| {
            let record = Record {
                key: &key,
                json: Some(json),
            };
            disk.commit(std::iter::once(record), 7)
        };
        write(&mut disk).unwrap();
        // As after a commit that failed.
        disk.db = None;
        std::fs::rename(&here, &away).unwrap();
        std::fs::create_dir(&here).unwrap();
        assert!(write(&mut disk).is_err());
        assert!(!here.join("state.redb").exists());
        // Somebody else's, or an old copy.
        drop(Disk::open(&here).unwrap());
        disk.reserved += 1;
        let other = write(&mut disk).unwrap_err().to_string();
        assert!(other.contains("another database"), "{other}");
        disk.reserved -= 1;
        std::fs::remove_dir_all(&here).unwrap();
        std::fs::rename(&away, &here).unwrap();
        write(&mut disk).unwrap();
        assert_eq!(disk.load().unwrap().0.len(), 1);
    }
}
