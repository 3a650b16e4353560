//! Which node a pod goes to: a pure function of a [`Snapshot`].
//!
//! Filters leave the nodes a pod can run on, scores rank them; each plugin has Kubernetes' name,
//! default weight and messages (kube-scheduler 1.36, `pkg/scheduler/framework/plugins`).

pub mod plugins;
pub mod preempt;
pub mod queue;
mod run;
pub mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;

use plugins::{Cycle, FILTERS, SCORES};
pub use run::run;
pub use snapshot::{NodeInfo, PodInfo, Snapshot};

/// Where a pod goes, and how the node was rated (higher is better).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Name of the node.
    pub node: String,
    /// Weighted sum of the scores.
    pub score: i64,
    /// How many nodes were looked at: the next search begins after them.
    pub looked: usize,
}

/// No node fits: how many nodes there are, and how often each reason was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    /// Nodes looked at.
    pub nodes: usize,
    /// Reason to the number of nodes that gave it.
    pub reasons: BTreeMap<String, usize>,
    /// What makes all nodes unfit at once.
    pub before: Option<String>,
    /// Whether removing pods might help on one of them.
    pub resolvable: bool,
}

impl std::fmt::Display for FitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        if let Some(why) = &self.before {
            return write!(f, "0/{} nodes are available: {why}.", self.nodes);
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

/// Fewer nodes than this are all looked at (kube-scheduler's minFeasibleNodesToFind).
const LEAST_NODES: usize = 100;

/// How many nodes that fit are enough, of so many: the share falls from 50 % to 5 % as clusters
/// grow (kube-scheduler's adaptive percentageOfNodesToScore).
fn enough(nodes: usize) -> usize {
    if nodes < LEAST_NODES {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(LEAST_NODES)
}

/// Chooses a node for `pod`, or says why none will do. Ties go to the first that was looked at, so
/// that the answer depends on the snapshot alone.
pub fn schedule(pod: &PodInfo, world: &Snapshot) -> Result<Decision, FitError> {
    let count = world.nodes.len();
    let (mut reasons, mut fitting) = (BTreeMap::new(), Vec::new());
    let refused = |reasons, before| FitError {
        nodes: count,
        reasons,
        before,
        resolvable: false,
    };
    if let Err(why) = plugins::before(pod, world) {
        return Err(refused(reasons, Some(why)));
    }
    let cycle = Cycle::new(pod, world);
    let (enough, mut looked) = (enough(count), 0);
    while looked < count && fitting.len() < enough {
        let node = &world.nodes[(world.start + looked) % count];
        looked += 1;
        match filter(&cycle, node) {
            Ok(()) => fitting.push(node),
            Err(why) => {
                for reason in why {
                    *reasons.entry(reason).or_insert(0) += 1;
                }
            }
        }
    }
    let (best, score) = match fitting.as_slice() {
        [] => {
            let resolvable = world.nodes.iter().any(|n| preempt::may_help(&cycle, n));
            return Err(FitError {
                resolvable,
                ..refused(reasons, None)
            });
        }
        [only] => (*only, 0),
        many => rank(&cycle, many),
    };
    Ok(Decision {
        node: best.name.clone(),
        score,
        looked,
    })
}

/// The reasons of the first plugin that refuses; later plugins are not asked, as upstream. Room
/// that was made for pods of no less priority counts as taken.
fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let ask = |cycle: &Cycle<'_>, node: &NodeInfo| {
        FILTERS
            .iter()
            .try_for_each(|plugin| (plugin.filter)(cycle, node))
    };
    ask(cycle, node)?;
    let mine = cycle.pod.key();
    let waiting = cycle.world.nominated.values().filter(|(at, other)| {
        *at == node.name && other.key() != mine && other.priority() >= cycle.pod.priority()
    });
    let waiting: Vec<&Arc<PodInfo>> = waiting.map(|(_, other)| other).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let mut with = node.clone();
    for other in waiting {
        with.add(other.clone());
    }
    ask(cycle, &with)
}

fn rank<'a>(cycle: &Cycle<'_>, nodes: &[&'a NodeInfo]) -> (&'a NodeInfo, i64) {
    let mut totals = vec![0_i64; nodes.len()];
    let mut scores = vec![0_i64; nodes.len()];
    for plugin in SCORES {
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = (plugin.score)(cycle, node);
        }
        if let Some(normalize) = plugin.normalize {
            normalize(&mut scores);
        }
        for (total, score) in totals.iter_mut().zip(&scores) {
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

    fn named(name: &str, labels: Value, spec: Value) -> PodInfo {
        let meta = json!({"name": name, "namespace": "default", "labels": labels});
        PodInfo::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    }

    #[test]
    fn pods_stay_away_from_those_they_do_not_like() {
        let away = json!({"containers": [{"name": "a"}], "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}]}}});
        let mut there = away.clone();
        there["nodeName"] = json!("n1");
        let nodes = || vec![node("n1", json!({})), node("n2", json!({}))];
        let snapshot = world(
            nodes(),
            vec![named("a", json!({"app": "x"}), there.clone())],
        );
        let next = named("b", json!({"app": "x"}), away.clone());
        assert_eq!(schedule(&next, &snapshot).unwrap().node, "n2");
        // The wish of the one that is there counts as well.
        let plain = named("c", json!({"app": "x"}), json!({"containers": []}));
        let one = world(
            vec![node("n1", json!({}))],
            vec![named("a", json!({"app": "x"}), there)],
        );
        assert_eq!(
            schedule(&plain, &one).unwrap_err().to_string(),
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
        );
        assert_eq!(
            schedule(&next, &one).unwrap_err().to_string(),
            "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
        );
    }

    #[test]
    fn pods_go_where_those_they_need_are_and_the_first_goes_anywhere() {
        let near = json!({"containers": [{"name": "a"}], "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
        let db = named(
            "db",
            json!({"app": "db"}),
            json!({"nodeName": "n2", "containers": []}),
        );
        let nodes = || vec![node("n1", json!({})), node("n2", json!({}))];
        let web = named("web", json!({"app": "web"}), near.clone());
        assert_eq!(
            schedule(&web, &world(nodes(), vec![db])).unwrap().node,
            "n2"
        );
        assert_eq!(
            schedule(&web, &world(nodes(), vec![]))
                .unwrap_err()
                .to_string(),
            "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
        );
        let first = named("db-0", json!({"app": "db"}), near);
        assert!(schedule(&first, &world(nodes(), vec![])).is_ok());
    }

    #[test]
    fn pods_spread_over_domains() {
        let spread = json!({"containers": [{"name": "a"}], "topologySpreadConstraints": [{"maxSkew": 1,
            "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]});
        let zone =
            |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
        let mut there = spread.clone();
        there["nodeName"] = json!("n1");
        let pods = || vec![named("a", json!({"app": "x"}), there.clone())];
        let next = named("b", json!({"app": "x"}), spread.clone());
        let two = world(vec![zone("n1", "a"), zone("n2", "b")], pods());
        assert_eq!(schedule(&next, &two).unwrap().node, "n2");
        let bare = world(vec![node("n3", json!({}))], vec![]);
        assert_eq!(
            schedule(&next, &bare).unwrap_err().to_string(),
            "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."
        );
        let mut soft = spread;
        soft["topologySpreadConstraints"][0]["whenUnsatisfiable"] = json!("ScheduleAnyway");
        let soft = named("c", json!({"app": "x"}), soft);
        assert_eq!(schedule(&soft, &two).unwrap().node, "n2");
    }

    #[test]
    fn claims_hold_a_pod_and_lead_it_to_its_volume() {
        let spec = json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
        let wants = named("a", json!({}), spec);
        let mut snapshot = world(vec![node("n1", json!({})), node("n2", json!({}))], vec![]);
        let says = |s: &Snapshot| schedule(&wants, s).unwrap_err().to_string();
        assert_eq!(
            says(&snapshot),
            "0/2 nodes are available: persistentvolumeclaim \"data\" not found."
        );
        let key = ("default".to_owned(), "data".to_owned());
        snapshot
            .claims
            .insert(key.clone(), snapshot::Claim::Unbound);
        assert_eq!(
            says(&snapshot),
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        );
        let on = |name: &str| {
            let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}]});
            snapshot::Claim::Bound(Some(serde_json::from_value(terms).unwrap()))
        };
        snapshot.claims.insert(key.clone(), on("n2"));
        assert_eq!(schedule(&wants, &snapshot).unwrap().node, "n2");
        snapshot.claims.insert(key, on("n9"));
        assert_eq!(
            says(&snapshot),
            "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
        );
    }

    #[test]
    fn the_least_important_make_room() {
        let takes = |priority: i32, cpu: &str, at: &str| json!({"priority": priority, "nodeName": at, "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]});
        let nodes = vec![node("n1", json!({})), node("n2", json!({}))];
        let pods = vec![
            named("low", json!({}), takes(1, "1", "n1")),
            named("lower", json!({}), takes(0, "1", "n1")),
            named("middle", json!({"app": "m"}), takes(5, "2", "n2")),
        ];
        let mut snapshot = world(nodes, pods);
        let high = named("high", json!({}), takes(10, "1", ""));
        assert!(schedule(&high, &snapshot).is_err());
        let found = preempt::preempt(&high, &snapshot, &[]).unwrap();
        let names = |p: &preempt::Preemption| {
            p.victims
                .iter()
                .map(|v| v.key().1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (found.node.as_str(), names(&found)),
            ("n1", vec!["lower".to_owned()])
        );
        let big = named("big", json!({}), takes(10, "2", ""));
        assert_eq!(preempt::preempt(&big, &snapshot, &[]).unwrap().node, "n1");
        // Nobody goes for one that is not more important.
        let equal = named("equal", json!({}), takes(0, "1", ""));
        assert!(preempt::preempt(&equal, &snapshot, &[]).is_none());
        // The room that was made is kept for whom it was made.
        for victim in &found.victims {
            snapshot.displace(victim);
        }
        let key = ("default".to_owned(), "high".to_owned());
        snapshot
            .nominated
            .insert(key, ("n1".to_owned(), Arc::new(high.clone())));
        let late = named("late", json!({}), takes(3, "1", ""));
        assert!(schedule(&late, &snapshot).is_err());
        assert_eq!(schedule(&high, &snapshot).unwrap().node, "n1");
    }

    #[test]
    fn a_budget_turns_preemption_elsewhere() {
        let takes = |at: &str| json!({"priority": 0, "nodeName": at, "containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]});
        let pods = vec![
            named("kept", json!({"app": "kept"}), takes("n1")),
            named("free", json!({}), takes("n2")),
        ];
        let snapshot = world(vec![node("n1", json!({})), node("n2", json!({}))], pods);
        let mut spec = takes("");
        spec["priority"] = json!(10);
        let budget = preempt::Budget {
            namespace: "default".into(),
            selector: serde_json::from_value(json!({"matchLabels": {"app": "kept"}})).unwrap(),
            allowed: 0,
        };
        let high = named("high", json!({}), spec);
        assert_eq!(
            preempt::preempt(&high, &snapshot, &[budget]).unwrap().node,
            "n2"
        );
    }
}
