//! Asks the CRI for everything of one pod.

use std::collections::HashMap;

use rrun_cri_api::v1::{ContainerState, ContainerStatus, PodSandboxStatus};

use super::cri::{Cri, Result};
use super::runtime::Runtime;
use super::termination;

/// Statuses of containers that have ended, with their termination messages, by CRI id: they do not
/// change, and are read once.
pub type Ended = HashMap<String, ContainerStatus>;

/// Everything of the pod with this uid. `ended` is kept from one call to the next.
pub async fn observe(cri: &Cri, uid: &str, ended: &mut Ended) -> Result<Runtime> {
    let mut sandboxes: Vec<PodSandboxStatus> = Vec::new();
    let mut containers: Vec<ContainerStatus> = Vec::new();
    let mut told = true;
    for sandbox in cri.sandboxes(Some(uid)).await? {
        let Some(answer) = cri.sandbox(&sandbox.id).await? else {
            continue;
        };
        // A runtime that stamps its answer tells the containers with it (KEP-3386).
        told &= answer.timestamp != 0;
        sandboxes.extend(answer.status);
        containers.extend(answer.containers_statuses);
    }
    if !told {
        containers = ask_each(cri, uid, ended).await?;
    }
    ended.retain(|id, _| containers.iter().any(|c| c.id == *id));
    for status in &mut containers {
        if status.state() == ContainerState::ContainerExited {
            let known = ended.entry(status.id.clone()).or_insert_with(|| {
                let mut over = status.clone();
                over.message = termination::message(status).unwrap_or_default();
                over
            });
            status.clone_from(known);
        }
    }
    Ok(Runtime::new(sandboxes, containers))
}

/// Of a runtime that does not tell containers with their sandbox.
async fn ask_each(cri: &Cri, uid: &str, ended: &Ended) -> Result<Vec<ContainerStatus>> {
    let mut statuses = Vec::new();
    for container in cri.containers(uid).await? {
        match ended.get(&container.id) {
            Some(known) => statuses.push(known.clone()),
            None => statuses.extend(cri.container(&container.id).await?),
        }
    }
    Ok(statuses)
}
