//! DaemonSet: one pod on each node that it may run on.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodTemplateSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::objects::{
    availability, controller_of, is_controlled_by, is_ready, owner_reference, selects,
};
use super::replicaset::pod_of;
use super::revisions::{self, HASH, Of, Revisions};
use crate::scheduler::NodeInfo;
use crate::scheduler::plugins::{matches_node_affinity, tolerates};

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Revisions to write.
    pub revisions: Revisions,
    /// Pods that match and have no manager.
    pub adopt: Vec<String>,
    /// Pods that no longer match.
    pub release: Vec<String>,
    /// Nodes that get a pod.
    pub create: Vec<String>,
    /// Pods to remove.
    pub delete: Vec<String>,
    /// Revisions that go.
    pub surplus: Vec<String>,
    /// The status, where it differs.
    pub status: Option<DaemonSetStatus>,
    /// Seconds after which a pod becomes available by time alone.
    pub again_after: Option<i64>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_quiet(&self) -> bool {
        self.revisions.create.is_none()
            && self.revisions.renumber.is_none()
            && self.status.is_none()
            && [
                &self.adopt,
                &self.release,
                &self.create,
                &self.delete,
                &self.surplus,
            ]
            .iter()
            .all(|l| l.is_empty())
    }
}

struct World<'a> {
    spec: &'a DaemonSetSpec,
    update: String,
    now: Timestamp,
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn ended(pod: &Pod) -> bool {
    crate::scheduler::snapshot::finished(pod)
}

/// The node that the pod runs on, or is for.
fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let bound = spec.node_name.as_deref().filter(|n| !n.is_empty());
    bound.or_else(|| {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let fields = required
            .node_selector_terms
            .iter()
            .flat_map(|t| t.match_fields.iter().flatten());
        let mut names = fields.filter(|f| f.key == "metadata.name");
        names.next()?.values.as_ref()?.first().map(String::as_str)
    })
}

/// Tolerations that every pod of a DaemonSet has: it runs where others may not.
fn tolerations(host_network: bool) -> Vec<Toleration> {
    let one = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = vec![
        one("not-ready", "NoExecute"),
        one("unreachable", "NoExecute"),
        one("disk-pressure", "NoSchedule"),
        one("memory-pressure", "NoSchedule"),
        one("pid-pressure", "NoSchedule"),
        one("unschedulable", "NoSchedule"),
    ];
    if host_network {
        all.push(one("network-unavailable", "NoSchedule"));
    }
    all
}

/// The pod for a node.
pub fn new_pod(set: &DaemonSet, node: &str, revision: &str) -> Pod {
    let owner = owner_reference("apps/v1", "DaemonSet", &set.metadata);
    let template = set
        .spec
        .as_ref()
        .map(|s| s.template.clone())
        .unwrap_or_default();
    let mut pod = pod_of(template, &set.metadata, owner);
    let labels = pod.metadata.labels.get_or_insert_default();
    let hash = revision.rsplit('-').next().unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    let known = spec.tolerations.get_or_insert_default();
    for toleration in tolerations(spec.host_network == Some(true)) {
        if !known.contains(&toleration) {
            known.push(toleration);
        }
    }
    pin(spec.affinity.get_or_insert_default(), node);
    pod
}

/// Leaves the scheduler this node alone. The terms of the user say which nodes, and are done with.
fn pin(affinity: &mut Affinity, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let own: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let terms = own
        .required_during_scheduling_ignored_during_execution
        .take();
    let mut terms = terms.map(|t| t.node_selector_terms).unwrap_or_default();
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in &mut terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    own.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: terms,
    });
}

/// Whether the node should have a pod, and whether one that it has may stay.
fn runs_on(spec: &DaemonSetSpec, node: &Node) -> (bool, bool) {
    let PodTemplateSpec { spec: template, .. } = &spec.template;
    let mut pod = Pod {
        spec: template.clone(),
        ..Pod::default()
    };
    let own = pod.spec.get_or_insert_default();
    let more = tolerations(own.host_network == Some(true));
    own.tolerations.get_or_insert_default().extend(more);
    let named = own.node_name.as_deref().filter(|n| !n.is_empty());
    let info = NodeInfo::new(node.clone());
    if named.is_some_and(|n| n != info.name) || !matches_node_affinity(&pod, &info) {
        return (false, false);
    }
    let taints = || node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let clear = |effect: &str| {
        taints()
            .filter(|t| t.effect == effect)
            .all(|t| tolerates(&pod, t))
    };
    (
        clear("NoSchedule") && clear("NoExecute"),
        clear("NoExecute"),
    )
}

/// Compares what `set` wants with the pods of its namespace.
pub fn plan(
    set: &DaemonSet,
    nodes: &[Node],
    pods: &[Pod],
    all: &[ControllerRevision],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let of = Of {
        meta: &set.metadata,
        owner: owner_reference("apps/v1", "DaemonSet", &set.metadata),
        template: &spec.template,
    };
    plan.revisions = revisions::plan(&of, all);
    let world = World {
        spec,
        update: plan.revisions.update.clone(),
        now,
    };
    let mine = members(set, spec, pods, &mut plan);
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in &mine {
        by_node
            .entry(node_of(pod).unwrap_or_default())
            .or_default()
            .push(pod);
    }
    let mut nodes: Vec<(&str, (bool, bool))> = nodes
        .iter()
        .map(|n| {
            (
                n.metadata.name.as_deref().unwrap_or_default(),
                runs_on(spec, n),
            )
        })
        .collect();
    nodes.sort_unstable();
    if set.metadata.deletion_timestamp.is_none() {
        place(&nodes, &by_node, &mut plan);
        rolling(&world, &nodes, &by_node, &mut plan);
    }
    let status = status(set, &world, &nodes, &by_node, &mut plan);
    let mut live = vec![world.update.as_str()];
    let own = revisions::mine(all, &set.metadata);
    for revision in &own {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        if mine.iter().any(|p| is_of(p, name)) {
            live.push(name);
        }
    }
    plan.surplus = revisions::surplus(
        all,
        &set.metadata,
        &live,
        spec.revision_history_limit.unwrap_or(10),
    );
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn members<'a>(
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    pods: &'a [Pod],
    plan: &mut Plan,
) -> Vec<&'a Pod> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let dying = set.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in pods {
        let matches = selects(&spec.selector, pod.metadata.labels.as_ref());
        if is_controlled_by(&pod.metadata, uid) {
            if matches {
                mine.push(pod);
            } else if !dying && !going(pod) {
                plan.release.push(name(pod));
            }
        } else if matches && !dying && !going(pod) && controller_of(&pod.metadata).is_none() {
            plan.adopt.push(name(pod));
            mine.push(pod);
        }
    }
    mine.sort_by_key(|p| name(p));
    mine
}

/// One pod where one should be, none where not. A pod that has ended makes room.
fn place(nodes: &[(&str, (bool, bool))], by_node: &BTreeMap<&str, Vec<&Pod>>, plan: &mut Plan) {
    for (node, pods) in by_node {
        if !nodes.iter().any(|(n, _)| n == node) {
            plan.delete
                .extend(pods.iter().filter(|p| !going(p)).map(|p| name(p)));
        }
    }
    for (node, (should, may)) in nodes {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let (over, alive): (Vec<&Pod>, Vec<&Pod>) = pods
            .iter()
            .copied()
            .filter(|p| !going(p))
            .partition(|p| ended(p));
        plan.delete.extend(over.iter().map(|p| name(p)));
        if !may {
            plan.delete.extend(alive.iter().map(|p| name(p)));
        } else if *should && pods.is_empty() {
            plan.create.push((*node).to_owned());
        }
    }
}

fn is_of(pod: &Pod, revision: &str) -> bool {
    let hash = pod.metadata.labels.as_ref().and_then(|l| l.get(HASH));
    hash.is_some_and(|h| revision.rsplit('-').next() == Some(h))
}

fn share(value: Option<&IntOrString>, of: usize, default: i32) -> usize {
    let number = match value {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            (of as i32 * percent + 99) / 100
        }
        None => default,
    };
    usize::try_from(number).unwrap_or(0)
}

/// Renews old pods: by removing them, no more at once than may be unavailable, or by putting a new
/// one beside them first, where a surge is allowed.
fn rolling(
    world: &World<'_>,
    nodes: &[(&str, (bool, bool))],
    by_node: &BTreeMap<&str, Vec<&Pod>>,
    plan: &mut Plan,
) {
    let strategy = world.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return twins(world, by_node, plan);
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let wanted: Vec<&str> = nodes
        .iter()
        .filter(|(_, (should, _))| *should)
        .map(|(n, _)| *n)
        .collect();
    let most = share(
        rolling.and_then(|r| r.max_unavailable.as_ref()),
        wanted.len(),
        1,
    );
    let surge = share(rolling.and_then(|r| r.max_surge.as_ref()), wanted.len(), 0);
    twins(world, by_node, plan);
    let ready = world.spec.min_ready_seconds.unwrap_or(0);
    let good = |p: &Pod| !going(p) && availability(p, ready, world.now).is_ok();
    let pods = |node: &str| by_node.get(node).map(Vec::as_slice).unwrap_or_default();
    let mut away = wanted
        .iter()
        .filter(|n| !pods(n).iter().any(|p| good(p)))
        .count();
    let mut surging = wanted.iter().filter(|n| pods(n).len() > 1).count();
    for node in wanted {
        let alive: Vec<&&Pod> = pods(node)
            .iter()
            .filter(|p| !going(p) && !ended(p))
            .collect();
        let [one] = alive.as_slice() else { continue };
        if is_of(one, &world.update) || plan.delete.contains(&name(one)) {
            continue;
        }
        if surge > 0 {
            if surging < surge {
                surging += 1;
                plan.create.push(node.to_owned());
            }
        } else if !good(one) || away < most {
            away += usize::from(good(one));
            plan.delete.push(name(one));
        }
    }
}

/// Of several pods on a node one stays: the new one once it is available, else the oldest.
fn twins(world: &World<'_>, by_node: &BTreeMap<&str, Vec<&Pod>>, plan: &mut Plan) {
    let ready = world.spec.min_ready_seconds.unwrap_or(0);
    for pods in by_node.values() {
        let mut alive: Vec<&&Pod> = pods
            .iter()
            .filter(|p| !going(p) && !ended(p) && !plan.delete.contains(&name(p)))
            .collect();
        if alive.len() < 2 {
            continue;
        }
        alive.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), name(p)));
        let news: Vec<&&Pod> = alive
            .iter()
            .copied()
            .filter(|p| is_of(p, &world.update))
            .collect();
        let done = news
            .iter()
            .find(|p| availability(p, ready, world.now).is_ok());
        let kept: Vec<String> = match (done, news.first()) {
            (Some(new), _) => vec![name(new)],
            // The old one serves until the new one does.
            (None, Some(new)) => {
                let old = alive.iter().find(|p| !is_of(p, &world.update));
                old.iter().map(|p| name(p)).chain([name(new)]).collect()
            }
            (None, None) => vec![name(alive[0])],
        };
        let gone = alive.iter().map(|p| name(p)).filter(|n| !kept.contains(n));
        plan.delete.extend(gone);
    }
}

fn status(
    set: &DaemonSet,
    world: &World<'_>,
    nodes: &[(&str, (bool, bool))],
    by_node: &BTreeMap<&str, Vec<&Pod>>,
    plan: &mut Plan,
) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let (mut current, mut wrong, mut desired, mut ready, mut updated, mut available) =
        (0, 0, 0, 0, 0, 0);
    for (node, (should, _)) in nodes {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        desired += i32::from(*should);
        match (should, pods.is_empty()) {
            (_, true) => continue,
            (false, false) => {
                wrong += 1;
                continue;
            }
            (true, false) => current += 1,
        }
        // The oldest speaks for the node, unless it is on its way out.
        let Some(pod) = pods
            .iter()
            .find(|p| !going(p) && is_ready(p))
            .or(pods.first())
        else {
            continue;
        };
        updated += i32::from(is_of(pod, &world.update));
        if !is_ready(pod) {
            continue;
        }
        ready += 1;
        match availability(pod, world.spec.min_ready_seconds.unwrap_or(0), world.now) {
            Ok(()) => available += 1,
            Err(left) => {
                let left = left.unwrap_or(1);
                plan.again_after = Some(plan.again_after.map_or(left, |s| s.min(left)));
            }
        }
    }
    let some = |n: i32| (n > 0).then_some(n);
    DaemonSetStatus {
        current_number_scheduled: current,
        number_misscheduled: wrong,
        desired_number_scheduled: desired,
        number_ready: ready,
        observed_generation: set.metadata.generation,
        updated_number_scheduled: some(updated),
        number_available: some(available),
        number_unavailable: some(desired - available),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}
