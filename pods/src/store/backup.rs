//! Everything that survives a restart, at one instant; and a database made of it.

use std::path::Path;

use tokio::sync::oneshot;

use super::disk::{Disk, Error, Record};
use super::{Key, Store, WriteError, writer};

/// Everything at one resource version.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// No object has a higher one.
    pub version: u64,
    /// Keys and JSON.
    pub objects: Vec<(Key, Vec<u8>)>,
}

impl Store {
    /// What is on disk, between two writes.
    pub async fn snapshot(&self) -> Result<Snapshot, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.writes
            .send(writer::Request::Snapshot(reply))
            .map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }
}

/// Makes a database in a directory that has none.
pub fn restore_into(dir: &Path, snapshot: &Snapshot) -> Result<(), Error> {
    let mut disk = Disk::open(dir)?;
    let records = snapshot.objects.iter().map(|(key, json)| Record {
        key,
        json: Some(json),
    });
    disk.commit(records, snapshot.version)
}
