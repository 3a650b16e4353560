//! Preemption (DefaultPreemption): which pods of less priority would have to go for one that fits
//! nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::plugins::{Cycle, FILTERS};
use super::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::controllers::objects::selects;

/// A disruption budget: namespace, selector, and how many of its pods may go.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// Which pods it is about.
    pub selector: LabelSelector,
    /// How many of them may go now.
    pub allowed: i32,
}

/// Room that can be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// Where.
    pub node: String,
    /// Who has to go.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them their budgets would keep.
    violations: usize,
}

/// Whether what a node lacks can be had by removing pods from it.
pub(super) fn may_help(cycle: &Cycle<'_>, node: &NodeInfo) -> bool {
    let refusing = FILTERS
        .iter()
        .find(|plugin| (plugin.filter)(cycle, node).is_err());
    refusing.is_some_and(|plugin| plugin.resolvable)
}

fn fits(pod: &PodInfo, world: &Snapshot, name: &str) -> bool {
    let Some(node) = world.node(name) else {
        return false;
    };
    let cycle = Cycle::new(pod, world);
    FILTERS
        .iter()
        .all(|plugin| (plugin.filter)(&cycle, node).is_ok())
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    let status = pod.pod.status.as_ref()?;
    status.start_time.as_ref().map(|t| t.0)
}

/// More important first: by priority, then whoever has run longer.
fn by_importance(pods: &mut [Arc<PodInfo>]) {
    pods.sort_by_key(|p| {
        (
            std::cmp::Reverse(p.priority()),
            started(p).unwrap_or(Timestamp::MAX),
            p.key().1.to_owned(),
        )
    });
}

/// The pods whose budgets have no place left, taking them in this order.
fn violating(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> BTreeSet<(String, String)> {
    let mut left: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    let mut out = BTreeSet::new();
    for pod in pods {
        let labels = pod.pod.metadata.labels.as_ref();
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.namespace == pod.key().0 && selects(&budget.selector, labels) {
                *left -= 1;
                if *left < 0 {
                    out.insert((pod.key().0.to_owned(), pod.key().1.to_owned()));
                }
            }
        }
    }
    out
}

/// The fewest victims on a node: all of less priority go, and come back one by one while the pod
/// still fits; those that a budget keeps come first.
fn on(pod: &PodInfo, world: &Snapshot, name: &str, budgets: &[Budget]) -> Option<Preemption> {
    let mut world = world.clone();
    let lower = world
        .node(name)?
        .list
        .iter()
        .filter(|p| p.priority() < pod.priority());
    let mut lower: Vec<Arc<PodInfo>> = lower.cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for victim in &lower {
        world.displace(victim);
    }
    if !fits(pod, &world, name) {
        return None;
    }
    by_importance(&mut lower);
    let kept = violating(&lower, budgets);
    let is_kept = |p: &PodInfo| kept.contains(&(p.key().0.to_owned(), p.key().1.to_owned()));
    let (first, then): (Vec<_>, Vec<_>) = lower.into_iter().partition(|p| is_kept(p));
    let (mut victims, mut violations) = (Vec::new(), 0);
    for candidate in first.into_iter().chain(then) {
        world.place(candidate.clone());
        if !fits(pod, &world, name) {
            world.displace(&candidate);
            violations += usize::from(is_kept(&candidate));
            victims.push(candidate);
        }
    }
    by_importance(&mut victims);
    let node = name.to_owned();
    (!victims.is_empty()).then_some(Preemption {
        node,
        victims,
        violations,
    })
}

/// Where room is best made, if it can be: with the fewest broken budgets, the least important
/// highest victim, the least sum of priorities, the fewest victims, the latest start.
pub fn preempt(pod: &PodInfo, world: &Snapshot, budgets: &[Budget]) -> Option<Preemption> {
    let policy = pod
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.preemption_policy.as_deref());
    if policy == Some("Never") {
        return None;
    }
    let cycle = Cycle::new(pod, world);
    let candidates = world.nodes.iter().filter(|node| may_help(&cycle, node));
    let possible = candidates.filter_map(|node| on(pod, world, &node.name, budgets));
    possible.min_by_key(|p| {
        let highest = p.victims.first().map_or(0, |v| v.priority());
        // Offset, so that negative priorities do not make more victims look better.
        let sum: i64 = p
            .victims
            .iter()
            .map(|v| i64::from(v.priority()) + i64::from(i32::MAX) + 1)
            .sum();
        let latest = p
            .victims
            .first()
            .and_then(|v| started(v))
            .unwrap_or(Timestamp::MAX);
        (
            p.violations,
            highest,
            sum,
            p.victims.len(),
            std::cmp::Reverse(latest),
            p.node.clone(),
        )
    })
}
