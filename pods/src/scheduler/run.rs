//! Feeds the scheduler: watches pods and nodes, decides, binds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use super::plugins::waits_for_volumes;
use super::preempt::{Budget, preempt};
use super::queue::Queue;
use super::snapshot::{Claim, finished};
use super::{FitError, PodInfo, Snapshot, schedule};
use crate::api::{Client, DeleteOptions, Patch, WatchEvent, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// The name that pods give as schedulerName to be scheduled here.
const NAME: &str = "default-scheduler";

struct Scheduler {
    client: Client,
    events: Recorder,
    queue: Queue,
    /// Pods that are bound and not finished, by `namespace/name`.
    placed: HashMap<String, Arc<PodInfo>>,
    world: Snapshot,
}

/// Schedules until the store is closed.
pub async fn run(client: Client, events: Recorder) {
    let client = client.named(NAME);
    let changes = |res| client.changes(res, "", Selector::all());
    let mut pods = changes(&kinds::POD);
    let mut nodes = changes(&kinds::NODE);
    let mut claims = changes(&kinds::PERSISTENT_VOLUME_CLAIM);
    let mut namespaces = changes(&kinds::NAMESPACE);
    let mut this = Scheduler {
        client: client.clone(),
        events: events.of(NAME),
        queue: Queue::default(),
        placed: HashMap::new(),
        world: Snapshot::default(),
    };
    loop {
        // Everything that is known to have happened counts before a decision is made.
        let known = [&pods, &nodes, &claims, &namespaces]
            .iter()
            .all(|c| c.backlog() == 0);
        if known && let Some(key) = this.queue.next(Instant::now()) {
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
            event = claims.next() => match event {
                Some(event) => this.claim(&event),
                None => return,
            },
            event = namespaces.next() => match event {
                Some(event) => this.namespace(&event),
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
            self.forget_nomination(object);
            if self.displace(&key) {
                self.queue.world_changed();
            }
            return;
        };
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.node_name.as_deref().is_some_and(|n| !n.is_empty()) {
            self.queue.remove(&key);
            self.forget_nomination(object);
            // Resources do not change with the status: what was computed holds.
            let known = self
                .placed
                .get(&key)
                .map(|info| (info.pod.metadata.generation, info.pod.metadata.uid.clone()));
            if known != Some((pod.metadata.generation, pod.metadata.uid.clone())) {
                self.place(key, PodInfo::new(pod));
            }
            return;
        }
        let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
        let gated = spec.scheduling_gates.is_some_and(|gates| !gates.is_empty());
        if ours && !gated && pod.metadata.deletion_timestamp.is_none() {
            self.queue.add(key, spec.priority.unwrap_or(0));
        } else {
            self.queue.remove(&key);
            self.forget_nomination(object);
        }
    }

    fn place(&mut self, key: String, pod: PodInfo) {
        self.displace(&key);
        let pod = Arc::new(pod);
        self.world.place(pod.clone());
        self.placed.insert(key, pod);
    }

    fn displace(&mut self, key: &str) -> bool {
        let known = self.placed.remove(key);
        if let Some(pod) = &known {
            self.world.displace(pod);
        }
        known.is_some()
    }

    fn forget_nomination(&mut self, object: &Object) {
        let key = (object.namespace().to_owned(), object.name().to_owned());
        self.world.nominated.remove(&key);
    }

    fn node(&mut self, event: &WatchEvent) {
        let object = event.object();
        match event {
            WatchEvent::Deleted(_) => self.world.remove_node(object.name()),
            _ => {
                if let Ok(node) = object.typed::<Node>() {
                    let new = self.world.node(object.name()).is_none();
                    self.world.put_node(node);
                    if new {
                        // Pods may have been known before their node was.
                        let here = self
                            .placed
                            .values()
                            .filter(|p| p.node_name() == Some(object.name()));
                        here.for_each(|pod| self.world.place(pod.clone()));
                    }
                }
            }
        }
        self.queue.world_changed();
    }

    fn namespace(&mut self, event: &WatchEvent) {
        let object = event.object();
        let name = object.name().to_owned();
        if matches!(event, WatchEvent::Deleted(_)) {
            self.world.namespaces.remove(&name);
        } else {
            let labels = object
                .at("/metadata/labels")
                .as_object()
                .into_iter()
                .flatten();
            let labels =
                labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()));
            self.world.namespaces.insert(name, labels.collect());
        }
    }

    fn claim(&mut self, event: &WatchEvent) {
        let object = event.object();
        let key = (object.namespace().to_owned(), object.name().to_owned());
        if matches!(event, WatchEvent::Deleted(_)) {
            self.world.claims.remove(&key);
        } else {
            let claim = self.claim_state(object);
            self.world.claims.insert(key, claim);
        }
        self.queue.claim_changed();
    }

    fn claim_state(&self, object: &Object) -> Claim {
        let volume = object.str_at("/spec/volumeName");
        if object.str_at("/status/phase") == "Bound" && !volume.is_empty() {
            let volume = self.client.get_as::<PersistentVolume>("", volume).ok();
            let affinity = volume.and_then(|v| v.spec?.node_affinity?.required);
            return Claim::Bound(affinity);
        }
        let class = object.str_at("/spec/storageClassName");
        let class = self.client.find(&kinds::STORAGE_CLASS, "", class);
        match class {
            Some(c) if c.str_at("/volumeBindingMode") == "WaitForFirstConsumer" => Claim::Waits,
            _ => Claim::Unbound,
        }
    }

    async fn decide(&mut self, key: &str) {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let object = self.client.find(&kinds::POD, namespace, name);
        let pod = object.as_ref().and_then(|o| o.typed::<Pod>().ok());
        let (Some(object), Some(pod)) = (object, pod) else {
            self.queue.remove(key);
            return;
        };
        let info = PodInfo::new(pod);
        if info.node_name().is_some() {
            self.queue.remove(key);
            return;
        }
        if waits_for_volumes(&info, &self.world) {
            self.queue.hold(key, Instant::now());
            return;
        }
        match schedule(&info, &self.world) {
            Ok(decision) => {
                self.world.start =
                    (self.world.start + decision.looked) % self.world.nodes.len().max(1);
                self.bind(key, &object, info, &decision.node).await;
            }
            Err(refusal) => {
                let made = self.preempt(&object, &info).await;
                let message = if made {
                    refusal.to_string()
                } else {
                    explain(&refusal, &info)
                };
                let about = reference(object.value());
                self.events
                    .warning(&about, "FailedScheduling", message.clone());
                self.refuse(&object, &message).await;
                self.queue.refused(key, Instant::now());
            }
        }
    }

    async fn bind(&mut self, key: &str, object: &Object, info: PodInfo, node: &str) {
        let (namespace, name) = (object.namespace(), object.name());
        match self.client.bind(namespace, name, object.uid(), node).await {
            Ok(()) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.events
                    .normal(&reference(object.value()), "Scheduled", message);
                self.assume(key, &info, node);
                self.forget_nomination(object);
                self.queue.remove(key);
            }
            Err(status) => {
                tracing::debug!(pod = key, "not bound: {}", status.message);
                self.queue.refused(key, Instant::now());
                self.queue.world_changed();
            }
        }
    }

    /// Counts a pod as placed before the watch tells of it, so that the next decision knows.
    fn assume(&mut self, key: &str, info: &PodInfo, node: &str) {
        let mut pod = Pod::clone(&info.pod);
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        self.place(key.to_owned(), PodInfo::new(pod));
    }

    fn budgets(&self) -> Vec<Budget> {
        let all = self
            .client
            .list_as::<PodDisruptionBudget>("", &Selector::all())
            .unwrap_or_default();
        let one = |budget: PodDisruptionBudget| {
            Some(Budget {
                namespace: budget.metadata.namespace?,
                selector: budget.spec?.selector?,
                allowed: budget
                    .status
                    .and_then(|s| s.disruptions_allowed)
                    .unwrap_or(0),
            })
        };
        all.into_iter().filter_map(one).collect()
    }

    /// Makes room for a pod of more priority. Whether room is being made.
    async fn preempt(&mut self, object: &Object, info: &PodInfo) -> bool {
        let key = (object.namespace().to_owned(), object.name().to_owned());
        // The room is being made already, where its victims have not gone yet.
        if let Some((node, _)) = self.world.nominated.get(&key)
            && let Some(node) = self.world.node(node)
            && node.list.iter().any(|p| {
                p.priority() < info.priority() && p.pod.metadata.deletion_timestamp.is_some()
            })
        {
            return true;
        }
        let Some(found) = preempt(info, &self.world, &self.budgets()) else {
            return false;
        };
        let patch = Patch::Merge(json!({"status": {"nominatedNodeName": found.node}}));
        let nominated = self
            .client
            .patch_status(&kinds::POD, &key.0, &key.1, patch)
            .await;
        if nominated.is_err() {
            return false;
        }
        for victim in &found.victims {
            self.evict(object, victim, &found.node).await;
        }
        let waiting = Arc::new(info.clone());
        self.world.nominated.insert(key, (found.node, waiting));
        true
    }

    async fn evict(&self, preemptor: &Object, victim: &PodInfo, node: &str) {
        let (namespace, name) = victim.key();
        let Some(object) = self.client.find(&kinds::POD, namespace, name) else {
            return;
        };
        let about = format!("{NAME}: preempting to accommodate a higher priority pod");
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": about, "lastTransitionTime": crate::node::now().to_string()});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let _ = self
            .client
            .patch_status(&kinds::POD, namespace, name, patch)
            .await;
        let options = DeleteOptions {
            uid: Some(object.uid().to_owned()),
            ..DeleteOptions::default()
        };
        match self
            .client
            .delete(&kinds::POD, namespace, name, &options)
            .await
        {
            Ok(_) => {
                let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
                self.events
                    .normal(&reference(object.value()), "Preempted", message);
            }
            Err(status) => tracing::debug!("{namespace}/{name}: not preempted: {}", status.message),
        }
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

/// The refusal, and why preemption does not help, as kube-scheduler writes them.
fn explain(refusal: &FitError, pod: &PodInfo) -> String {
    let text = refusal.to_string();
    if refusal.nodes == 0 || refusal.before.is_some() {
        return text;
    }
    let never = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.preemption_policy.as_deref())
        == Some("Never");
    let why = if never {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    } else {
        let count = refusal.nodes;
        let (what, n) = if refusal.resolvable {
            ("No preemption victims found for incoming pod", count)
        } else {
            ("Preemption is not helpful for scheduling", count)
        };
        format!("0/{count} nodes are available: {n} {what}.")
    };
    format!("{text} preemption: {why}")
}
