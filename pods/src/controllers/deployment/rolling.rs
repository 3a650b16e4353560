//! How many replicas each set gets: rolling update, recreate, and scaling in proportion.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sets::{Family, available, name, replicas, scale_annotations};
use super::{Plan, Step};

/// Replicas that the Deployment asks for.
pub fn desired(deployment: &Deployment) -> i32 {
    let spec = deployment.spec.as_ref();
    spec.and_then(|s| s.replicas).unwrap_or(1)
}

/// `RollingUpdate` or `Recreate`.
pub fn strategy(deployment: &Deployment) -> &str {
    let spec = deployment.spec.as_ref();
    spec.and_then(|s| s.strategy.as_ref())
        .and_then(|s| s.type_.as_deref())
        .unwrap_or("RollingUpdate")
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    strategy(deployment) == "Recreate"
}

/// maxSurge and maxUnavailable as numbers: surge rounds up, unavailable down, and where both come
/// to nothing one replica may be unavailable.
pub fn fence(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let spec = deployment.spec.as_ref();
    let rolling = spec
        .and_then(|s| s.strategy.as_ref())
        .and_then(|s| s.rolling_update.as_ref());
    let wanted = desired(deployment);
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling
        .and_then(|r| r.max_surge.as_ref())
        .unwrap_or(&quarter);
    let unavailable = rolling
        .and_then(|r| r.max_unavailable.as_ref())
        .unwrap_or(&quarter);
    let surge = resolve(surge, wanted, true);
    let unavailable = resolve(unavailable, wanted, false);
    match (surge, unavailable) {
        (0, 0) => (0, 1),
        (surge, unavailable) => (surge, unavailable.min(wanted)),
    }
}

fn resolve(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            let hundredfold = percent.max(0) * i64::from(of);
            let whole = hundredfold / 100 + i64::from(up && hundredfold % 100 != 0);
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

fn total(sets: &[&ReplicaSet]) -> i32 {
    sets.iter().map(|set| replicas(set)).sum()
}

/// Replicas of a set that is about to be made.
pub fn first_size(deployment: &Deployment, family: &Family) -> i32 {
    let wanted = desired(deployment);
    if is_recreate(deployment) {
        return if total(&family.old) == 0 { wanted } else { 0 };
    }
    grown(deployment, family, 0)
}

/// What the new set may grow to from `current`, within replicas + maxSurge.
fn grown(deployment: &Deployment, family: &Family, current: i32) -> i32 {
    let wanted = desired(deployment);
    let (surge, _) = fence(deployment);
    let room = (wanted + surge - total(&family.all)).max(0);
    current + room.min((wanted - current).max(0))
}

/// Sets a set's replicas unless they are right already. Says whether it had to.
fn set_size(deployment: &Deployment, set: &ReplicaSet, to: i32, plan: &mut Plan) -> bool {
    let annotations = scale_annotations(deployment);
    let remembered = annotations
        .iter()
        .all(|(key, value)| super::sets::annotation(&set.metadata, key) == Some(value.as_str()));
    let from = replicas(set);
    if from == to && (remembered || to == 0) {
        return false;
    }
    plan.steps.push(Step::Scale {
        name: name(set),
        replicas: to,
        annotations,
    });
    if from != to {
        let direction = if to > from { "up" } else { "down" };
        plan.events.push((
            "ScalingReplicaSet",
            format!(
                "Scaled {direction} replica set {} from {from} to {to}",
                name(set)
            ),
        ));
    }
    from != to
}

/// One move of a rolling update: grow the new set, or else shrink the old ones.
pub fn roll(deployment: &Deployment, family: &Family, plan: &mut Plan) {
    let Some(new) = family.new else { return };
    let wanted = desired(deployment);
    let current = replicas(new);
    let to = if current > wanted {
        wanted
    } else {
        grown(deployment, family, current)
    };
    if set_size(deployment, new, to, plan) {
        return;
    }
    shrink_old(deployment, family, new, plan);
}

fn shrink_old(deployment: &Deployment, family: &Family, new: &ReplicaSet, plan: &mut Plan) {
    if total(&family.old) == 0 {
        return;
    }
    let (_, unavailable) = fence(deployment);
    let least = desired(deployment) - unavailable;
    let new_unavailable = (replicas(new) - available(new)).max(0);
    let mut budget = total(&family.all) - least - new_unavailable;
    if budget <= 0 {
        return;
    }
    // First the replicas that serve nobody, then as many of the others as are not needed.
    let mut sizes: Vec<(&ReplicaSet, i32)> =
        family.old.iter().map(|set| (*set, replicas(set))).collect();
    for (set, size) in &mut sizes {
        let unhealthy = (*size - available(set)).max(0).min(budget);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let serving: i32 = family.all.iter().map(|set| available(set)).sum();
    let mut spare = (serving - least).max(0);
    for (set, size) in &mut sizes {
        let less = spare.min(*size).min(available(set));
        *size -= less;
        spare -= less;
    }
    for (set, size) in sizes {
        set_size(deployment, set, size, plan);
    }
}

/// Recreate: everything old goes before anything new comes.
pub fn recreate(deployment: &Deployment, family: &Family, pods_left: bool, plan: &mut Plan) {
    if total(&family.old) > 0 {
        for set in &family.old {
            set_size(deployment, set, 0, plan);
        }
        return;
    }
    if let (Some(new), false) = (family.new, pods_left) {
        set_size(deployment, new, desired(deployment), plan);
    }
}

/// Scaling outside a rollout, or in the middle of one: in proportion to the sets' sizes.
pub fn scale(deployment: &Deployment, family: &Family, plan: &mut Plan) {
    let wanted = desired(deployment);
    let active: Vec<&ReplicaSet> = family
        .all
        .iter()
        .copied()
        .filter(|set| replicas(set) > 0)
        .collect();
    if active.len() <= 1 {
        if let Some(only) = active.first().copied().or(family.new) {
            set_size(deployment, only, wanted, plan);
        }
        return;
    }
    // The new set is whole: what is left of the old ones is not needed.
    if family
        .new
        .is_some_and(|new| replicas(new) == wanted && available(new) == wanted)
    {
        for set in &family.old {
            set_size(deployment, set, 0, plan);
        }
        return;
    }
    let (surge, _) = fence(deployment);
    let allowed = if wanted > 0 { wanted + surge } else { 0 };
    for (set, size) in proportion(&active, allowed) {
        set_size(deployment, set, size, plan);
    }
}

/// Shares `allowed` among the sets in proportion to their sizes; the largest gets what rounding left.
fn proportion<'a>(sets: &[&'a ReplicaSet], allowed: i32) -> Vec<(&'a ReplicaSet, i32)> {
    let sum = total(sets).max(1);
    let mut shares: Vec<(&ReplicaSet, i32)> = sets
        .iter()
        .map(|set| {
            let share = i64::from(replicas(set)) * i64::from(allowed) / i64::from(sum);
            (*set, i32::try_from(share).unwrap_or(0))
        })
        .collect();
    shares.sort_by_key(|(set, _)| -replicas(set));
    let left = allowed - shares.iter().map(|(_, size)| size).sum::<i32>();
    if let Some(first) = shares.first_mut() {
        first.1 += left;
    }
    shares
}
