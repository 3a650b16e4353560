//! ReplicaSet: as many active pods of the template as asked for.

use std::cmp::Ordering;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::objects::{
    availability, controller_of, is_active, is_controlled_by, is_ready, ready_since, selects,
};

/// No more pods than this are made or removed in one look (kube-controller-manager's burst).
const BURST: usize = 500;

/// What to do, and what to report.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods that match and have no manager: they become ours.
    pub adopt: Vec<String>,
    /// Pods of ours that no longer match: they are let go.
    pub release: Vec<String>,
    /// Number of pods to make.
    pub create: usize,
    /// Names of pods to remove, the least worth keeping first.
    pub delete: Vec<String>,
    /// The status, where it differs from the stored one.
    pub status: Option<ReplicaSetStatus>,
    /// Seconds after which a pod becomes available by time alone.
    pub again_after: Option<i64>,
}

/// Compares what `set` wants with the pods of its namespace. `failure` is why pods could not be
/// made or removed the last time.
pub fn plan(set: &ReplicaSet, pods: &[Pod], failure: Option<&str>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let dying = set.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in pods {
        let matches = selects(&spec.selector, pod.metadata.labels.as_ref());
        let name = pod.metadata.name.clone().unwrap_or_default();
        if is_controlled_by(&pod.metadata, uid) {
            if matches {
                mine.push(pod);
            } else if !dying && pod.metadata.deletion_timestamp.is_none() {
                plan.release.push(name);
            }
        } else if matches && !dying && controller_of(&pod.metadata).is_none() && is_active(pod) {
            plan.adopt.push(name);
            mine.push(pod);
        }
    }
    let active: Vec<&Pod> = mine.into_iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !dying {
        plan.create = wanted.saturating_sub(active.len()).min(BURST);
        let excess = active.len().saturating_sub(wanted).min(BURST);
        plan.delete = least_worth(&active, excess);
    }
    let (status, again_after) = status(set, &active, failure, now);
    plan.again_after = again_after;
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    plan
}

/// The pod that the set makes next, to be completed with a generated name.
pub fn new_pod(set: &ReplicaSet, owner: OwnerReference) -> Pod {
    let template = set.spec.as_ref().and_then(|s| s.template.clone());
    pod_of(template.unwrap_or_default(), &set.metadata, owner)
}

/// A pod of `template` for a controller with this metadata.
pub fn pod_of(template: PodTemplateSpec, of: &ObjectMeta, owner: OwnerReference) -> Pod {
    let meta = template.metadata.unwrap_or_default();
    let prefix = of.name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: of.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// `count` names in the order of kube-controller-manager's ActivePodsWithRanks.
fn least_worth(active: &[&Pod], count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let mut order = active.to_vec();
    order.sort_by(|a, b| worth(a, b));
    order
        .iter()
        .take(count)
        .filter_map(|pod| pod.metadata.name.clone())
        .collect()
}

/// Less is removed first: without a node, pending, not ready, cheap to delete, ready for a shorter
/// time, restarted more often, younger.
fn worth(a: &Pod, b: &Pod) -> Ordering {
    let assigned = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let phase = |p: &Pod| match p.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    let cost = |p: &Pod| -> i32 {
        let annotations = p.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"))
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0)
    };
    let restarts = |p: &Pod| {
        let statuses = p
            .status
            .as_ref()
            .and_then(|s| s.container_statuses.as_ref());
        statuses
            .into_iter()
            .flatten()
            .map(|s| s.restart_count)
            .max()
    };
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| ready_since(b).cmp(&ready_since(a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

fn status(
    set: &ReplicaSet,
    active: &[&Pod],
    failure: Option<&str>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<i64>) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|s| s.template.as_ref());
    let labels = template
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    let mut again_after: Option<i64> = None;
    let mut available = 0;
    for pod in active {
        match availability(pod, min_ready, now) {
            Ok(()) => available += 1,
            Err(Some(left)) => again_after = Some(again_after.map_or(left, |x| x.min(left))),
            Err(None) => {}
        }
    }
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| test(p)).count() as i32;
    let labeled = count(&|p| super::objects::selects_pairs(&labels, p.metadata.labels.as_ref()));
    let status = ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: nonzero(labeled),
        ready_replicas: nonzero(count(&is_ready)),
        available_replicas: nonzero(available),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
        ..ReplicaSetStatus::default()
    };
    (status, again_after)
}

/// Counts that are zero are left out of the JSON, as Go's omitempty does.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<&str>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let failure = failure?;
    let stored = set.status.as_ref().and_then(|s| s.conditions.as_ref());
    let same = stored
        .into_iter()
        .flatten()
        .find(|c| c.type_ == "ReplicaFailure" && c.message.as_deref() == Some(failure));
    let condition = same.cloned().unwrap_or_else(|| ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some(failure.to_owned()),
        last_transition_time: Some(Time(now)),
    });
    Some(vec![condition])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "rs-1", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a"}]}}}
        }))
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-1", "controller": true}]},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "2026-11-21T10:00:00Z"}]}
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-21T10:00:05Z".parse().unwrap()
    }

    #[test]
    fn makes_what_is_missing_and_removes_the_unready_first() {
        let made = plan(&set(3), &[pod("a", true)], None, now());
        assert_eq!((made.create, made.delete.len()), (2, 0));
        let pods = [pod("a", true), pod("b", false), pod("c", true)];
        let removed = plan(&set(2), &pods, None, now());
        assert_eq!(removed.delete, ["b"]);
        let status = removed.status.unwrap();
        assert_eq!((status.replicas, status.ready_replicas), (3, Some(2)));
    }

    #[test]
    fn writes_nothing_once_the_world_is_right() {
        let mut set = set(1);
        let pods = [pod("a", true)];
        set.status = plan(&set, &pods, None, now()).status;
        let again = plan(&set, &pods, None, now());
        assert!(again.status.is_none() && again.create == 0 && again.delete.is_empty());
    }

    #[test]
    fn ended_pods_are_replaced_and_strangers_are_adopted() {
        let mut ended = pod("a", false);
        ended.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        let mut orphan = pod("b", true);
        orphan.metadata.owner_references = None;
        let mut stray = pod("c", true);
        stray.metadata.labels = None;
        let plan = plan(&set(2), &[ended, orphan, stray], None, now());
        assert_eq!(plan.create, 1);
        assert_eq!(plan.adopt, ["b"]);
        assert_eq!(plan.release, ["c"]);
    }

    #[test]
    fn min_ready_seconds_delays_availability() {
        let mut set = set(1);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(20);
        let plan = plan(&set, &[pod("a", true)], None, now());
        assert_eq!(plan.again_after, Some(15));
        assert_eq!(plan.status.unwrap().available_replicas, None);
    }
}

#[cfg(test)]
mod property {
    use super::super::objects::owner_reference;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// One pod of the starting state.
    fn pod() -> impl Strategy<Value = Pod> {
        let phase = prop_oneof![
            Just("Pending"),
            Just("Running"),
            Just("Failed"),
            Just("Succeeded")
        ];
        (phase, any::<bool>(), any::<bool>(), 0..3_u8).prop_map(|(phase, ready, matching, owner)| {
            let owners = match owner {
                0 => json!([]),
                1 => json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-1", "controller": true}]),
                _ => json!([{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "other", "controller": true}]),
            };
            serde_json::from_value(json!({
                "metadata": {"labels": {"app": if matching { "web" } else { "x" }}, "ownerReferences": owners},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
            }))
            .unwrap()
        })
    }

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "rs-1", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a"}]}}}
        }))
        .unwrap()
    }

    /// Carries the plan out on the list; each write of which `fails` says so is not made.
    fn carry(set: &mut ReplicaSet, pods: &mut Vec<Pod>, made: &mut usize, fails: u16) -> usize {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let plan = plan(set, pods, None, now);
        let mut writes = 0;
        let mut write = || {
            writes += 1;
            fails >> (writes % 16) & 1 == 0
        };
        let named = |pods: &[Pod], name: &str| {
            pods.iter()
                .position(|p| p.metadata.name.as_deref() == Some(name))
                .unwrap()
        };
        for name in &plan.adopt {
            if write() {
                let owner = owner_reference("apps/v1", "ReplicaSet", &set.metadata);
                let index = named(pods, name);
                pods[index].metadata.owner_references = Some(vec![owner]);
            }
        }
        for name in &plan.release {
            if write() {
                let index = named(pods, name);
                pods[index].metadata.owner_references = None;
            }
        }
        for _ in 0..plan.create {
            if write() {
                *made += 1;
                let owner = owner_reference("apps/v1", "ReplicaSet", &set.metadata);
                let mut pod = new_pod(set, owner);
                pod.metadata.name = Some(format!("made-{made}"));
                pods.push(pod);
            }
        }
        for name in &plan.delete {
            if write() {
                let index = named(pods, name);
                pods.remove(index);
            }
        }
        if let Some(status) = plan.status
            && write()
        {
            set.status = Some(status);
        }
        writes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn replica_sets_converge_whatever_fails_and_then_write_nothing(
            pods in proptest::collection::vec(pod(), 0..8), replicas in 0..6_i32,
            failing in proptest::collection::vec(any::<u16>(), 0..5)
        ) {
            let mut set = set(replicas);
            let mut pods = pods;
            for (index, pod) in pods.iter_mut().enumerate() {
                pod.metadata.name = Some(format!("first-{index}"));
            }
            let mut made = 0;
            for fails in failing {
                carry(&mut set, &mut pods, &mut made, fails);
            }
            for _ in 0..4 {
                carry(&mut set, &mut pods, &mut made, 0);
            }
            let mine = pods.iter().filter(|p| is_controlled_by(&p.metadata, "rs-1") && is_active(p));
            prop_assert_eq!(mine.count() as i32, replicas);
            prop_assert_eq!(set.status.as_ref().map(|s| s.replicas), Some(replicas));
            prop_assert_eq!(carry(&mut set, &mut pods, &mut made, 0), 0);
        }
    }
}
