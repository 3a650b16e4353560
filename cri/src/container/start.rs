//! Starting a container: a shim, Create, Start.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rrun_task_api::client::Client;
use rrun_task_api::pb::task;
use tracing::{Instrument, debug_span};

use super::rootfs;
use crate::config::Runtime;
use crate::daemon::Daemon;
use crate::shims;
use crate::store::{ContainerRecord, Entry};

/// What is known of a started container.
pub struct Started {
    /// First process on the host.
    pub pid: u32,
    /// Of the shim.
    pub address: String,
}

/// Starts a container whose record says Starting. After an error [`super::kill`] cleans up.
pub async fn start(daemon: &Arc<Daemon>, entry: &Entry<ContainerRecord>) -> Result<Started> {
    let record = entry.get();
    if !record.log_path.is_empty() {
        make_log_dir(&record.log_path)?;
    }
    let runtime = daemon.runtime_of(&record)?;
    // After a start that a kill -9 cut short, the one before has been ended.
    daemon.shims.remove(&record.id);
    let address = shims::start(&daemon.config, &runtime, &record.id)
        .instrument(debug_span!("start shim"))
        .await?;
    // Before the shim makes a process: after a kill -9 recovery finds it by this.
    let told = address.clone();
    daemon
        .store
        .update(entry, |r| r.shim_address = told)
        .await?;
    let client = daemon.shims.get(&record.id, &address).await?;
    create(daemon, &client, &runtime, &record)
        .instrument(debug_span!("create task"))
        .await?;
    let request = task::StartRequest {
        id: record.id.clone(),
        ..Default::default()
    };
    let started = client.start(&request);
    let pid = started.instrument(debug_span!("start task")).await?.pid;
    Ok(Started { pid, address })
}

async fn create(
    daemon: &Daemon,
    client: &Client,
    runtime: &Runtime,
    record: &ContainerRecord,
) -> Result<()> {
    let config = record.config();
    let log = if record.log_path.is_empty() {
        // By way of the shim all the same, so that a client can attach.
        "file:///dev/null".to_owned()
    } else {
        format!("cri-log://{}", escape(&record.log_path))
    };
    let request = task::CreateTaskRequest {
        id: record.id.clone(),
        bundle: daemon
            .config
            .bundle_dir(&record.id)
            .to_string_lossy()
            .into_owned(),
        terminal: config.tty,
        stdin: stdin(record),
        stderr: if config.tty {
            String::new()
        } else {
            log.clone()
        },
        stdout: log,
        options: Some(shims::options(&daemon.config, runtime)),
        rootfs: rootfs::to_mount(&daemon.config.bundle_dir(&record.id))?,
        checkpoint: checkpoint(daemon, record),
        ..Default::default()
    };
    client.create(&request).await?;
    Ok(())
}

/// Where CRIU's files are, for a container that is made from them.
fn checkpoint(daemon: &Daemon, record: &ContainerRecord) -> String {
    if record.checkpoint.is_empty() {
        return String::new();
    }
    let dir = daemon.config.container_dir(&record.id);
    let images = dir.join(crate::checkpoint::IMAGES);
    images.to_string_lossy().into_owned()
}

/// Who feeds standard input: an attach, or nobody.
fn stdin(record: &ContainerRecord) -> String {
    let config = record.config();
    if config.stdin {
        "attach:".to_owned()
    } else {
        String::new()
    }
}

/// A path in a URI.
fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F")
}

fn make_log_dir(path: &str) -> Result<()> {
    let Some(dir) = Path::new(path).parent() else {
        return Ok(());
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}
