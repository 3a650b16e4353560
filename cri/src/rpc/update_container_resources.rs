//! UpdateContainerResources.

use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_task_api::any;
use rrun_task_api::pb::task;

use crate::bundle;
use crate::container;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::store::{ContainerPhase, ContainerRecord};

/// Changes the limits of a created or running container. Zero leaves a value as it is.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse> {
    let asked = request.linux.unwrap_or_default();
    let entry = daemon.container(&request.container_id)?;
    let _guard = entry.lock.lock().await;
    let record = entry.get();
    match record.phase() {
        ContainerPhase::Running => apply(daemon, &record, &asked, request.annotations).await?,
        ContainerPhase::Created => {
            return Err(Error::Unimplemented(
                "an update of a container that is not started",
            ));
        }
        phase => {
            return Err(Error::State(format!("container {} is {phase}", record.id)));
        }
    }
    let merged = |r: &mut ContainerRecord| {
        let config = r.config.get_or_insert_default();
        let linux = config.linux.get_or_insert_default();
        merge(linux.resources.get_or_insert_default(), asked);
    };
    daemon.store.update(&entry, merged).await?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

async fn apply(
    daemon: &Daemon,
    record: &ContainerRecord,
    asked: &v1::LinuxContainerResources,
    annotations: std::collections::HashMap<String, String>,
) -> Result<()> {
    let json = bundle::resources(asked, container::swap_limit(daemon));
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let update = task::UpdateTaskRequest {
        id: record.id.clone(),
        resources: Some(any::pack_json(
            any::RESOURCES,
            json.to_string().into_bytes(),
        )),
        annotations: annotations.into_iter().collect(),
    };
    client.update(&update).await.map_err(anyhow::Error::from)?;
    Ok(())
}

/// What was set replaces, what was not stays.
pub(super) fn merge(old: &mut v1::LinuxContainerResources, new: v1::LinuxContainerResources) {
    for (old, new) in [
        (&mut old.cpu_period, new.cpu_period),
        (&mut old.cpu_quota, new.cpu_quota),
        (&mut old.cpu_shares, new.cpu_shares),
        (&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        (
            &mut old.memory_swap_limit_in_bytes,
            new.memory_swap_limit_in_bytes,
        ),
        (&mut old.oom_score_adj, new.oom_score_adj),
    ] {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in [
        (&mut old.cpuset_cpus, new.cpuset_cpus),
        (&mut old.cpuset_mems, new.cpuset_mems),
    ] {
        if !new.is_empty() {
            *old = new;
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits = new.hugepage_limits;
    }
    old.unified.extend(new.unified);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_changes() {
        let mut old = v1::LinuxContainerResources {
            cpu_shares: 100,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let new = v1::LinuxContainerResources {
            memory_limit_in_bytes: 7,
            cpuset_cpus: "1".into(),
            ..Default::default()
        };
        merge(&mut old, new);
        assert_eq!((old.cpu_shares, old.memory_limit_in_bytes), (100, 7));
        assert_eq!(old.cpuset_cpus, "1");
    }
}
