//! Looks at what is left, tells the node's conditions, and evicts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use rrun_cri_api::v1 as cri;
use serde_json::{Value, json};

use super::look::Places;
use super::storage::{self, Layers, Taken};
use super::words::{candidate, low, why};
use super::{Candidate, Crossed, Holds, Lack, Thresholds, choose, crossed, is_critical};
use crate::api::{Client, Patch, Status, kinds};
use crate::events::Recorder;
use crate::node::cri::Cri;
use crate::node::dirs::Dirs;
use crate::node::names::uid;
use crate::node::run::reference;
use crate::scheduler::snapshot::finished;
use crate::store::Selector;

/// How often: reading two numbers costs nothing that can be measured.
const PERIOD: Duration = Duration::from_secs(10);
/// A pod that goes frees what it held within this; until then no other has to.
const SETTLE: Duration = Duration::from_secs(15);

/// Why pods are to go, by uid: read by their workers.
pub type Evictions = Arc<Mutex<HashMap<String, String>>>;

/// See the module.
pub struct Evictor {
    client: Client,
    cri: Cri,
    events: Recorder,
    node: String,
    root: PathBuf,
    dirs: Dirs,
    thresholds: Thresholds,
    evictions: Evictions,
    places: Places,
    /// A pressure is told for so long after it was seen last.
    linger: Duration,
    /// When each lack was seen last.
    seen: [Option<Instant>; 2],
    evicted: Option<Instant>,
}

/// What an evictor needs of the agent.
pub struct Parts {
    /// The API.
    pub client: Client,
    /// The runtime.
    pub cri: Cri,
    /// Events.
    pub events: Recorder,
    /// The node's name.
    pub node: String,
    /// A directory of the file system of pods.
    pub root: PathBuf,
    /// Where pods' files are.
    pub dirs: Dirs,
    /// Where workers read.
    pub evictions: Evictions,
}

impl Evictor {
    /// One that does nothing before [`run`](Self::run).
    pub fn new(parts: Parts, thresholds: Thresholds, linger: Duration) -> Self {
        Self {
            client: parts.client,
            cri: parts.cri,
            events: parts.events,
            node: parts.node,
            root: parts.root,
            dirs: parts.dirs,
            evictions: parts.evictions,
            thresholds,
            places: Places::default(),
            linger,
            seen: [None; 2],
            evicted: None,
        }
    }

    /// Works without end.
    pub async fn run(mut self) {
        loop {
            if let Err(status) = self.hold_to_limits().await {
                tracing::warn!("eviction: {}", status.message);
            }
            self.places.learn(&self.cri).await;
            let found = self.crossed();
            if let Err(status) = self.tell(&found).await {
                tracing::debug!("pressure not told: {}", status.message);
            }
            let settled = self.evicted.is_none_or(|at| at.elapsed() > SETTLE);
            if let Some(first) = found.first().filter(|_| settled)
                && let Err(status) = self.relieve(*first).await
            {
                tracing::warn!("eviction: {}", status.message);
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    fn crossed(&self) -> Vec<Crossed> {
        crossed(&self.places.signals(&self.root), &self.thresholds)
    }

    /// Conditions and taints of the node; nothing is written while nothing changes.
    async fn tell(&mut self, found: &[Crossed]) -> Result<(), Status> {
        for crossed in found {
            let slot = usize::from(crossed.lack != Lack::Memory);
            self.seen[slot] = Some(Instant::now());
        }
        let pressed = self
            .seen
            .map(|at| at.is_some_and(|at| at.elapsed() < self.linger));
        let Some(node) = self.client.find(&kinds::NODE, "", &self.node) else {
            return Ok(());
        };
        let mut status = node.at("/status").clone();
        let mut changed = false;
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            let (slot, reason, message) = match condition["type"].as_str() {
                Some("MemoryPressure") if pressed[0] => (
                    0,
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available",
                ),
                Some("MemoryPressure") => (
                    0,
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available",
                ),
                Some("DiskPressure") if pressed[1] => {
                    (1, "KubeletHasDiskPressure", "kubelet has disk pressure")
                }
                Some("DiskPressure") => (
                    1,
                    "KubeletHasNoDiskPressure",
                    "kubelet has no disk pressure",
                ),
                _ => continue,
            };
            let is = if pressed[slot] { "True" } else { "False" };
            if condition["status"] == is {
                continue;
            }
            let now = crate::api::now();
            for (field, value) in [("status", is), ("reason", reason), ("message", message)] {
                condition[field] = json!(value);
            }
            condition["lastTransitionTime"] = json!(now);
            condition["lastHeartbeatTime"] = json!(now);
            changed = true;
        }
        if changed {
            let client = &self.client;
            client
                .set_status(&kinds::NODE, "", &self.node, status)
                .await?;
        }
        self.taint(node.at("/spec/taints"), pressed).await
    }

    async fn taint(&self, stored: &Value, pressed: [bool; 2]) -> Result<(), Status> {
        let own = [
            "node.kubernetes.io/memory-pressure",
            "node.kubernetes.io/disk-pressure",
        ];
        let before = stored.as_array().cloned().unwrap_or_default();
        let others = before
            .iter()
            .filter(|t| own.iter().all(|key| t["key"] != *key));
        let mut taints: Vec<Value> = others.cloned().collect();
        for (key, is) in own.iter().zip(pressed) {
            let kept = before.iter().find(|t| t["key"] == *key);
            if is {
                let fresh = json!({"key": key, "effect": "NoSchedule"});
                taints.push(kept.cloned().unwrap_or(fresh));
            }
        }
        if taints == before {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
        let client = &self.client;
        client
            .patch(&kinds::NODE, "", &self.node, patch)
            .await
            .map(drop)
    }

    /// Removes images that nothing uses, for want of disk; else evicts one pod.
    async fn relieve(&mut self, crossed: Crossed) -> Result<(), Status> {
        let has_images = crossed.lack.disk().is_some_and(|holds| holds.images);
        if has_images && self.remove_images().await > 0 {
            let again = self.crossed();
            if again.iter().all(|c| c.lack != crossed.lack) {
                return Ok(());
            }
        }
        let mut pods: Vec<Pod> = self.client.list_as("", &self.mine()?)?;
        self.forget(|there| pods.iter().any(|pod| uid(pod) == there));
        pods.retain(|p| self.may_go(p));
        let used = self.used(crossed.lack, &pods).await;
        let used = |pod: &Pod| used.get(uid(pod)).cloned().unwrap_or_default();
        let candidates: Vec<Candidate> = pods
            .iter()
            .map(|pod| candidate(pod, crossed.lack, &used(pod)))
            .collect();
        let Some(chosen) = choose(&candidates) else {
            tracing::warn!("{}and no pod may be evicted", low(crossed));
            return Ok(());
        };
        if let Some(pod) = pods.iter().find(|pod| uid(pod) == chosen.uid) {
            self.dismiss(pod, why(pod, crossed, &used(pod))).await?;
            self.evicted = Some(Instant::now());
        }
        Ok(())
    }

    /// Has a pod end, and says why.
    async fn dismiss(&self, pod: &Pod, message: String) -> Result<(), Status> {
        let meta = &pod.metadata;
        let (ns, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let (ns, name) = (ns.unwrap_or_default(), name.unwrap_or_default());
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
            "message": message, "lastTransitionTime": crate::api::now()});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        self.client
            .patch_status(&kinds::POD, ns, name, patch)
            .await?;
        self.events
            .warning(&reference(pod, None), "Evicted", message.clone());
        tracing::warn!("evicting pod {ns}/{name}: {message}");
        self.send_away(meta.uid.as_deref().unwrap_or_default(), message);
        // The change of its status does not wake its worker, a change of its annotations does.
        let at = crate::api::now();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"rrun.io/evicted-at": at}}}));
        self.client
            .patch(&kinds::POD, ns, name, patch)
            .await
            .map(drop)
    }

    fn send_away(&self, uid: &str, why: String) {
        self.going().insert(uid.to_owned(), why);
    }

    /// The pods of this node.
    fn mine(&self) -> Result<Selector, Status> {
        let mine = format!("spec.nodeName={}", self.node);
        Selector::all().with_fields(&mine).map_err(Status::internal)
    }

    fn going(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.evictions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who was to go and is gone.
    fn forget(&self, is_there: impl Fn(&str) -> bool) {
        self.going().retain(|uid, _| is_there(uid));
    }

    fn may_go(&self, pod: &Pod) -> bool {
        let ends = finished(pod) || pod.metadata.deletion_timestamp.is_some();
        !ends && !is_critical(pod) && !self.going().contains_key(uid(pod))
    }

    /// Evicts the pods that took more of the disk than their own limits allow. Pods without such
    /// limits are not measured.
    async fn hold_to_limits(&self) -> Result<(), Status> {
        let stored = self.client.list(&kinds::POD, "", &self.mine()?).items;
        let limited = stored.iter().filter(|pod| storage::is_limited(pod));
        let pods: Vec<Pod> = limited.filter_map(|pod| pod.typed().ok()).collect();
        let pods: Vec<Pod> = pods.into_iter().filter(|pod| self.may_go(pod)).collect();
        if pods.is_empty() {
            return Ok(());
        }
        let taken = self.taken(&pods, Holds::ALL).await;
        for (pod, taken) in pods.iter().zip(taken) {
            if let Some(why) = storage::excess(pod, &taken) {
                self.dismiss(pod, why).await?;
            }
        }
        Ok(())
    }

    async fn stats(&self) -> Vec<cri::ContainerStats> {
        let request = cri::ListContainerStatsRequest::default();
        let stats = self.cri.runtime().list_container_stats(request).await;
        stats.map(|s| s.into_inner().stats).unwrap_or_default()
    }

    /// What each of the pods has of what a file system holds.
    async fn taken(&self, pods: &[Pod], holds: Holds) -> Vec<Taken> {
        let layers: Layers = storage::layers(self.stats().await);
        let (dirs, pods) = (self.dirs.clone(), pods.to_vec());
        let measure = move || {
            let each = pods.iter();
            each.map(|pod| storage::measure(pod, &dirs, &layers, holds))
                .collect()
        };
        tokio::task::spawn_blocking(measure)
            .await
            .unwrap_or_default()
    }

    /// What each pod uses, by uid.
    async fn used(&self, lack: Lack, pods: &[Pod]) -> HashMap<String, Taken> {
        if let Some(holds) = lack.disk() {
            let uids = pods.iter().map(|pod| uid(pod).to_owned());
            return uids.zip(self.taken(pods, holds).await).collect();
        }
        storage::memory(self.stats().await)
    }

    /// Gives the number of images that were removed.
    async fn remove_images(&self) -> usize {
        let containers = self
            .cri
            .runtime()
            .list_containers(cri::ListContainersRequest::default())
            .await;
        let images = self
            .cri
            .images()
            .list_images(cri::ListImagesRequest::default())
            .await;
        let (Ok(containers), Ok(images)) = (containers, images) else {
            return 0;
        };
        let containers = containers.into_inner().containers;
        let in_use = |image: &cri::Image| {
            containers.iter().any(|c| {
                let named = c
                    .image
                    .as_ref()
                    .map(|i| i.image.as_str())
                    .unwrap_or_default();
                [named, &c.image_ref, &c.image_id].into_iter().any(|r| {
                    r == image.id
                        || image
                            .repo_tags
                            .iter()
                            .chain(&image.repo_digests)
                            .any(|t| t == r)
                })
            })
        };
        let mut removed = 0;
        for image in images
            .into_inner()
            .images
            .iter()
            .filter(|i| !i.pinned && !in_use(i))
        {
            let request = cri::RemoveImageRequest {
                image: Some(cri::ImageSpec {
                    image: image.id.clone(),
                    ..cri::ImageSpec::default()
                }),
            };
            if self.cri.images().remove_image(request).await.is_ok() {
                tracing::info!("removed image {} for want of disk", image.id);
                removed += 1;
            }
        }
        removed
    }
}
