//! Changes of containers that plugins ask for, beside those that are being created.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rrun_cri_api::nri;
use serde_json::Value;

use super::owners::Owners;
use super::resources;
use crate::container;
use crate::daemon::Daemon;
use crate::rpc;
use crate::store::ContainerPhase;

/// Time that an evicted container has to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Applies updates; the first that fails, and may not, is an error. `held` is the container
/// whose lock the caller holds.
pub async fn apply_all(
    daemon: &Arc<Daemon>,
    updates: Vec<nri::ContainerUpdate>,
    held: Option<&str>,
) -> Result<()> {
    for failed in apply_each(daemon, updates, held).await {
        if !failed.ignore_failure {
            bail!(
                "update of container {} for an NRI plugin failed",
                failed.container_id
            );
        }
    }
    Ok(())
}

/// Applies updates and gives those that failed.
pub async fn apply_each(
    daemon: &Arc<Daemon>,
    updates: Vec<nri::ContainerUpdate>,
    held: Option<&str>,
) -> Vec<nri::ContainerUpdate> {
    let mut failed = Vec::new();
    for update in updates {
        let id = update.container_id.as_str();
        if let Err(error) = apply(daemon, &update, held == Some(id)).await {
            tracing::warn!(container = id, "update for an NRI plugin: {error:#}");
            failed.push(update);
        }
    }
    failed
}

async fn apply(daemon: &Arc<Daemon>, update: &nri::ContainerUpdate, held: bool) -> Result<()> {
    let linux = update.linux.clone().unwrap_or_default();
    let Some(asked) = linux.resources else {
        return Ok(());
    };
    let mut json = resources::empty();
    resources::apply(&asked, &mut json, &mut Owners::default(), "that asks")?;
    let entry = daemon.store.containers.get(&update.container_id);
    let entry = entry.context("there is no such container")?;
    let _guard = if held {
        None
    } else {
        Some(entry.lock.lock().await)
    };
    let record = entry.get();
    match record.phase() {
        ContainerPhase::Running => {
            rpc::update_running(daemon, &record, &json, HashMap::new()).await?;
        }
        ContainerPhase::Created => change_spec(daemon, &record.id, &json)?,
        phase => bail!("the container is {phase}"),
    }
    let changed = resources::to_cri(&json, 0);
    daemon
        .store
        .update(&entry, |record| rpc::merge_resources(record, changed))
        .await
}

/// What an update asks for, as CRI has it.
pub fn asked(
    linux: &nri::LinuxContainerUpdate,
) -> Result<rrun_cri_api::v1::LinuxContainerResources> {
    let mut json = resources::empty();
    if let Some(asked) = &linux.resources {
        resources::apply(asked, &mut json, &mut Owners::default(), "that asks")?;
    }
    Ok(resources::to_cri(&json, 0))
}

/// A container that is not started has nothing but its config.json.
fn change_spec(daemon: &Daemon, id: &str, json: &Value) -> Result<()> {
    let mut spec = container::read_spec(daemon, id)?;
    merge(&mut spec["linux"]["resources"], json);
    container::write_spec(daemon, id, &spec)
}

fn merge(old: &mut Value, new: &Value) {
    match new.as_object() {
        Some(map) if old.is_object() => {
            for (key, value) in map {
                merge(&mut old[key], value);
            }
        }
        _ => *old = new.clone(),
    }
}

/// Stops containers, each in a task of its own: the plugin does not wait for their ends.
pub fn evict(daemon: &Arc<Daemon>, evictions: Vec<nri::ContainerEviction>) {
    for eviction in evictions {
        let Some(entry) = daemon.store.containers.get(&eviction.container_id) else {
            continue;
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            let id = eviction.container_id;
            tracing::warn!(
                container = id,
                reason = eviction.reason,
                "an NRI plugin evicts"
            );
            if let Err(error) = container::stop(&daemon, &entry, GRACE).await {
                tracing::error!(container = id, "evict: {error:#}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_update_changes_what_it_names() {
        let mut old = json!({"cpu": {"shares": 1, "quota": 2}, "devices": [1]});
        merge(
            &mut old,
            &json!({"cpu": {"shares": 5}, "memory": {"limit": 7}}),
        );
        let wanted = json!({
            "cpu": {"shares": 5, "quota": 2}, "devices": [1], "memory": {"limit": 7},
        });
        assert_eq!(old, wanted);
    }
}
