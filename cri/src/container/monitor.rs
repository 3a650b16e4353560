//! Watching a container until its process ends, and what follows from that.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rrun_cri_api::v1::ContainerEventType;
use rrun_task_api::exit::Exit;
use rrun_task_api::pb::task;
use tracing::{Instrument, debug_span};

use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::nri::Event;
use crate::shims;
use crate::store::{ContainerPhase, ContainerRecord, Entry};

/// Exit code of a container whose end nobody saw, as with the peers.
const UNKNOWN: i32 = 255;

/// Waits in a task of its own for the process of a running container to end.
pub fn watch(daemon: Arc<Daemon>, entry: Arc<Entry<ContainerRecord>>) {
    tokio::spawn(async move {
        let record = entry.get();
        wait(&daemon, &record).await;
        let _guard = entry.lock.lock().await;
        if let Err(error) = finish(&daemon, &entry).await {
            tracing::error!(container = record.id, "after the exit: {error:#}");
        }
    });
}

/// Returns when the process has ended or the shim is gone for good.
async fn wait(daemon: &Daemon, record: &ContainerRecord) {
    let request = task::WaitRequest {
        id: record.id.clone(),
        ..Default::default()
    };
    loop {
        let client = match daemon.shims.get(&record.id, &record.shim_address).await {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(container = record.id, "the shim is gone: {error:#}");
                return;
            }
        };
        match client.wait(&request, None).await {
            Ok(_) => return,
            // Connect again: a broken connection is not yet a dead shim.
            Err(error) if error.is_gone() => {}
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                tracing::warn!(container = record.id, "wait for the exit: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Records how a container ended, tells of it, and ends its shim. The caller holds the lock. For
/// a container that has already exited only the shim is ended.
pub async fn finish(daemon: &Arc<Daemon>, entry: &Entry<ContainerRecord>) -> Result<()> {
    let record = entry.get();
    let lives = [
        ContainerPhase::Created,
        ContainerPhase::Starting,
        ContainerPhase::Running,
    ];
    if lives.contains(&record.phase()) {
        let exit = read_exit(daemon, &record.id).await?;
        daemon
            .store
            .update(entry, |r| exited(r, exit.as_ref()))
            .await?;
        daemon.publish(
            ContainerEventType::ContainerStoppedEvent,
            &record.id,
            &record.sandbox_id,
        );
        daemon
            .tell_container(Event::StopContainer, &entry.get())
            .await;
    }
    end_shim(daemon, &record).await
}

async fn read_exit(daemon: &Arc<Daemon>, id: &str) -> Result<Option<Exit>> {
    let bundle = daemon.config.bundle_dir(id);
    blocking(move || {
        Exit::read(&bundle).with_context(|| format!("read {}/exit.json", bundle.display()))
    })
    .await
}

/// The record of a container that ended; without an exit record nobody saw how.
pub fn exited(record: &mut ContainerRecord, exit: Option<&Exit>) {
    record.set_phase(ContainerPhase::Exited);
    let reason = match exit {
        Some(Exit { code: 0, .. }) => "Completed",
        Some(Exit { oom_killed, .. }) if *oom_killed => "OOMKilled",
        Some(_) => "Error",
        None => "Unknown",
    };
    record.reason.push_str(reason);
    if let Some(exit) = exit {
        record.exit_code = exit.code as i32;
        record.finished_at = exit.exited_at as i64;
    } else {
        record.exit_code = UNKNOWN;
        record.finished_at = id::now();
        let message = "its shim was gone, so nobody saw how the process ended";
        record.message.push_str(message);
    }
    record.pid = 0;
    record.pid_start = 0;
}

/// Deletes the container at the runtime and ends the shim; a shim that is gone is cleaned up after.
pub async fn end_shim(daemon: &Arc<Daemon>, record: &ContainerRecord) -> Result<()> {
    let id = record.id.clone();
    if record.shim_address.is_empty()
        || daemon.shims.has_ended(&id)
        || !daemon.config.bundle_dir(&id).exists()
    {
        return Ok(());
    }
    let ended = match daemon.shims.get(&id, &record.shim_address).await {
        Ok(client) => {
            let delete = task::DeleteRequest {
                id: id.clone(),
                ..Default::default()
            };
            let deleted = client.delete(&delete);
            let deleted = match deleted.instrument(debug_span!("delete task")).await {
                Ok(_) => Ok(true),
                Err(error) if !error.is_not_found() && !error.is_gone() => Err(error),
                // It may not have come to the end of it.
                Err(_) => Ok(false),
            };
            let now = task::ShutdownRequest {
                id: id.clone(),
                now: deleted.is_err(),
            };
            // The answer may be lost in the end of the shim.
            let _ = client.shutdown(&now).await;
            deleted.map_err(anyhow::Error::from)
        }
        Err(_) => shims::delete(&daemon.config, &daemon.runtime_of(record)?, &id)
            .await
            .map(|()| true),
    };
    daemon.shims.forget(&id);
    if ended? {
        daemon.shims.set_ended(&id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: u32, oom_killed: bool) -> String {
        let mut record = ContainerRecord::default();
        let exit = Exit {
            code,
            oom_killed,
            exited_at: 5,
            ..Default::default()
        };
        exited(&mut record, Some(&exit));
        assert_eq!(record.finished_at, 5);
        record.reason
    }

    #[test]
    fn reasons_are_those_a_kubelet_knows() {
        assert_eq!(reason(0, false), "Completed");
        assert_eq!(reason(1, false), "Error");
        assert_eq!(reason(137, true), "OOMKilled");
        // The killer took a child; the first process ended well all the same.
        assert_eq!(reason(0, true), "Completed");
    }

    #[test]
    fn an_exit_that_nobody_saw_is_not_a_success() {
        let mut record = ContainerRecord::default();
        exited(&mut record, None);
        assert_eq!((record.exit_code, record.reason.as_str()), (255, "Unknown"));
        assert!(record.finished_at > 0);
    }
}
