//! TaintToleration: taints keep pods away, or make a node less liked.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::{Cycle, Filter, Score};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "TaintToleration",
    filter,
    resolvable: false,
};

pub(super) const SCORE: Score = Score {
    name: "TaintToleration",
    weight: 3,
    score,
    normalize: Some(|scores| super::normalize(scores, true)),
};

/// Whether one of the pod's tolerations covers `taint`.
pub fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let spec = pod.spec.as_ref();
    // As admission gives every pod that asks for something a toleration of it.
    let copes = || spec.is_some_and(|s| crate::resources::qos_class(s) != "BestEffort");
    if taint.key == "node.kubernetes.io/memory-pressure" && copes() {
        return true;
    }
    let mut all = spec
        .and_then(|s| s.tolerations.as_ref())
        .into_iter()
        .flatten();
    all.any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
    }
}

fn taints(node: &NodeInfo) -> impl Iterator<Item = &Taint> {
    let spec = node.node.spec.as_ref();
    spec.and_then(|s| s.taints.as_ref()).into_iter().flatten()
}

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    let untolerated = taints(node)
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerates(&pod.pod, taint));
    match untolerated {
        None => Ok(()),
        Some(taint) => Err(vec![format!(
            "node(s) had untolerated taint {{{}: {}}}",
            taint.key,
            taint.value.as_deref().unwrap_or("")
        )]),
    }
}

fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let pod = cycle.pod;
    let disliked = taints(node)
        .filter(|taint| taint.effect == "PreferNoSchedule" && !tolerates(&pod.pod, taint));
    disliked.count() as i64
}
