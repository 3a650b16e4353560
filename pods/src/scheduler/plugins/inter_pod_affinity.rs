//! InterPodAffinity: pods that want to be near others, or away from them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, WeightedPodAffinityTerm};

use super::{Cycle, Filter, MAX_SCORE, Score};
use crate::controllers::objects::selects;
use crate::scheduler::snapshot::{NodeInfo, PodInfo, Snapshot};

pub(super) const FILTER: Filter = Filter {
    name: "InterPodAffinity",
    filter,
    resolvable: true,
};

pub(super) const SCORE: Score = Score {
    name: "InterPodAffinity",
    weight: 2,
    score,
    normalize: Some(normalize),
};

/// A label of nodes and a value of it.
type Domain = (String, String);

#[derive(Default)]
pub(super) struct State {
    /// For each required term: its label, and the pods that match by value.
    near: Vec<(String, BTreeMap<String, usize>)>,
    /// Whether the pod matches all its own terms: the first of a group has nobody to be near to.
    own: bool,
    /// The same of the terms that keep it away.
    away: Vec<(String, BTreeMap<String, usize>)>,
    /// Where pods are that want it away.
    banned: BTreeMap<Domain, usize>,
    /// Sum of the weights of what is preferred.
    liked: BTreeMap<Domain, i64>,
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.pod.spec.as_ref()?.affinity.as_ref()
}

fn required(pod: &PodInfo, near: bool) -> &[PodAffinityTerm] {
    let Some(a) = affinity(pod) else { return &[] };
    let terms = if near {
        let side = a.pod_affinity.as_ref();
        side.and_then(|s| {
            s.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
    } else {
        let side = a.pod_anti_affinity.as_ref();
        side.and_then(|s| {
            s.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
    };
    terms.unwrap_or_default()
}

fn preferred(pod: &PodInfo, near: bool) -> &[WeightedPodAffinityTerm] {
    let Some(a) = affinity(pod) else { return &[] };
    let terms = if near {
        let side = a.pod_affinity.as_ref();
        side.and_then(|s| {
            s.preferred_during_scheduling_ignored_during_execution
                .as_deref()
        })
    } else {
        let side = a.pod_anti_affinity.as_ref();
        side.and_then(|s| {
            s.preferred_during_scheduling_ignored_during_execution
                .as_deref()
        })
    };
    terms.unwrap_or_default()
}

/// Whether a term of `of` means `other`.
fn means(term: &PodAffinityTerm, of: &PodInfo, other: &PodInfo, world: &Snapshot) -> bool {
    let namespace = other.key().0;
    let listed = term.namespaces.iter().flatten().any(|n| n == namespace);
    let by_label = term
        .namespace_selector
        .as_ref()
        .is_some_and(|s| selects(s, world.namespaces.get(namespace)));
    let neither =
        term.namespaces.as_ref().is_none_or(Vec::is_empty) && term.namespace_selector.is_none();
    let there = listed || by_label || (neither && namespace == of.key().0);
    let labels = other.pod.metadata.labels.as_ref();
    let same = |key: &String| {
        let value = |p: &PodInfo| {
            p.pod
                .metadata
                .labels
                .as_ref()
                .and_then(|l| l.get(key))
                .cloned()
        };
        value(of).is_none() || value(of) == value(other)
    };
    there
        && term
            .label_selector
            .as_ref()
            .is_some_and(|s| selects(s, labels))
        && term.match_label_keys.iter().flatten().all(same)
        && term.mismatch_label_keys.iter().flatten().all(|k| !same(k))
}

impl State {
    pub(super) fn new(pod: &PodInfo, world: &Snapshot) -> Self {
        let mut state = Self::default();
        // Nobody has a wish: nothing to count.
        if !pod.has_affinity && world.with_affinity == 0 {
            return state;
        }
        let empty = |terms: &[PodAffinityTerm]| {
            terms
                .iter()
                .map(|t| (t.topology_key.clone(), BTreeMap::new()))
                .collect()
        };
        state.near = empty(required(pod, true));
        state.away = empty(required(pod, false));
        state.own = required(pod, true)
            .iter()
            .all(|t| means(t, pod, pod, world));
        for node in &world.nodes {
            for other in &node.list {
                if pod.has_affinity {
                    state.wishes(pod, other, node, world);
                }
                if other.has_affinity {
                    state.wishes_of_other(pod, other, node, world);
                }
            }
        }
        state
    }

    /// What the pod wants of `other`.
    fn wishes(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, world: &Snapshot) {
        for (near, list) in [(true, &mut self.near), (false, &mut self.away)] {
            for (term, (key, counts)) in required(pod, near).iter().zip(list) {
                if let Some(value) = node.label(key)
                    && means(term, pod, other, world)
                {
                    *counts.entry(value.to_owned()).or_default() += 1;
                }
            }
            let sign = if near { 1 } else { -1 };
            for term in preferred(pod, near) {
                if means(&term.pod_affinity_term, pod, other, world) {
                    liked_at(
                        &mut self.liked,
                        node,
                        &term.pod_affinity_term.topology_key,
                        sign * i64::from(term.weight),
                    );
                }
            }
        }
    }

    /// What `other` wants of the pod.
    fn wishes_of_other(
        &mut self,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        world: &Snapshot,
    ) {
        for term in required(other, false) {
            if let Some(value) = node.label(&term.topology_key)
                && means(term, other, pod, world)
            {
                let domain = (term.topology_key.clone(), value.to_owned());
                *self.banned.entry(domain).or_default() += 1;
            }
        }
        // Kube-scheduler's hardPodAffinityWeight: what another needs is liked a little.
        for term in required(other, true) {
            if means(term, other, pod, world) {
                liked_at(&mut self.liked, node, &term.topology_key, 1);
            }
        }
        for (near, sign) in [(true, 1), (false, -1)] {
            for term in preferred(other, near) {
                if means(&term.pod_affinity_term, other, pod, world) {
                    liked_at(
                        &mut self.liked,
                        node,
                        &term.pod_affinity_term.topology_key,
                        sign * i64::from(term.weight),
                    );
                }
            }
        }
    }
}

fn liked_at(liked: &mut BTreeMap<Domain, i64>, node: &NodeInfo, key: &str, weight: i64) {
    if let Some(value) = node.label(key) {
        *liked.entry((key.to_owned(), value.to_owned())).or_default() += weight;
    }
}

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let state = &cycle.affinity;
    let refuse = |why: &str| Err(vec![format!("node(s) didn't {why}")]);
    let labeled = state.near.iter().all(|(key, _)| node.label(key).is_some());
    let here = |(key, counts): &(String, BTreeMap<String, usize>)| {
        node.label(key).is_some_and(|v| counts.contains_key(v))
    };
    let first = state.near.iter().all(|(_, counts)| counts.is_empty()) && state.own;
    if !labeled || !(first || state.near.iter().all(here)) {
        return refuse("match pod affinity rules");
    }
    if state.away.iter().any(here) {
        return refuse("match pod anti-affinity rules");
    }
    let banned = |(key, value): &Domain| node.label(key) == Some(value.as_str());
    if state.banned.keys().any(banned) {
        return refuse("satisfy existing pods anti-affinity rules");
    }
    Ok(())
}

fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let liked = cycle.affinity.liked.iter();
    let here = liked.filter(|((key, value), _)| node.label(key) == Some(value.as_str()));
    here.map(|(_, weight)| weight).sum()
}

fn normalize(scores: &mut [i64]) {
    let (low, high) = (
        scores.iter().copied().min().unwrap_or(0),
        scores.iter().copied().max().unwrap_or(0),
    );
    for score in scores {
        *score = if high > low {
            MAX_SCORE * (*score - low) / (high - low)
        } else {
            0
        };
    }
}
