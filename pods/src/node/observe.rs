//! Asks the CRI for everything of one pod. What has ended does not change, and is asked once.

use std::collections::HashMap;

use rrun_cri_api::v1::{ContainerState, ContainerStatus, PodSandboxStatus};

use super::cri::{Cri, Result};
use super::runtime::Runtime;
use super::termination;

/// Statuses of containers that have ended, with their termination messages, by CRI id.
pub type Ended = HashMap<String, ContainerStatus>;

/// Everything of the pod with this uid. `ended` is kept from one call to the next.
pub async fn observe(cri: &Cri, uid: &str, ended: &mut Ended) -> Result<Runtime> {
    let (sandboxes, containers) = tokio::try_join!(cri.sandboxes(Some(uid)), cri.containers(uid))?;
    let mut statuses = Vec::with_capacity(containers.len());
    ended.retain(|id, _| containers.iter().any(|c| c.id == *id));
    for container in &containers {
        if let Some(known) = ended.get(&container.id) {
            statuses.push(known.clone());
            continue;
        }
        let Some(mut status) = cri.container(&container.id).await? else {
            continue;
        };
        if status.state() == ContainerState::ContainerExited {
            status.message = termination::message(&status).unwrap_or_default();
            ended.insert(container.id.clone(), status.clone());
        }
        statuses.push(status);
    }
    let mut found: Vec<PodSandboxStatus> = Vec::with_capacity(sandboxes.len());
    for sandbox in &sandboxes {
        if let Some(answer) = cri.sandbox(&sandbox.id).await? {
            found.extend(answer.status);
        }
    }
    Ok(Runtime::new(found, statuses))
}
