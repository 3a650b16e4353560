//! StopPodSandbox.

use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1;

use crate::container;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::nri::Event;
use crate::sandbox::{self, Failure};
use crate::store::{Entry, SandboxPhase, SandboxRecord};

/// Ends the containers, the network and the namespaces. A sandbox that is gone is stopped.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse> {
    if let Some(entry) = daemon.store.sandboxes.find(&request.pod_sandbox_id)? {
        let _guard = entry.lock.lock().await;
        stop(daemon, &entry, Failure::Ends).await?;
    }
    Ok(v1::StopPodSandboxResponse {})
}

/// The same for an entry whose lock the caller holds.
pub async fn stop(
    daemon: &Arc<Daemon>,
    entry: &Entry<SandboxRecord>,
    failure: Failure,
) -> Result<()> {
    let record = entry.get();
    if matches!(
        record.phase(),
        SandboxPhase::Stopped | SandboxPhase::Removing
    ) {
        return Ok(());
    }
    daemon
        .store
        .update(entry, |r| r.set_phase(SandboxPhase::Stopping))
        .await?;
    for container in daemon.containers_of(&record.id) {
        // A start that is under way ends first; later ones find the sandbox stopping.
        drop(container.lock.lock().await);
        container::stop(daemon, &container, Duration::ZERO).await?;
        // The exit is on record before its shim is through.
        drop(container.lock.lock().await);
    }
    // Once: a stop that is tried again has told of it already.
    if record.phase() == SandboxPhase::Ready {
        daemon.tell_pod(Event::StopPodSandbox, &record).await;
    }
    sandbox::teardown(daemon, &record, failure).await?;
    daemon
        .store
        .update(entry, |r| r.set_phase(SandboxPhase::Stopped))
        .await?;
    daemon.publish(
        v1::ContainerEventType::ContainerStoppedEvent,
        &record.id,
        &record.id,
    );
    Ok(())
}
