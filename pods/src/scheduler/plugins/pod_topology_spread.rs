//! PodTopologySpread: pods of a kind are spread over the values of a node's label.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{Cycle, Filter, MAX_SCORE, Score, matches_node_affinity, tolerates};
use crate::controllers::objects::selects;
use crate::scheduler::snapshot::{NodeInfo, PodInfo, Snapshot};

pub(super) const FILTER: Filter = Filter {
    name: "PodTopologySpread",
    filter,
    resolvable: true,
};

pub(super) const SCORE: Score = Score {
    name: "PodTopologySpread",
    weight: 2,
    score,
    normalize: Some(normalize),
};

/// A constraint and what is counted for it.
struct Constraint {
    key: String,
    skew: i64,
    hard: bool,
    /// Whether the pod itself is one of those counted.
    own: bool,
    /// Pods by value of the label, on the nodes that count.
    counts: BTreeMap<String, i64>,
    /// The lowest of them; 0 where there are fewer values than wanted.
    lowest: i64,
}

/// All constraints of the pod.
#[derive(Default)]
pub(super) struct State(Vec<Constraint>);

impl State {
    pub(super) fn new(pod: &PodInfo, world: &Snapshot) -> Self {
        let all = pod
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.topology_spread_constraints.as_ref());
        let all: Vec<&TopologySpreadConstraint> = all.into_iter().flatten().collect();
        let hard: Vec<&str> = all
            .iter()
            .filter(|c| is_hard(c))
            .map(|c| c.topology_key.as_str())
            .collect();
        Self(all.iter().map(|c| count(c, &hard, pod, world)).collect())
    }
}

fn is_hard(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable != "ScheduleAnyway"
}

/// The selector, narrowed by what `matchLabelKeys` names of the pod.
fn selector(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
            selector
                .match_expressions
                .get_or_insert_default()
                .push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: "In".to_owned(),
                    values: Some(vec![value.clone()]),
                });
        }
    }
    Some(selector)
}

/// Whether the node's pods count.
fn counts(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore")
        || matches_node_affinity(&pod.pod, node);
    let honors = constraint.node_taints_policy.as_deref() == Some("Honor");
    let taints = || {
        node.node
            .spec
            .iter()
            .flat_map(|s| s.taints.iter().flatten())
    };
    affinity
        && (!honors
            || taints()
                .filter(|t| t.effect != "PreferNoSchedule")
                .all(|t| tolerates(&pod.pod, t)))
}

fn count(
    constraint: &TopologySpreadConstraint,
    hard: &[&str],
    pod: &PodInfo,
    world: &Snapshot,
) -> Constraint {
    let selector = selector(constraint, pod);
    let chosen = |p: &PodInfo| {
        selector
            .as_ref()
            .is_some_and(|s| selects(s, p.pod.metadata.labels.as_ref()))
    };
    let mut counts_by: BTreeMap<String, i64> = BTreeMap::new();
    for node in &world.nodes {
        // A node without one of the labels is in no domain at all.
        let everywhere = hard.iter().all(|key| node.label(key).is_some());
        let Some(value) = node.label(&constraint.topology_key).filter(|_| everywhere) else {
            continue;
        };
        if !counts(constraint, pod, node) {
            continue;
        }
        let here = node.list.iter().filter(|p| {
            p.key().0 == pod.key().0 && p.pod.metadata.deletion_timestamp.is_none() && chosen(p)
        });
        *counts_by.entry(value.to_owned()).or_default() += here.count() as i64;
    }
    let few = constraint
        .min_domains
        .is_some_and(|n| (counts_by.len() as i64) < i64::from(n));
    Constraint {
        key: constraint.topology_key.clone(),
        skew: i64::from(constraint.max_skew),
        hard: is_hard(constraint),
        own: chosen(pod),
        lowest: if few {
            0
        } else {
            counts_by.values().copied().min().unwrap_or(0)
        },
        counts: counts_by,
    }
}

const REFUSED: &str = "node(s) didn't match pod topology spread constraints";

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    for constraint in cycle.spread.0.iter().filter(|c| c.hard) {
        let Some(value) = node.label(&constraint.key) else {
            return Err(vec![format!("{REFUSED} (missing required label)")]);
        };
        let here = constraint.counts.get(value).copied().unwrap_or(0);
        if here + i64::from(constraint.own) - constraint.lowest > constraint.skew {
            return Err(vec![REFUSED.to_owned()]);
        }
    }
    Ok(())
}

/// How full the node's domains are; less is better. -1 marks a node outside of them.
fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let mut sum = 0.0;
    for constraint in cycle.spread.0.iter().filter(|c| !c.hard) {
        let Some(value) = node.label(&constraint.key) else {
            return -1;
        };
        let here = constraint.counts.get(value).copied().unwrap_or(0);
        // Few large domains weigh as much as many small ones.
        #[allow(clippy::cast_precision_loss)]
        let weight = (constraint.counts.len() as f64 + 2.0).ln();
        #[allow(clippy::cast_precision_loss)]
        let part = here as f64 * weight + (constraint.skew - 1) as f64;
        sum += part;
    }
    sum.round() as i64
}

fn normalize(scores: &mut [i64]) {
    let inside = || scores.iter().copied().filter(|s| *s >= 0);
    let (low, high) = (inside().min().unwrap_or(0), inside().max().unwrap_or(0));
    for score in scores {
        *score = match *score {
            -1 => 0,
            _ if high == 0 => MAX_SCORE,
            s => MAX_SCORE * (high + low - s) / high,
        };
    }
}
