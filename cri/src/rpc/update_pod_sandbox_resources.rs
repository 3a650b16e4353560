//! UpdatePodSandboxResources.

use std::sync::Arc;

use rrun_cri_api::v1;

use super::update_container_resources::merge;
use crate::daemon::{Daemon, blocking};
use crate::error::{Error, Result};
use crate::nri::Event;
use crate::sandbox::limits::{self, Lacking};
use crate::store::{SandboxPhase, SandboxRecord};

/// Changes the limits of the pod's cgroup: those of its containers together, and its overhead.
/// Zero leaves a value as it is.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse> {
    let entry = daemon.sandbox(&request.pod_sandbox_id)?;
    let _guard = entry.lock.lock().await;
    let record = entry.get();
    if record.phase() != SandboxPhase::Ready {
        let id = &record.id;
        return Err(Error::State(format!("pod sandbox {id} is not ready")));
    }
    let (resources, overhead) = (request.resources.clone(), request.overhead.clone());
    let merged = |r: &mut SandboxRecord| {
        let config = r.config.get_or_insert_default();
        let linux = config.linux.get_or_insert_default();
        if let Some(asked) = request.resources {
            merge(linux.resources.get_or_insert_default(), asked);
        }
        if let Some(asked) = request.overhead {
            merge(linux.overhead.get_or_insert_default(), asked);
        }
        r.limits_set = true;
    };
    let mut new = (*record).clone();
    merged(&mut new);
    if let Some(linux) = &new.config().linux {
        // Refused before anything is written.
        limits::plan(linux, daemon.cgroups.unified)?;
    }
    let plugins = daemon.nri.hold().await;
    let told = plugins.update_pod(&record, overhead.as_ref(), resources.as_ref());
    told.await?;
    drop(plugins);
    daemon.store.update(&entry, |r| *r = new).await?;
    apply(daemon, entry.get(), Lacking::Fails).await?;
    let event = Event::PostUpdatePodSandbox;
    daemon.tell_pod(event, &entry.get()).await;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}

/// Writes the limits that are the runtime's to keep to the pod's cgroup, and what they mean to those above.
///
/// Those of RunPodSandbox are no limits where the pod's cgroup is the client's: a kubelet sums up what
/// containers have, the unlimited ones left out, to tell how large a virtual machine has to be, and
/// limits the pod's cgroup itself.
pub async fn apply(
    daemon: &Arc<Daemon>,
    record: Arc<SandboxRecord>,
    lacking: Lacking,
) -> Result<()> {
    if !record.limits_set {
        return Ok(());
    }
    let daemon = daemon.clone();
    blocking(move || {
        limits::apply(&daemon.cgroups, &record, lacking)?;
        weigh(&daemon, &record)
    })
    .await?;
    Ok(())
}

/// After a pod came, changed or went: the weight of what it has in common with others.
pub fn weigh(daemon: &Daemon, record: &SandboxRecord) -> anyhow::Result<()> {
    let pods: Vec<_> = daemon.store.sandboxes.all();
    let pods: Vec<_> = pods.iter().map(|entry| entry.get()).collect();
    limits::weigh(&daemon.cgroups, record, &pods)
}
