//! RemovePodSandbox.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::{Daemon, blocking};
use crate::error::Result;
use crate::nri::Event;
use crate::sandbox::{self, Failure};
use crate::store::{Entry, SandboxPhase, SandboxRecord};

/// Removes a sandbox with its containers. One that is gone is removed.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse> {
    if let Some(entry) = daemon.store.sandboxes.find(&request.pod_sandbox_id)? {
        let _guard = entry.lock.lock().await;
        remove(daemon, &entry).await?;
    }
    Ok(v1::RemovePodSandboxResponse {})
}

/// The same for an entry whose lock the caller holds.
pub async fn remove(daemon: &Arc<Daemon>, entry: &Entry<SandboxRecord>) -> Result<()> {
    let record = entry.get();
    super::stop_pod_sandbox::stop(daemon, entry, Failure::IsReported).await?;
    for container in daemon.containers_of(&record.id) {
        let _guard = container.lock.lock().await;
        super::remove_container::remove(daemon, &container).await?;
    }
    daemon.tell_pod(Event::RemovePodSandbox, &record).await;
    daemon.rates.forget(&record.id);
    undo(daemon, entry, Failure::IsReported).await?;
    daemon.publish(
        v1::ContainerEventType::ContainerDeletedEvent,
        &record.id,
        &record.id,
    );
    Ok(())
}

/// Removes what a sandbox without containers has, whole or half-made, and then its record.
pub async fn undo(
    daemon: &Arc<Daemon>,
    entry: &Entry<SandboxRecord>,
    failure: Failure,
) -> Result<()> {
    daemon
        .store
        .update(entry, |r| r.set_phase(SandboxPhase::Removing))
        .await?;
    let record = entry.get();
    sandbox::teardown(daemon, &record, failure).await?;
    sandbox::remove(daemon, &record).await?;
    daemon.store.remove(entry).await?;
    if record.limits_set {
        let (daemon, record) = (daemon.clone(), record.clone());
        let weighed =
            blocking(move || super::update_pod_sandbox_resources::weigh(&daemon, &record));
        if let Err(error) = weighed.await {
            // It is gone; the next pod that comes or goes weighs again.
            tracing::error!("weigh what pods have in common: {error:#}");
        }
    }
    Ok(())
}
