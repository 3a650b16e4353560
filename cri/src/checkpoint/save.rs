//! Writing a checkpoint of a running container, which goes on running.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rrun_task_api::any;
use rrun_task_api::pb::runc::CheckpointOptions;
use rrun_task_api::pb::task;
use serde_json::json;

use super::{ABOUT, About, CHANGES, IMAGES, LOG, SPEC, archive};
use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::store::ContainerRecord;

/// Below the container's own directory, so that whatever is cut short goes with the container.
const WORK: &str = "checkpointing";

/// Writes the archive. `within` is how long CRIU may take.
pub async fn save(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    location: &Path,
    within: Duration,
) -> Result<()> {
    let work = daemon.config.container_dir(&record.id).join(WORK);
    clear(&work)?;
    fs::create_dir(&work).with_context(|| format!("create {}", work.display()))?;
    let saved = dump_and_pack(daemon, record, &work, location, within).await;
    let cleared = clear(&work);
    saved.and(cleared)
}

async fn dump_and_pack(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    work: &Path,
    location: &Path,
    within: Duration,
) -> Result<()> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let options = CheckpointOptions {
        work_path: text(work),
        terminal: record.config().tty,
        ..Default::default()
    };
    let request = task::CheckpointTaskRequest {
        id: record.id.clone(),
        path: text(&work.join(IMAGES)),
        options: Some(any::pack(any::CHECKPOINT_OPTIONS, &options)),
    };
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    client.checkpoint(&request, within).await?;
    let (daemon, record) = (daemon.clone(), record.clone());
    let (work, location) = (work.to_owned(), location.to_owned());
    blocking(move || pack(&daemon, &record, &work, &location)).await
}

fn pack(daemon: &Daemon, record: &ContainerRecord, work: &Path, location: &Path) -> Result<()> {
    let rootfs = daemon.images.find_rootfs(&record.id)?;
    let rootfs = rootfs.context("the image store does not know the container's rootfs")?;
    rootfs.save_changes(&work.join(CHANGES))?;
    let about = work.join(ABOUT);
    fs::write(&about, json!(about_of(daemon, record)).to_string())
        .with_context(|| format!("write {}", about.display()))?;
    let spec = daemon.config.bundle_dir(&record.id).join("config.json");
    let mut entries = vec![
        (ABOUT.to_owned(), about),
        (SPEC.to_owned(), spec),
        (CHANGES.to_owned(), work.join(CHANGES)),
    ];
    for path in list(&work.join(IMAGES))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        entries.push((format!("{IMAGES}/{name}"), path.clone()));
    }
    let log = Path::new(&record.log_path);
    if log.is_file() {
        entries.push((LOG.to_owned(), log.to_owned()));
    }
    archive::write(location, &entries)
}

fn about_of(daemon: &Daemon, record: &ContainerRecord) -> About {
    let image = record.config().image.clone().unwrap_or_default();
    let name = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    About {
        id: record.id.clone(),
        name: record.metadata().name,
        rootfs_image: name.clone(),
        rootfs_image_ref: record.image_ref.clone(),
        rootfs_image_name: name,
        runtime: daemon.runtime_of(record).map_or(String::new(), |r| r.name),
        created_time: id::rfc3339(record.created_at),
        checkpointed_time: id::rfc3339(id::now()),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let why = || format!("list {}", dir.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(why)? {
        let path = entry.with_context(why)?.path();
        // A link to a parent checkpoint, for one.
        if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
