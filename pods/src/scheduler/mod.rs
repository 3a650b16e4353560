//! Which node a pod goes to: a pure function of a [`Snapshot`].
//!
//! Filters leave the nodes a pod can run on, scores rank them; each plugin has Kubernetes' name,
//! default weight and messages (kube-scheduler 1.36, `pkg/scheduler/framework/plugins`).

pub mod plugins;
pub mod queue;
mod run;
pub mod snapshot;

use std::collections::BTreeMap;

use plugins::{FILTERS, SCORES};
pub use run::run;
pub use snapshot::{NodeInfo, PodInfo, Snapshot};

/// Where a pod goes, and how the node was rated (higher is better).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Name of the node.
    pub node: String,
    /// Weighted sum of the scores.
    pub score: i64,
}

/// No node fits: how many nodes there are, and how often each reason was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    /// Nodes looked at.
    pub nodes: usize,
    /// Reason to the number of nodes that gave it.
    pub reasons: BTreeMap<String, usize>,
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        // kube-scheduler sorts the histogram as text.
        let mut parts: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        parts.sort();
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes,
            parts.join(", ")
        )
    }
}

/// Chooses a node for `pod`, or says why none will do. Ties go to the first by name, so that the
/// answer depends on the snapshot alone.
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot) -> Result<Decision, FitError> {
    let mut reasons = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in &snapshot.nodes {
        match filter(pod, node) {
            Ok(()) => fitting.push(node),
            Err(why) => {
                for reason in why {
                    *reasons.entry(reason).or_insert(0) += 1;
                }
            }
        }
    }
    let best = match fitting.as_slice() {
        [] => {
            return Err(FitError {
                nodes: snapshot.nodes.len(),
                reasons,
            });
        }
        [only] => (*only, 0),
        many => rank(pod, many),
    };
    Ok(Decision {
        node: best.0.name.clone(),
        score: best.1,
    })
}

/// The reasons of the first plugin that refuses; later plugins are not asked, as upstream.
fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Vec<String>> {
    FILTERS
        .iter()
        .try_for_each(|plugin| (plugin.filter)(pod, node))
}

fn rank<'a>(pod: &PodInfo, nodes: &[&'a NodeInfo]) -> (&'a NodeInfo, i64) {
    let mut totals = vec![0_i64; nodes.len()];
    for plugin in SCORES {
        let mut scores: Vec<i64> = nodes.iter().map(|n| (plugin.score)(pod, n)).collect();
        if let Some(normalize) = plugin.normalize {
            normalize(&mut scores);
        }
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight;
        }
    }
    let mut best = 0;
    for index in 1..nodes.len() {
        if totals[index] > totals[best] {
            best = index;
        }
    }
    (nodes[best], totals[best])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, extra: Value) -> Value {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}
        });
        json_patch::merge(&mut node, &extra);
        node
    }

    fn pod(spec: Value) -> PodInfo {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec});
        PodInfo::new(serde_json::from_value(pod).unwrap())
    }

    fn world(nodes: Vec<Value>, pods: Vec<PodInfo>) -> Snapshot {
        let nodes = nodes
            .into_iter()
            .map(|n| serde_json::from_value(n).unwrap());
        Snapshot::new(nodes, pods)
    }

    fn one(extra: Value) -> Snapshot {
        world(vec![node("n1", extra)], vec![])
    }

    fn refusal(spec: Value, snapshot: &Snapshot) -> String {
        schedule(&pod(spec), snapshot).unwrap_err().to_string()
    }

    #[test]
    fn refusals_read_as_kubernetes_writes_them() {
        let plain = json!({"containers": [{"name": "a"}]});
        assert_eq!(
            refusal(
                plain.clone(),
                &one(json!({"spec": {"unschedulable": true}}))
            ),
            "0/1 nodes are available: 1 node(s) were unschedulable."
        );
        let taints =
            json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}});
        assert_eq!(
            refusal(plain, &one(taints)),
            "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}."
        );
        let selector = json!({"containers": [{"name": "a"}], "nodeSelector": {"disk": "ssd"}});
        assert_eq!(
            refusal(selector, &one(json!({}))),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        );
        let big = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "3", "memory": "5Gi"}}}]});
        assert_eq!(
            refusal(big, &one(json!({}))),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
        );
        assert_eq!(
            refusal(json!({"containers": []}), &world(vec![], vec![])),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn a_host_port_is_given_once() {
        let spec = json!({"nodeName": "n1", "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let snapshot = world(vec![node("n1", json!({}))], vec![pod(spec.clone())]);
        let mut again = spec;
        again["nodeName"] = Value::Null;
        assert_eq!(
            refusal(again, &snapshot),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
        );
    }

    #[test]
    fn the_emptier_node_is_preferred() {
        let busy = json!({"nodeName": "n1", "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]});
        let snapshot = world(
            vec![node("n1", json!({})), node("n2", json!({}))],
            vec![pod(busy)],
        );
        let asked = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]});
        assert_eq!(schedule(&pod(asked), &snapshot).unwrap().node, "n2");
    }

    #[test]
    fn too_many_pods_and_affinity_operators() {
        let there = json!({"nodeName": "n1", "containers": [{"name": "a"}]});
        let full: Vec<_> = (0..3).map(|_| pod(there.clone())).collect();
        let snapshot = world(vec![node("n1", json!({}))], full);
        assert_eq!(
            refusal(json!({"containers": [{"name": "a"}]}), &snapshot),
            "0/1 nodes are available: 1 Too many pods."
        );
        let affinity = |operator: &str, values: Value| {
            json!({"containers": [{"name": "a"}], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "gen", "operator": operator, "values": values}]}]}}}})
        };
        let snapshot = one(json!({"metadata": {"labels": {"gen": "5"}}}));
        for (operator, values, fits) in [
            ("Gt", json!(["4"]), true),
            ("Lt", json!(["4"]), false),
            ("In", json!(["5"]), true),
            ("NotIn", json!(["5"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
        ] {
            let answer = schedule(&pod(affinity(operator, values)), &snapshot);
            assert_eq!(answer.is_ok(), fits, "{operator}");
        }
    }
}
