//! Ending a container's processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use rrun_task_api::pb::task;
use tracing::{Instrument, debug_span};

use super::monitor;
use crate::daemon::Daemon;
use crate::store::{ContainerPhase, ContainerRecord, Entry};

/// After SIGKILL a process ends at once, unless the kernel holds it (a dead NFS server).
const KILL: Duration = Duration::from_mins(1);
const SIGKILL: u32 = 9;

/// Asks the process to end, once, and after the grace period makes it. Returns when it has ended; a
/// container that does not run has. A stop with less time does not wait for one that has more.
pub async fn stop(
    daemon: &Arc<Daemon>,
    entry: &Entry<ContainerRecord>,
    grace: Duration,
) -> Result<()> {
    let record = entry.get();
    if record.phase() != ContainerPhase::Running {
        return Ok(());
    }
    if !grace.is_zero() {
        ask(daemon, entry, &record).await?;
        let ended = exited(entry, grace).instrument(debug_span!("grace period"));
        if ended.await {
            return Ok(());
        }
    }
    signal(daemon, &record, SIGKILL, true).await?;
    if exited(entry, KILL).await {
        return Ok(());
    }
    bail!(
        "container {}: still running {KILL:?} after SIGKILL",
        record.id
    )
}

/// Sends the stop signal where no stop has sent it before.
async fn ask(
    daemon: &Daemon,
    entry: &Entry<ContainerRecord>,
    record: &ContainerRecord,
) -> Result<()> {
    if entry.told_to_end.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let sent = signal(daemon, record, record.stop_signal, false).await;
    if sent.is_err() {
        entry.told_to_end.store(false, Ordering::Relaxed);
    }
    sent
}

async fn exited(entry: &Entry<ContainerRecord>, within: Duration) -> bool {
    let mut watch = entry.watch();
    let ended = watch.wait_for(|r| r.phase() != ContainerPhase::Running);
    tokio::time::timeout(within, ended).await.is_ok()
}

/// Sends a signal; a process or shim that is gone needs none.
async fn signal(daemon: &Daemon, record: &ContainerRecord, signal: u32, all: bool) -> Result<()> {
    let Ok(client) = daemon.shims.get(&record.id, &record.shim_address).await else {
        return Ok(());
    };
    let request = task::KillRequest {
        id: record.id.clone(),
        signal,
        all,
        ..Default::default()
    };
    match client.kill(&request).await {
        Err(error) if !error.is_not_found() && !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Ends whatever a container has: its processes, its shim. The caller holds the lock, so nobody
/// else waits for the exit.
pub async fn kill(daemon: &Arc<Daemon>, record: &ContainerRecord) -> Result<()> {
    if record.shim_address.is_empty() || daemon.shims.has_ended(&record.id) {
        return Ok(());
    }
    signal(daemon, record, SIGKILL, true).await?;
    if let Ok(client) = daemon.shims.get(&record.id, &record.shim_address).await {
        let request = task::WaitRequest {
            id: record.id.clone(),
            ..Default::default()
        };
        match client.wait(&request, Some(KILL)).await {
            Err(error) if !error.is_not_found() && !error.is_gone() => return Err(error.into()),
            _ => {}
        }
    }
    monitor::end_shim(daemon, record).await
}
