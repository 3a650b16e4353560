//! Carries the plans of HorizontalPodAutoscalers out, every fifteen seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::autoscaler::behavior::Memory;
use super::autoscaler::metrics::{Metrics, Sample};
use super::autoscaler::{Scale, plan};
use super::drive::{Controller, Key, Mapper, itself};
use crate::api::node::NodeAgent;
use crate::api::{Client, Patch, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// As the upstream controller manager's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

/// See the module.
pub struct Autoscalers {
    client: Client,
    events: Recorder,
    node: Arc<dyn NodeAgent>,
    memory: Mutex<HashMap<Key, (String, Memory)>>,
}

impl Autoscalers {
    /// A controller that writes through `client` and measures at `node`.
    pub fn new(client: &Client, events: &Recorder, node: Arc<dyn NodeAgent>) -> Self {
        Self {
            client: client.named("horizontal-pod-autoscaler"),
            events: events.of("horizontal-pod-autoscaler"),
            node,
            memory: Mutex::default(),
        }
    }

    /// What is remembered of the autoscaler with this uid.
    fn recall(&self, key: &Key, uid: &str) -> Memory {
        let all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.get(key).filter(|(of, _)| of == uid);
        mine.map(|(_, memory)| memory.clone()).unwrap_or_default()
    }

    fn remember(&self, key: &Key, memory: Option<(String, Memory)>) {
        let mut all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match memory {
            Some(memory) => drop(all.insert(key.clone(), memory)),
            None => drop(all.remove(key)),
        }
    }

    fn target(autoscaler: &HorizontalPodAutoscaler, ns: &str) -> Result<Res, String> {
        let target = &autoscaler.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("v1");
        let found = kinds::find_kind(version, &target.kind).filter(|res| res.has_scale);
        let unknown = || {
            let kind = &target.kind;
            format!("no kind {kind} in {version} that has a scale ({ns})")
        };
        found.ok_or_else(unknown)
    }

    fn scale(&self, autoscaler: &HorizontalPodAutoscaler, ns: &str) -> Result<Scale, String> {
        let res = Self::target(autoscaler, ns)?;
        let name = &autoscaler.spec.scale_target_ref.name;
        let object = self.client.get(res, ns, name).map_err(|s| s.message)?;
        let selector = match object.at("/spec/selector") {
            map if *res == kinds::REPLICATION_CONTROLLER => Selector::from_map(map),
            other => Selector::from_label_selector(other)?,
        };
        let selector = selector.ok_or("selector is required")?;
        let pods: Result<Vec<Pod>, Status> = self.client.list_as(ns, &selector);
        let number = |at: &str| object.int_at(at).and_then(|n| i32::try_from(n).ok());
        Ok(Scale {
            wanted: number("/spec/replicas").unwrap_or(1),
            there: number("/status/replicas").unwrap_or(0),
            pods: pods.map_err(|s| s.message)?,
        })
    }

    async fn metrics(&self) -> Result<Metrics, String> {
        let usage = self.node.usage().await.map_err(|s| s.message)?;
        let mut metrics = Metrics {
            at: crate::node::now(),
            // The first reading spans a moment; a pod that starts is to be left alone for longer.
            window: usage.window.max(PERIOD),
            ..Metrics::default()
        };
        for container in usage.containers {
            let sample: &mut Sample = metrics.pods.entry(container.uid).or_default();
            sample.containers.insert(container.name, container.used);
        }
        Ok(metrics)
    }

    async fn rescale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        ns: &str,
        replicas: i32,
    ) -> Result<(), Status> {
        let refused = |why| Status::new(422, "Invalid", why);
        let res = Self::target(autoscaler, ns).map_err(refused)?;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let name = &autoscaler.spec.scale_target_ref.name;
        self.client.patch(res, ns, name, patch).await.map(drop)
    }

    async fn look(&self, key: &Key, object: &Object) -> Result<(), Status> {
        let res = &kinds::HORIZONTAL_POD_AUTOSCALER;
        let autoscaler: HorizontalPodAutoscaler = object.typed().map_err(Status::internal)?;
        let metrics = self.metrics().await;
        let scale = self.scale(&autoscaler, &key.0);
        let memory = self.recall(key, object.uid());
        let decision = plan(&autoscaler, &scale, &metrics, &memory, crate::node::now());
        let about = reference(object.value());
        for (reason, message) in &decision.warnings {
            self.events.warning(&about, reason, message.clone());
        }
        if let Some((replicas, why)) = &decision.rescale {
            if let Err(status) = self.rescale(&autoscaler, &key.0, *replicas).await {
                let message = format!(
                    "New size: {replicas}; reason: {why}; error: {}",
                    status.message
                );
                self.events.warning(&about, "FailedRescale", message);
                return Err(status);
            }
            let message = format!("New size: {replicas}; reason: {why}");
            self.events.normal(&about, "SuccessfulRescale", message);
        }
        let memory = (object.uid().to_owned(), decision.memory);
        self.remember(key, Some(memory));
        if autoscaler.status.as_ref() != Some(&decision.status) {
            let status = serde_json::to_value(decision.status).map_err(Status::internal)?;
            self.client.set_status(res, &key.0, &key.1, status).await?;
        }
        Ok(())
    }
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontalpodautoscaler";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&kinds::HORIZONTAL_POD_AUTOSCALER, itself)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let res = &kinds::HORIZONTAL_POD_AUTOSCALER;
        let Some(object) = self.client.find(res, &key.0, &key.1) else {
            self.remember(key, None);
            return Ok(None);
        };
        self.look(key, &object).await?;
        Ok(Some(PERIOD))
    }
}
