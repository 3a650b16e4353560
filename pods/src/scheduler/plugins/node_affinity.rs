//! NodeAffinity: nodeSelector and node affinity, required and preferred.

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
};

use super::{Cycle, Filter, Score};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "NodeAffinity",
    filter,
    resolvable: false,
};

pub(super) const SCORE: Score = Score {
    name: "NodeAffinity",
    weight: 2,
    score,
    normalize: Some(|scores| super::normalize(scores, false)),
};

fn affinity(pod: &Pod) -> Option<&NodeAffinity> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
    affinity.node_affinity.as_ref()
}

/// Whether the pod's nodeSelector and required node affinity let it run on `node`.
pub fn matches_node_affinity(pod: &Pod, node: &NodeInfo) -> bool {
    let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    let selected = selector
        .into_iter()
        .flatten()
        .all(|(key, value)| node.labels().and_then(|labels| labels.get(key)) == Some(value));
    let required = affinity(pod).and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    selected && required.is_none_or(|r| matches_selector(r, node))
}

/// Whether one of the selector's terms holds for `node`.
pub fn matches_selector(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| matches(term, node))
}

fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // An empty term selects nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |r: &NodeSelectorRequirement| {
        let labels = node.labels();
        holds(r, labels.and_then(|l| l.get(&r.key)).map(String::as_str))
    };
    let field = |r: &NodeSelectorRequirement| {
        r.key == "metadata.name" && holds(r, Some(node.name.as_str()))
    };
    expressions.iter().all(label) && fields.iter().all(field)
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|x| x == v);
    let compare = |wanted: std::cmp::Ordering| {
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = values.first().and_then(|v| number(v));
        let actual = value.and_then(number);
        matches!((actual, bound), (Some(a), Some(b)) if a.cmp(&b) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    if matches_node_affinity(&pod.pod, node) {
        return Ok(());
    }
    Err(vec![
        "node(s) didn't match Pod's node affinity/selector".to_owned(),
    ])
}

fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let pod = cycle.pod;
    let preferred = affinity(&pod.pod).and_then(|a| {
        a.preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    preferred
        .into_iter()
        .flatten()
        .filter(|term| matches(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}
