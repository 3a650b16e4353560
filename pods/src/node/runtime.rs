//! What the CRI says of one pod.

use std::collections::HashMap;

use rrun_cri_api::v1::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

use super::names::{CONTAINER_NAME, HASH, RESTARTS};

/// Everything of one pod that the CRI knows.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<PodSandboxStatus>,
    /// Containers by name, newest first.
    pub containers: HashMap<String, Vec<ContainerStatus>>,
}

impl Runtime {
    /// Sorts what was found.
    pub fn new(mut sandboxes: Vec<PodSandboxStatus>, all: Vec<ContainerStatus>) -> Self {
        sandboxes.sort_by_key(|s| std::cmp::Reverse((sandbox_attempt(s), s.created_at)));
        let mut containers: HashMap<String, Vec<ContainerStatus>> = HashMap::new();
        for status in all {
            let list = containers.entry(name_of(&status).to_owned()).or_default();
            list.push(status);
        }
        for list in containers.values_mut() {
            list.sort_by_key(|c| std::cmp::Reverse((restarts(c), c.created_at)));
        }
        Self {
            sandboxes,
            containers,
        }
    }

    /// The newest sandbox, where it is ready.
    pub fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|s| is_ready(s))
    }

    /// The newest container of this name.
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.get(name)?.first()
    }

    /// The one before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.get(name)?.get(1)
    }

    /// All containers that run.
    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        let all = self.containers.values().flatten();
        all.filter(|c| c.state() == ContainerState::ContainerRunning)
    }

    /// All containers.
    pub fn all(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.values().flatten()
    }
}

/// Whether the sandbox is ready.
pub fn is_ready(sandbox: &PodSandboxStatus) -> bool {
    sandbox.state() == PodSandboxState::SandboxReady
}

/// The attempt of a sandbox.
pub fn sandbox_attempt(sandbox: &PodSandboxStatus) -> u32 {
    sandbox.metadata.as_ref().map_or(0, |m| m.attempt)
}

/// The name of the container in its pod.
pub fn name_of(status: &ContainerStatus) -> &str {
    let label = status.labels.get(CONTAINER_NAME).map(String::as_str);
    let metadata = status.metadata.as_ref().map(|m| m.name.as_str());
    label.or(metadata).unwrap_or_default()
}

/// How often the container had been started before.
pub fn restarts(status: &ContainerStatus) -> u32 {
    let annotation = status
        .annotations
        .get(RESTARTS)
        .and_then(|n| n.parse().ok());
    let metadata = status.metadata.as_ref().map(|m| m.attempt);
    annotation.or(metadata).unwrap_or(0)
}

/// The hash that the container was made with.
pub fn hash_of(status: &ContainerStatus) -> Option<&str> {
    status.annotations.get(HASH).map(String::as_str)
}
