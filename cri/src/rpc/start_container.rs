//! StartContainer.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::container;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::id;
use crate::nri::Event;
use crate::sandbox::{self, limits::Lacking};
use crate::store::{ContainerPhase, ContainerRecord, Entry, SandboxPhase, SandboxRecord};

/// Exit code of a container that could not be started, as with the peers.
const START_ERROR: i32 = 128;

/// Starts a created container. One that runs is started.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse> {
    let entry = daemon.container(&request.container_id)?;
    let _guard = entry.lock.lock().await;
    let record = entry.get();
    match record.phase() {
        ContainerPhase::Created => {}
        ContainerPhase::Running => return Ok(v1::StartContainerResponse {}),
        phase => {
            return Err(Error::State(format!(
                "container {} is {}, not created",
                record.id, phase
            )));
        }
    }
    let pod = daemon.sandbox(&record.sandbox_id)?;
    let sandbox = pod.get();
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(Error::State(format!(
            "pod sandbox {} is not ready",
            sandbox.id
        )));
    }
    if let Err(error) = start(daemon, &entry).await {
        give_up_if_broken(daemon, &pod).await?;
        return Err(error);
    }
    // The pod's cgroup came into being with its first container.
    let lacking = Lacking::IsLeftOut;
    if let Err(error) = super::update_pod_sandbox_resources::apply(daemon, sandbox, lacking).await {
        // It runs: to say that it does not would be worse.
        tracing::error!(container = record.id, "limits of its pod: {error}");
    }
    Ok(v1::StartContainerResponse {})
}

/// A pod whose network namespace somebody unpinned starts nothing any more. A kubelet makes another in the
/// place of one that is not ready.
async fn give_up_if_broken(daemon: &Daemon, pod: &Entry<SandboxRecord>) -> Result<()> {
    let record = pod.get();
    let dir = daemon.config.sandbox_dir(&record.id);
    if record.host_network() || sandbox::namespaces::is_pinned(&dir, "net") {
        return Ok(());
    }
    tracing::error!(pod = record.id, "its network namespace is gone");
    let stopping = |r: &mut SandboxRecord| {
        if r.phase() == SandboxPhase::Ready {
            r.set_phase(SandboxPhase::Stopping);
        }
    };
    daemon.store.update(pod, stopping).await?;
    let kind = v1::ContainerEventType::ContainerStoppedEvent;
    daemon.publish(kind, &record.id, &record.id);
    Ok(())
}

async fn start(daemon: &Arc<Daemon>, entry: &Arc<Entry<ContainerRecord>>) -> Result<()> {
    let starting = |r: &mut ContainerRecord| {
        r.boot_id.clone_from(&daemon.boot_id);
        r.set_phase(ContainerPhase::Starting);
    };
    daemon.store.update(entry, starting).await?;
    let starting = async {
        daemon
            .ask_container(Event::StartContainer, &entry.get())
            .await?;
        container::start(daemon, entry).await
    };
    match starting.await {
        Ok(started) => {
            let running = |r: &mut ContainerRecord| {
                r.pid = started.pid;
                r.pid_start = id::start_time(started.pid).unwrap_or_default();
                r.shim_address = started.address;
                r.started_at = id::now();
                r.set_phase(ContainerPhase::Running);
            };
            daemon.store.update(entry, running).await?;
            let record = entry.get();
            let kind = v1::ContainerEventType::ContainerStartedEvent;
            daemon.publish(kind, &record.id, &record.sandbox_id);
            container::watch(daemon.clone(), entry.clone());
            daemon
                .tell_container(Event::PostStartContainer, &record)
                .await;
            Ok(())
        }
        Err(error) => {
            failed(daemon, entry, &error).await?;
            Err(error.into())
        }
    }
}

/// A start that failed is an exit with a reason: a kubelet shows it, and makes the next attempt
/// with a new container.
async fn failed(
    daemon: &Arc<Daemon>,
    entry: &Entry<ContainerRecord>,
    error: &anyhow::Error,
) -> Result<()> {
    if let Err(kill) = container::kill(daemon, &entry.get()).await {
        tracing::error!(container = entry.get().id, "after a failed start: {kill:#}");
    }
    let exited = |r: &mut ContainerRecord| {
        r.exit_code = START_ERROR;
        r.finished_at = id::now();
        r.reason = "StartError".into();
        r.message = format!("{error:#}");
        r.set_phase(ContainerPhase::Exited);
    };
    daemon.store.update(entry, exited).await?;
    Ok(())
}
