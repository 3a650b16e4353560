//! The whole state in one file: objects, the authority and the key of tokens.
//!
//! Lines of JSON: a head, one line for each object and each file, and a foot with the SHA-256 of all
//! lines before it. Whoever reads one of these files can be everybody: it is for root alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest;
use serde_json::{Value, json};

use crate::api::http::tls::write_secret;
use crate::api::kinds;
use crate::store::{Key, Snapshot, restore_into};

/// What the head says.
const NAME: &str = "rrun-pods-backup";
/// Version of the format.
const VERSION: u64 = 1;
/// The directory of keys and certificates, below the root.
const TLS: &str = "tls";
/// The kind whose objects name further kinds.
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// A file below [`TLS`] is not larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Backup {
    /// Every object that survives a restart.
    pub snapshot: Snapshot,
    /// Files below `tls`, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

fn sha256(text: &str) -> String {
    let sum = digest::digest(&digest::SHA256, text.as_bytes());
    let mut hex = String::with_capacity(64);
    for byte in sum.as_ref() {
        hex.push_str(&format!("{byte:02x}"));
    }
    hex
}

/// The keys and certificates below a root.
pub fn files(tls: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(tls)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let about = entry.metadata()?;
        if about.is_file()
            && about.len() <= LARGEST
            && entry.path().extension() != Some("tmp".as_ref())
        {
            all.push((name, std::fs::read(entry.path())?));
        }
    }
    all.sort();
    Ok(all)
}

/// The file's text.
pub fn encode(backup: &Backup) -> String {
    let snapshot = &backup.snapshot;
    let head = json!({"format": NAME, "version": VERSION, "resourceVersion": snapshot.version,
        "objects": snapshot.objects.len(), "files": backup.files.len(),
        "program": env!("CARGO_PKG_VERSION"), "made": crate::api::now()});
    let mut text = format!("{head}\n");
    for (key, object) in &snapshot.objects {
        let (resource, path) = (json!(&*key.resource), json!(&*key.path));
        let object = String::from_utf8_lossy(object);
        text.push_str(&format!(
            "{{\"resource\":{resource},\"path\":{path},\"object\":{object}}}\n"
        ));
    }
    for (name, data) in &backup.files {
        let line = json!({"file": name, "data": BASE64.encode(data)});
        text.push_str(&format!("{line}\n"));
    }
    let foot = json!({"sha256": sha256(&text)});
    text.push_str(&format!("{foot}\n"));
    text
}

/// Reads a file whole, and refuses it for anything that is not as it was written, or not known here.
pub fn decode(text: &str) -> anyhow::Result<Backup> {
    let cut = text.strip_suffix('\n').and_then(|t| t.rfind('\n'));
    let cut = cut.context("it is not whole: the foot is missing")? + 1;
    let (body, foot) = text.split_at(cut);
    let foot: Value = serde_json::from_str(foot).context("the foot")?;
    let mut lines = body.lines();
    let head = lines.next().unwrap_or_default();
    let head: Value = serde_json::from_str(head).context("the head: it is no backup")?;
    ensure!(head["format"] == NAME, "it is no backup of rrun-pods");
    let version = head["version"].as_u64().unwrap_or(0);
    ensure!(
        version == VERSION,
        "it has version {version}, this program knows {VERSION}: use the rrun-pods that made it"
    );
    let sum = foot["sha256"].as_str().unwrap_or_default();
    ensure!(
        sum == sha256(body),
        "its checksum is wrong: it is damaged or not whole"
    );
    let mut backup = Backup::default();
    backup.snapshot.version = head["resourceVersion"].as_u64().context("the head")?;
    for (number, line) in lines.enumerate() {
        let line: Value = serde_json::from_str(line).context(format!("line {}", number + 2))?;
        take(&mut backup, &line).with_context(|| format!("line {}", number + 2))?;
    }
    let counted = (backup.snapshot.objects.len(), backup.files.len());
    let told = (head["objects"].as_u64(), head["files"].as_u64());
    ensure!(
        told == (Some(counted.0 as u64), Some(counted.1 as u64)),
        "it has other objects than its head says"
    );
    known(&backup)?;
    Ok(backup)
}

fn take(backup: &mut Backup, line: &Value) -> anyhow::Result<()> {
    if let Some(name) = line["file"].as_str() {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        ensure!(plain, "{name:?} is no name of a file");
        let data = line["data"].as_str().context("a file without data")?;
        backup.files.push((name.to_owned(), BASE64.decode(data)?));
        return Ok(());
    }
    let (Some(resource), Some(path)) = (line["resource"].as_str(), line["path"].as_str()) else {
        bail!("neither an object nor a file");
    };
    let version = line["object"]["metadata"]["resourceVersion"].as_str();
    let version = version.and_then(|v| v.parse::<u64>().ok());
    ensure!(
        version.is_some_and(|v| v <= backup.snapshot.version),
        "{resource} {path}: no version, or one from after the backup"
    );
    let key = Key {
        resource: resource.into(),
        path: path.into(),
    };
    let object = line["object"].to_string().into_bytes();
    backup.snapshot.objects.push((key, object));
    Ok(())
}

/// Every kind must be one of this program, or one that the backup defines.
fn known(backup: &Backup) -> anyhow::Result<()> {
    let own: BTreeSet<String> = kinds::served()
        .map(crate::api::Resource::qualified)
        .collect();
    let objects = &backup.snapshot.objects;
    let defined: BTreeSet<&str> = objects
        .iter()
        .filter(|(key, _)| &*key.resource == DEFINITIONS)
        .map(|(key, _)| &*key.path)
        .collect();
    let strange = objects
        .iter()
        .find(|(key, _)| !own.contains(&*key.resource) && !defined.contains(&*key.resource));
    match strange {
        None => Ok(()),
        Some((key, _)) => bail!(
            "this program does not know {} ({}): use the rrun-pods that made it",
            key.resource,
            key.path
        ),
    }
}

/// Makes the state below `root` as the backup has it. What was there is kept beside it when `replace`
/// is set, and refuses otherwise. Gives the name of what was kept.
pub fn restore(backup: &Backup, root: &Path, replace: bool) -> anyhow::Result<Option<PathBuf>> {
    let (state, tls) = (root.join("state.redb"), root.join(TLS));
    let there = state.exists();
    ensure!(
        !there || replace,
        "{} is there: end rrun-pods, and give --replace to put the backup in its place, or another --root",
        state.display()
    );
    let fresh = root.join("restoring");
    match std::fs::remove_dir_all(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| fresh.display().to_string());
        }
        _ => {}
    }
    restore_into(&fresh, &backup.snapshot)?;
    let at = |path: &Path| path.display().to_string();
    std::fs::create_dir_all(fresh.join(TLS)).with_context(|| at(&fresh))?;
    for (name, data) in &backup.files {
        let path = fresh.join(TLS).join(name);
        let text = std::str::from_utf8(data).with_context(|| format!("file {name}"))?;
        write_secret(&path, text).with_context(|| at(&path))?;
    }
    // A root without a database is empty to who starts on it: the database comes last.
    let mut kept = None;
    if there {
        let aside = root.join(format!(
            "before-restore-{}",
            jiff::Timestamp::now().as_second()
        ));
        std::fs::create_dir_all(&aside).with_context(|| at(&aside))?;
        std::fs::rename(&state, aside.join("state.redb")).with_context(|| at(&state))?;
        kept = Some(aside);
    }
    if tls.exists() {
        let aside = kept
            .clone()
            .unwrap_or_else(|| root.join("before-restore-tls"));
        std::fs::create_dir_all(&aside).with_context(|| at(&aside))?;
        std::fs::rename(&tls, aside.join(TLS)).with_context(|| at(&tls))?;
    }
    std::fs::rename(fresh.join(TLS), &tls).with_context(|| at(&tls))?;
    std::fs::rename(fresh.join("state.redb"), &state).with_context(|| at(&state))?;
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::File::open(root)
        .and_then(|d| d.sync_all())
        .with_context(|| at(root))?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Client, kinds};
    use crate::store::{Selector, Store};

    async fn state(dir: &Path) -> Backup {
        let store = Store::open(dir).unwrap();
        let client = Client::over(store.clone());
        crate::api::bootstrap::objects(&client).await.unwrap();
        let map = json!({"metadata": {"name": "a"}, "data": {"k": "äöü\n\"\\"}});
        client
            .create(&kinds::CONFIG_MAP, "default", map)
            .await
            .unwrap();
        let lease = json!({"metadata": {"name": "l"}});
        client
            .create(&kinds::LEASE, "default", lease)
            .await
            .unwrap();
        let snapshot = store.snapshot().await.unwrap();
        store.close();
        Backup {
            snapshot,
            files: vec![("ca.crt".to_owned(), b"PEM".to_vec())],
        }
    }

    #[tokio::test]
    async fn what_was_saved_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let backup = state(&dir.path().join("a")).await;
        let text = encode(&backup);
        let again = decode(&text).unwrap();
        assert!(
            !text.contains("\"leases."),
            "what is in memory alone is not saved"
        );
        let root = dir.path().join("b");
        assert_eq!(restore(&again, &root, false).unwrap(), None);
        assert_eq!(std::fs::read(root.join("tls/ca.crt")).unwrap(), b"PEM");
        let store = Store::open(&root).unwrap();
        let client = Client::over(store.clone());
        let map = client.get(&kinds::CONFIG_MAP, "default", "a").unwrap();
        assert_eq!(map.str_at("/data/k"), "äöü\n\"\\");
        let rv = client
            .list(&kinds::CONFIG_MAP, "", &Selector::all())
            .resource_version;
        assert!(rv >= backup.snapshot.version, "versions go on: {rv}");
        drop(client);
        store.close();
        assert!(
            restore(&again, &root, false).is_err(),
            "a state that is there is not lost"
        );
        let kept = restore(&again, &root, true).unwrap().unwrap();
        assert!(kept.join("state.redb").exists() && kept.join("tls/ca.crt").exists());
    }

    #[tokio::test]
    async fn what_is_damaged_or_not_known_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut backup = state(dir.path()).await;
        let text = encode(&backup);
        for cut in [0, 1, text.len() / 2, text.len() - 1] {
            let part = text.get(..cut).unwrap_or_default();
            assert!(decode(part).is_err(), "{cut}");
        }
        let turned = text.replacen("\"resource\":", "\"resourcE\":", 1);
        assert!(
            decode(&turned)
                .unwrap_err()
                .to_string()
                .contains("checksum")
        );
        let mut lines: Vec<&str> = text.lines().collect();
        lines.remove(1);
        assert!(decode(&format!("{}\n", lines.join("\n"))).is_err());
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        let why = decode(&newer).unwrap_err().to_string();
        assert!(why.contains("version 2"), "{why}");
        let key = Key::new("widgets.example.com", "default", "w");
        let object = br#"{"metadata":{"resourceVersion":"1"}}"#.to_vec();
        backup.snapshot.objects.push((key, object.clone()));
        let why = decode(&encode(&backup)).unwrap_err().to_string();
        assert!(why.contains("widgets.example.com"), "{why}");
        let key = Key::new(DEFINITIONS, "", "widgets.example.com");
        backup.snapshot.objects.push((key, object));
        // Where the definition's own kind is known, its objects are.
        let own = kinds::served().any(|r| r.qualified() == DEFINITIONS);
        assert_eq!(decode(&encode(&backup)).is_ok(), own);
    }
}
