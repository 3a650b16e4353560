//! PodDisruptionBudget: how many of its pods may be evicted now.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::drive::{Controller, Key, Mapper, all_in_namespace, itself};
use super::objects::{is_ready, selects};
use crate::api::{Client, Res, Status, kinds};
use crate::scheduler::snapshot::finished;
use crate::store::{Object, Selector};

/// An eviction that was allowed, and of which nothing has come for so long, did not happen (seconds).
const FORGOTTEN: i64 = 120;

/// See the module.
pub struct Disruption {
    client: Client,
}

impl Disruption {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("disruption-controller"),
        }
    }
}

fn share(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        // Rounded up, both for what must be there and for what may be away.
        IntOrString::String(text) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            (of * percent + 99) / 100
        }
    }
}

/// The status that the budget should have. `scale` says how many pods the owner of a pod wants.
pub fn status(
    budget: &PodDisruptionBudget,
    pods: &[Pod],
    scale: impl Fn(&Pod) -> Option<(String, i32)>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    // Without a selector it is about no pod; an empty one is about all.
    let chosen = |p: &Pod| {
        spec.selector
            .as_ref()
            .is_some_and(|s| selects(s, p.metadata.labels.as_ref()))
    };
    let mine: Vec<&Pod> = pods.iter().filter(|p| !finished(p) && chosen(p)).collect();
    let old = budget.status.clone().unwrap_or_default();
    let name = |p: &Pod| p.metadata.name.clone().unwrap_or_default();
    // Allowed, and not yet seen to go.
    let mut disrupted = old.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|pod, at| {
        let there = mine
            .iter()
            .any(|p| name(p) == *pod && p.metadata.deletion_timestamp.is_none());
        there && now.as_second() - at.0.as_second() < FORGOTTEN
    });
    let healthy = |p: &&&Pod| {
        p.metadata.deletion_timestamp.is_none() && is_ready(p) && !disrupted.contains_key(&name(p))
    };
    let current = mine.iter().filter(healthy).count() as i32;
    let wanted: BTreeMap<String, i32> = mine.iter().filter_map(|p| scale(p)).collect();
    let scaled: i32 = wanted.values().sum();
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scaled, (scaled - share(most, scaled)).max(0)),
        (None, Some(least @ IntOrString::String(_))) => (scaled, share(least, scaled)),
        (None, Some(least)) => (mine.len() as i32, share(least, mine.len() as i32)),
        (None, None) => (mine.len() as i32, 1),
    };
    let allowed = (current - desired).max(0);
    let allowed = if expected == 0 { 0 } else { allowed };
    PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(
            &old,
            budget.metadata.generation,
            allowed,
            now,
        )]),
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    }
}

fn condition(
    old: &PodDisruptionBudgetStatus,
    generation: Option<i64>,
    allowed: i32,
    now: Timestamp,
) -> Condition {
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let mut stored = old.conditions.iter().flatten();
    let since = stored.find(|c| c.type_ == "DisruptionAllowed" && c.status == status);
    let since = since.map(|c| c.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// How many pods the pod's owner wants: an identity of the owner, and the number.
fn scale(client: &Client, pod: &Pod) -> Option<(String, i32)> {
    let owner = super::objects::controller_of(&pod.metadata)?;
    let ns = pod.metadata.namespace.as_deref().unwrap_or_default();
    let res = kinds::find_kind(&owner.api_version, &owner.kind)?;
    let object = client
        .find(res, ns, &owner.name)
        .filter(|o| o.uid() == owner.uid)?;
    // A ReplicaSet speaks for its Deployment.
    let above = object.controller().filter(|o| o["kind"] == "Deployment");
    let above = above.and_then(|o| client.find(&kinds::DEPLOYMENT, ns, o["name"].as_str()?));
    let object = above.unwrap_or(object);
    let replicas = object
        .int_at("/spec/replicas")
        .or_else(|| object.int_at("/status/desiredNumberScheduled"))?;
    Some((object.uid().to_owned(), i32::try_from(replicas).ok()?))
}

fn budgets(client: &Client, object: &Object) -> Vec<Key> {
    all_in_namespace(client, &kinds::POD_DISRUPTION_BUDGET, object)
}

impl Controller for Disruption {
    const NAME: &'static str = "disruption";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (&kinds::POD_DISRUPTION_BUDGET, itself),
            (&kinds::POD, budgets),
            (&kinds::DEPLOYMENT, budgets),
            (&kinds::REPLICA_SET, budgets),
            (&kinds::STATEFUL_SET, budgets),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let res = &kinds::POD_DISRUPTION_BUDGET;
        let Some(object) = self.client.find(res, &key.0, &key.1) else {
            return Ok(None);
        };
        let budget: PodDisruptionBudget = object.typed().map_err(Status::internal)?;
        let pods: Vec<Pod> = self.client.list_as(&key.0, &Selector::all())?;
        let status = status(
            &budget,
            &pods,
            |p| scale(&self.client, p),
            crate::node::now(),
        );
        let waits = status.disrupted_pods.is_some();
        if budget.status.as_ref() != Some(&status) {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            self.client.set_status(res, &key.0, &key.1, status).await?;
        }
        let again = u64::try_from(FORGOTTEN).unwrap_or_default();
        Ok(waits.then(|| Duration::from_secs(again)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: Value, ready: usize, unready: usize, wanted: i32) -> PodDisruptionBudgetStatus {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        let budget =
            serde_json::from_value(json!({"metadata": {"generation": 1}, "spec": spec})).unwrap();
        let pod = |i: usize| {
            let ready = if i < ready { "True" } else { "False" };
            serde_json::from_value(json!({"metadata": {"name": format!("p{i}"), "labels": {"app": "a"}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})).unwrap()
        };
        let pods: Vec<Pod> = (0..ready + unready).map(pod).collect();
        status(
            &budget,
            &pods,
            |_| Some(("owner".into(), wanted)),
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn budgets_allow_what_is_above_their_line() {
        for (spec, ready, unready, wanted, allowed) in [
            (json!({"minAvailable": 2}), 3, 0, 3, 1),
            (json!({"minAvailable": "50%"}), 3, 0, 3, 1),
            (json!({"maxUnavailable": 1}), 3, 0, 3, 1),
            (json!({"maxUnavailable": 1}), 2, 1, 3, 0),
            (json!({"maxUnavailable": "25%"}), 4, 0, 4, 1),
            (json!({"minAvailable": "100%"}), 3, 0, 3, 0),
            (json!({"minAvailable": 1}), 0, 0, 0, 0),
        ] {
            assert_eq!(
                of(spec.clone(), ready, unready, wanted).disruptions_allowed,
                Some(allowed),
                "{spec}"
            );
        }
    }

    #[test]
    fn an_eviction_that_was_allowed_counts_until_the_pod_is_gone() {
        let budget = serde_json::from_value(json!({"metadata": {}, "spec": {"minAvailable": 1, "selector": {}},
            "status": {"currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 1,
                       "disruptedPods": {"p0": "1970-01-01T00:00:00Z"}}})).unwrap();
        let pod = |n: &str| {
            serde_json::from_value(
                json!({"metadata": {"name": n}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}}),
            )
            .unwrap()
        };
        let pods = [pod("p0"), pod("p1")];
        let at = |s: i64| status(&budget, &pods, |_| None, Timestamp::from_second(s).unwrap());
        assert_eq!(at(10).disruptions_allowed, Some(0));
        assert_eq!(at(121).disruptions_allowed, Some(1));
    }
}
