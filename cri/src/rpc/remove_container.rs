//! RemoveContainer.

use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1;

use crate::container;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::nri::Event;
use crate::store::{ContainerPhase, ContainerRecord, Entry};

/// Removes a container, by force where it runs. One that is gone is removed.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse> {
    if let Some(entry) = daemon.store.containers.find(&request.container_id)? {
        drop(entry.lock.lock().await);
        container::stop(daemon, &entry, Duration::ZERO).await?;
        let _guard = entry.lock.lock().await;
        // Another call may have removed it while this one waited.
        if daemon.store.containers.get(&entry.get().id).is_some() {
            remove(daemon, &entry).await?;
        }
    }
    Ok(v1::RemoveContainerResponse {})
}

/// The same for an entry whose lock the caller holds, whole or half-made.
pub async fn remove(daemon: &Arc<Daemon>, entry: &Entry<ContainerRecord>) -> Result<()> {
    daemon
        .store
        .update(entry, |r| r.set_phase(ContainerPhase::Removing))
        .await?;
    let record = entry.get();
    container::kill(daemon, &record).await?;
    daemon.tell_container(Event::RemoveContainer, &record).await;
    container::remove(daemon, &record).await?;
    daemon.store.remove(entry).await?;
    daemon.shims.remove(&record.id);
    daemon.rates.forget(&record.id);
    let kind = v1::ContainerEventType::ContainerDeletedEvent;
    daemon.publish(kind, &record.id, &record.sandbox_id);
    Ok(())
}
