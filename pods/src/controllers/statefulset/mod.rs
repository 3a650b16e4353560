//! StatefulSet: pods with a name, a place in an order, and volumes that stay theirs.
//!
//! With `OrderedReady` one step is planned at a time: the first pod, from below, that is not as it
//! should be decides what is done, and nothing above it is touched before it is ready. Pods that
//! are too many go from above, and an update goes from above as well.

pub mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::Pod;
use pod::ordinal;

use super::objects::{availability, is_controlled_by, is_ready, owner_reference};
use super::revisions::{self, HASH, Of, Revisions};

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Revisions to write.
    pub revisions: Revisions,
    /// Ordinals of pods to make, with the name of their revision.
    pub create: Vec<(i32, String)>,
    /// Pods to remove.
    pub delete: Vec<String>,
    /// Of these, the ones whose claims may go with them: ordinals.
    pub scaled: Vec<i32>,
    /// Revisions that go.
    pub surplus: Vec<String>,
    /// The status, where it differs.
    pub status: Option<StatefulSetStatus>,
    /// Seconds after which a pod becomes available by time alone.
    pub again_after: Option<i64>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_quiet(&self) -> bool {
        self.revisions.create.is_none()
            && self.revisions.renumber.is_none()
            && self.create.is_empty()
            && self.delete.is_empty()
            && self.surplus.is_empty()
            && self.status.is_none()
    }
}

struct World<'a> {
    spec: &'a StatefulSetSpec,
    start: i32,
    replicas: i32,
    partition: i32,
    ordered: bool,
    /// By ordinal.
    pods: BTreeMap<i32, &'a Pod>,
    current: String,
    update: String,
    now: Timestamp,
}

impl World<'_> {
    fn wanted(&self) -> std::ops::Range<i32> {
        self.start..self.start + self.replicas
    }

    /// The revision that a new pod of this ordinal is made of.
    fn revision(&self, ordinal: i32) -> &str {
        let held = ordinal < self.start + self.partition;
        if held && self.rolling() {
            &self.current
        } else {
            &self.update
        }
    }

    fn rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    fn available(&self, pod: &Pod) -> Result<(), Option<i64>> {
        availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }
}

fn going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default()
}

fn pod_name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// Name of the revision that the pod is of.
fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|l| l.get(HASH)).map_or("", String::as_str)
}

/// Compares what `set` wants with the pods of its namespace.
pub fn plan(set: &StatefulSet, pods: &[Pod], all: &[ControllerRevision], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let of = Of {
        meta: &set.metadata,
        owner: owner_reference("apps/v1", "StatefulSet", &set.metadata),
        template: &spec.template,
    };
    plan.revisions = revisions::plan(&of, all);
    let world = world(set, spec, pods, all, &plan.revisions.update, now);
    if set.metadata.deletion_timestamp.is_none() {
        let settled = fill(&world, &mut plan) && shrink(&world, &mut plan);
        if settled && plan.create.is_empty() {
            update(&world, &mut plan);
        }
    }
    let status = status(set, &world, &mut plan);
    let mut live: Vec<&str> = world.pods.values().map(|p| revision_of(p)).collect();
    live.extend([
        world.update.as_str(),
        status.current_revision.as_deref().unwrap_or_default(),
    ]);
    let limit = spec.revision_history_limit.unwrap_or(10);
    plan.surplus = revisions::surplus(all, &set.metadata, &live, limit);
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn world<'a>(
    set: &StatefulSet,
    spec: &'a StatefulSetSpec,
    pods: &'a [Pod],
    all: &[ControllerRevision],
    update: &str,
    now: Timestamp,
) -> World<'a> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mine = pods.iter().filter(|p| is_controlled_by(&p.metadata, uid));
    let strategy = spec
        .update_strategy
        .as_ref()
        .and_then(|s| s.rolling_update.as_ref());
    let stored = set.status.as_ref().and_then(|s| s.current_revision.clone());
    // A revision that is gone cannot be returned to.
    let known = |r: &String| all.iter().any(|x| x.metadata.name.as_ref() == Some(r));
    World {
        spec,
        start: spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0),
        replicas: spec.replicas.unwrap_or(1),
        partition: strategy.and_then(|r| r.partition).unwrap_or(0),
        ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
        pods: mine.filter_map(|p| Some((ordinal(name, p)?, p))).collect(),
        current: stored.filter(known).unwrap_or_else(|| update.to_owned()),
        update: update.to_owned(),
        now,
    }
}

/// Makes and renews, from below. Whether all up to the top are as they should be.
fn fill(world: &World<'_>, plan: &mut Plan) -> bool {
    let mut settled = true;
    for ordinal in world.wanted() {
        let done = match world.pods.get(&ordinal) {
            None => {
                plan.create
                    .push((ordinal, world.revision(ordinal).to_owned()));
                false
            }
            Some(pod) if going(pod) => false,
            Some(pod) if matches!(phase(pod), "Failed" | "Succeeded") => {
                plan.delete.push(pod_name(pod));
                false
            }
            Some(pod) => world.available(pod).is_ok(),
        };
        settled &= done;
        if !done && world.ordered {
            return false;
        }
    }
    settled || !world.ordered
}

/// Removes what is too much, from above. Whether nothing is.
fn shrink(world: &World<'_>, plan: &mut Plan) -> bool {
    let wanted = world.wanted();
    let over = world
        .pods
        .iter()
        .rev()
        .filter(|(ordinal, _)| !wanted.contains(ordinal));
    let over: Vec<_> = over.collect();
    for (ordinal, pod) in &over {
        if !going(pod) {
            plan.delete.push(pod_name(pod));
            plan.scaled.push(**ordinal);
        }
        // The next one waits until this one is gone.
        if world.ordered {
            return false;
        }
    }
    over.is_empty()
}

/// Removes the highest pod of an old revision, once those above it are available.
fn update(world: &World<'_>, plan: &mut Plan) {
    if !world.rolling() {
        return;
    }
    let most = most_unavailable(world);
    let wanted = world.wanted();
    let unavailable = world
        .pods
        .range(wanted.clone())
        .filter(|(_, p)| going(p) || world.available(p).is_err());
    let mut away = unavailable.count();
    for (_, pod) in world
        .pods
        .range(wanted.start + world.partition.min(world.replicas)..wanted.end)
        .rev()
    {
        let old = revision_of(pod) != world.update;
        if old && !going(pod) {
            // A pod that is away already is no loss.
            let broken = world.available(pod).is_err();
            if broken || away < most {
                plan.delete.push(pod_name(pod));
                away += usize::from(!broken);
            }
            if away >= most {
                return;
            }
        } else if away >= most && (going(pod) || world.available(pod).is_err()) {
            return;
        }
    }
}

fn most_unavailable(world: &World<'_>) -> usize {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let strategy = world
        .spec
        .update_strategy
        .as_ref()
        .and_then(|s| s.rolling_update.as_ref());
    let most = match strategy.and_then(|r| r.max_unavailable.as_ref()) {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            // Rounded up.
            (world.replicas * percent + 99) / 100
        }
        None => 1,
    };
    usize::try_from(most).unwrap_or(1).max(1)
}

fn status(set: &StatefulSet, world: &World<'_>, plan: &mut Plan) -> StatefulSetStatus {
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    let created = world.pods.values().filter(|p| !going(p) || is_ready(p));
    let mut replicas = 0;
    for pod in created {
        replicas += 1;
        ready += i32::from(is_ready(pod));
        match world.available(pod) {
            Ok(()) => available += 1,
            Err(Some(left)) => {
                plan.again_after = Some(plan.again_after.map_or(left, |s| s.min(left)));
            }
            Err(None) => {}
        }
        if !going(pod) {
            current += i32::from(revision_of(pod) == world.current);
            updated += i32::from(revision_of(pod) == world.update);
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let mut current_revision = world.current.clone();
    let all = updated == world.replicas && replicas == world.replicas;
    if world.rolling() && all && ready == world.replicas {
        current_revision.clone_from(&world.update);
        current = updated;
    }
    let some = |n: i32| (n > 0).then_some(n);
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(current_revision),
        update_revision: Some(world.update.clone()),
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions,
    }
}
