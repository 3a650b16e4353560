//! Feeds the scheduler: watches pods and nodes, decides, binds.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::queue::Queue;
use super::snapshot::finished;
use super::{PodInfo, Snapshot, schedule};
use crate::api::{Client, Patch, WatchEvent, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// The name that pods give as schedulerName to be scheduled here.
const NAME: &str = "default-scheduler";

struct Scheduler {
    client: Client,
    events: Recorder,
    queue: Queue,
    /// Pods that are bound and not finished, by `namespace/name`.
    placed: BTreeMap<String, PodInfo>,
    nodes: BTreeMap<String, Node>,
}

/// Schedules until the store is closed.
pub async fn run(client: Client, events: Recorder) {
    let client = client.named(NAME);
    let mut pods = client.changes(&kinds::POD, "", Selector::all());
    let mut nodes = client.changes(&kinds::NODE, "", Selector::all());
    let mut this = Scheduler {
        client,
        events: events.of(NAME),
        queue: Queue::default(),
        placed: BTreeMap::new(),
        nodes: BTreeMap::new(),
    };
    loop {
        // Everything that is known to have happened counts before a decision is made.
        if pods.backlog() == 0
            && nodes.backlog() == 0
            && let Some(key) = this.queue.next(Instant::now())
        {
            this.decide(&key).await;
        }
        let wake = if this.queue.next(Instant::now()).is_some() {
            Some(Instant::now())
        } else {
            this.queue.next_wake()
        };
        tokio::select! {
            biased;
            event = pods.next() => match event {
                Some(event) => this.pod(&event),
                None => return,
            },
            event = nodes.next() => match event {
                Some(event) => this.node(&event),
                None => return,
            },
            () = pause(wake) => {}
        }
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn key_of(object: &Object) -> String {
    format!("{}/{}", object.namespace(), object.name())
}

impl Scheduler {
    fn pod(&mut self, event: &WatchEvent) {
        let object = event.object();
        let key = key_of(object);
        let gone = matches!(event, WatchEvent::Deleted(_));
        let pod = object.typed::<Pod>().ok().filter(|_| !gone);
        let Some(pod) = pod.filter(|pod| !finished(pod)) else {
            self.queue.remove(&key);
            if self.placed.remove(&key).is_some() {
                self.queue.world_changed();
            }
            return;
        };
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.node_name.as_deref().is_some_and(|n| !n.is_empty()) {
            self.queue.remove(&key);
            // Resources do not change with the status: what was computed holds.
            let known = self
                .placed
                .get(&key)
                .map(|info| info.pod.metadata.generation);
            if known != Some(pod.metadata.generation) {
                self.placed.insert(key, PodInfo::new(pod));
            }
            return;
        }
        let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
        let gated = spec.scheduling_gates.is_some_and(|gates| !gates.is_empty());
        if ours && !gated && pod.metadata.deletion_timestamp.is_none() {
            self.queue.add(key, spec.priority.unwrap_or(0));
        } else {
            self.queue.remove(&key);
        }
    }

    fn node(&mut self, event: &WatchEvent) {
        let object = event.object();
        match event {
            WatchEvent::Deleted(_) => {
                self.nodes.remove(object.name());
            }
            _ => {
                if let Ok(node) = object.typed() {
                    self.nodes.insert(object.name().to_owned(), node);
                }
            }
        }
        self.queue.world_changed();
    }

    async fn decide(&mut self, key: &str) {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let Some(object) = self.client.find(&kinds::POD, namespace, name) else {
            self.queue.remove(key);
            return;
        };
        let Ok(pod) = object.typed::<Pod>() else {
            self.queue.remove(key);
            return;
        };
        let info = PodInfo::new(pod);
        if info.node_name().is_some() {
            self.queue.remove(key);
            return;
        }
        let snapshot = Snapshot::new(self.nodes.values().cloned(), self.placed.values().cloned());
        let about = reference(object.value());
        match schedule(&info, &snapshot) {
            Ok(decision) => {
                let node = decision.node;
                match self.client.bind(namespace, name, object.uid(), &node).await {
                    Ok(()) => {
                        let message = format!("Successfully assigned {key} to {node}");
                        self.events.normal(&about, "Scheduled", message);
                        self.assume(key, info, &node);
                        self.queue.remove(key);
                    }
                    Err(status) => {
                        tracing::debug!(pod = key, "not bound: {}", status.message);
                        self.queue.refused(key, Instant::now());
                        self.queue.world_changed();
                    }
                }
            }
            Err(refusal) => {
                let message = refusal.to_string();
                self.events
                    .warning(&about, "FailedScheduling", message.clone());
                self.refuse(&object, &message).await;
                self.queue.refused(key, Instant::now());
            }
        }
    }

    /// Counts a pod as placed before the watch tells of it, so that the next decision knows.
    fn assume(&mut self, key: &str, info: PodInfo, node: &str) {
        let mut pod = Pod::clone(&info.pod);
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self.placed.insert(key.to_owned(), PodInfo::new(pod));
    }

    async fn refuse(&self, pod: &Object, message: &str) {
        let stored = pod.at("/status/conditions").as_array();
        let old = stored
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "PodScheduled");
        if old.is_some_and(|c| c["status"] == "False" && c["message"] == message) {
            return;
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": crate::node::now().to_string(),
        });
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let written = self
            .client
            .patch_status(&kinds::POD, pod.namespace(), pod.name(), patch)
            .await;
        if let Err(status) = written {
            tracing::debug!(
                pod = pod.name(),
                "condition not written: {}",
                status.message
            );
        }
    }
}
