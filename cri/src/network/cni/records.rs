//! What was attached: written before ADD and again with its result, removed after DEL. Durable,
//! because address plugins keep their own books across a reboot.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const VERSION: u32 = 1;

/// An attachment of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Id of the sandbox.
    pub pod_id: String,
    /// The bind mount that pins its network namespace.
    pub netns: PathBuf,
    /// The configuration list that was used.
    pub network: Value,
    /// CNI_ARGS.
    pub args: String,
    /// Values for the plugins' capabilities.
    pub capabilities: Map<String, Value>,
    /// The result of ADD; none while it has not come to its end.
    pub result: Option<Value>,
}

impl Record {
    /// Of an ADD that is about to begin.
    pub fn new(
        pod_id: &str,
        netns: &Path,
        network: Value,
        args: String,
        capabilities: Map<String, Value>,
    ) -> Self {
        let (pod_id, netns) = (pod_id.to_owned(), netns.to_owned());
        Self {
            version: VERSION,
            pod_id,
            netns,
            network,
            args,
            capabilities,
            result: None,
        }
    }
}

/// The records' directory.
#[derive(Clone, Debug)]
pub struct Records(pub PathBuf);

impl Records {
    /// Writes a record; it is on disk when this returns.
    pub fn save(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.pod_id)?;
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The record of a pod. One that cannot be read is an error: what it speaks of is not known.
    pub fn load(&self, pod_id: &str) -> Result<Option<Record>> {
        load(&self.path(pod_id)?)
    }

    /// All records. One that cannot be read is set aside with a warning.
    pub fn all(&self) -> Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("list {}", self.0.display())),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("list {}", self.0.display()))?
                .path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match load(&path) {
                Ok(record) => records.extend(record),
                Err(error) => {
                    tracing::warn!("an unreadable CNI record is set aside: {error:#}");
                    let aside = path.with_extension("unreadable");
                    fs::rename(&path, aside)
                        .with_context(|| format!("set {} aside", path.display()))?;
                }
            }
        }
        Ok(records)
    }

    /// Removes the record of a pod, whether or not there is one.
    pub fn remove(&self, pod_id: &str) -> Result<()> {
        let path = self.path(pod_id)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, pod_id: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !pod_id.is_empty() && !pod_id.starts_with('.') && pod_id.chars().all(plain),
            "pod id {pod_id:?} cannot be a file name"
        );
        Ok(self.0.join(format!("{pod_id}.json")))
    }
}

fn load(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let record: Record =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
    ensure!(
        record.version == VERSION,
        "{} has version {}",
        path.display(),
        record.version
    );
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_cut_ones_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records(directory.path().join("cni"));
        assert_eq!(records.all().unwrap(), []);
        let record = Record::new("a", Path::new("/n"), Value::Null, "x=y".into(), Map::new());
        records.save(&record).unwrap();
        assert_eq!(records.load("a").unwrap(), Some(record.clone()));
        let path = records.path("a").unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(records.load("a").is_err());
            assert_eq!(records.all().unwrap(), []);
        }
        records.save(&record).unwrap();
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert_eq!(records.load("a").unwrap(), None);
        assert!(records.load("../a").is_err());
    }
}
