//! Crash capsules: what a container that failed leaves, kept when it is started anew or removed.
//!
//! A capsule is an object of `rrun.io/v1` in a file of its own below the node agent's directory. It
//! is made once for each failed run of a container, and the oldest go when there are too many: of one
//! container, in number, or in bytes.

mod collect;
mod layer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

pub use collect::{Failed, collect, layer_of};

use crate::api::http::tls::write_secret;

/// Of one container of a pod.
const OF_ONE: usize = 5;
/// Of all.
const ALL: usize = 200;
/// Of all, in bytes.
const BYTES: u64 = 16 << 20;
/// One that is larger is not ours.
const LARGEST: u64 = 1 << 20;

/// Where capsules are kept.
#[derive(Debug, Clone)]
pub struct Capsules {
    dir: PathBuf,
}

/// A file of a capsule.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    since: SystemTime,
    bytes: u64,
    /// Pod and container: the name up to the last two parts.
    of: String,
}

impl Capsules {
    /// Below the node agent's directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("capsules"),
        }
    }

    /// The file of a run of a container.
    pub fn file(&self, uid: &str, container: &str, restarts: u32, id: &str) -> PathBuf {
        let id = &id[..id.len().min(12)];
        self.dir
            .join(format!("{uid}_{container}_{restarts}_{id}.json"))
    }

    /// Keeps a capsule, and lets the oldest go that are too many.
    pub fn keep(&self, file: &Path, capsule: &Value) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        write_secret(file, &capsule.to_string())?;
        for kept in surplus(self.kept()) {
            match std::fs::remove_file(&kept) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn kept(&self) -> Vec<Kept> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| {
            let path = entry.path();
            let about = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
            let of = name.rsplitn(3, '_').nth(2)?.to_owned();
            Some(Kept {
                since: about.modified().ok()?,
                bytes: about.len(),
                of,
                path,
            })
        });
        kept.collect()
    }

    /// Every capsule, the newest first. What cannot be read is left out, and said.
    pub fn all(&self) -> Vec<Value> {
        let mut kept = self.kept();
        kept.sort_by(|a, b| b.since.cmp(&a.since).then(b.path.cmp(&a.path)));
        let read = |kept: &Kept| {
            let text = std::fs::read(&kept.path).map_err(|e| e.to_string());
            let value =
                text.and_then(|t| serde_json::from_slice::<Value>(&t).map_err(|e| e.to_string()));
            match value {
                Ok(value) if value["apiVersion"] == "rrun.io/v1" => Some(value),
                Ok(_) => None,
                Err(why) => {
                    tracing::warn!(path = %kept.path.display(), "capsule not read: {why}");
                    None
                }
            }
        };
        let small = kept.iter().filter(|k| k.bytes <= LARGEST);
        small.filter_map(read).collect()
    }
}

/// Those that are too many.
fn surplus(mut kept: Vec<Kept>) -> Vec<PathBuf> {
    kept.sort_by(|a, b| b.since.cmp(&a.since).then(b.path.cmp(&a.path)));
    let (mut number, mut bytes) = (0, 0);
    let mut of_one: BTreeMap<String, usize> = BTreeMap::new();
    let mut gone = Vec::new();
    for capsule in kept {
        let mine = of_one.entry(capsule.of).or_default();
        *mine += 1;
        number += 1;
        bytes += capsule.bytes;
        if *mine > OF_ONE || number > ALL || bytes > BYTES {
            // What goes takes no room.
            (*mine, number, bytes) = (*mine - 1, number - 1, bytes - capsule.bytes);
            gone.push(capsule.path);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn kept(of: &str, age: u64, bytes: u64) -> Kept {
        Kept {
            path: format!("{of}-{age}").into(),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age),
            bytes,
            of: of.to_owned(),
        }
    }

    #[test]
    fn the_oldest_of_one_container_and_of_all_go() {
        let mut all: Vec<Kept> = (0..7).map(|age| kept("a", age, 10)).collect();
        all.push(kept("b", 100, 10));
        let gone: Vec<PathBuf> = surplus(all);
        assert_eq!(gone, [PathBuf::from("a-5"), PathBuf::from("a-6")]);
        let many = (0..300).map(|n| kept(&format!("c{n}"), n, 1)).collect();
        assert_eq!(surplus(many).len(), 100);
        let large = (0..20)
            .map(|n| kept(&format!("d{n}"), n, 1 << 20))
            .collect();
        assert_eq!(surplus(large).len(), 4);
    }

    #[test]
    fn capsules_are_kept_and_read_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let capsules = Capsules::new(dir.path());
        assert!(capsules.all().is_empty());
        for n in 0..7 {
            let file = capsules.file("uid", "c", n, "0123456789abcdef");
            let capsule = json!({"apiVersion": "rrun.io/v1", "restarts": n});
            capsules.keep(&file, &capsule).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::write(dir.path().join("capsules/u_c_9_x.json"), "{broken").unwrap();
        let all = capsules.all();
        let restarts: Vec<i64> = all.iter().filter_map(|c| c["restarts"].as_i64()).collect();
        assert_eq!(restarts, [6, 5, 4, 3, 2]);
    }
}
