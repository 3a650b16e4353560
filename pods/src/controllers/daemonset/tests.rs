//! The plan alone, against a world of lists.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

struct Sim {
    set: DaemonSet,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
    made: usize,
}

fn now() -> Timestamp {
    "2026-11-21T10:00:10Z".parse().unwrap()
}

fn node(name: &str, extra: Value) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {}});
    json_patch::merge(&mut node, &extra);
    serde_json::from_value(node).unwrap()
}

impl Sim {
    fn new(extra: Value) -> Self {
        let mut set = json!({
            "metadata": {"name": "agent", "namespace": "default", "uid": "ds-1", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "a"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "one"}]}}}
        });
        json_patch::merge(&mut set["spec"], &extra);
        let nodes = ["n1", "n2", "n3"].map(|n| node(n, json!({}))).to_vec();
        let set = serde_json::from_value(set).unwrap();
        Self {
            set,
            nodes,
            pods: vec![],
            revisions: vec![],
            made: 0,
        }
    }

    fn step(&mut self, fails: u16) -> usize {
        let plan = plan(&self.set, &self.nodes, &self.pods, &self.revisions, now());
        let mut writes = 0;
        let mut write = || {
            writes += 1;
            fails >> (writes % 16) & 1 == 0
        };
        if let Some(revision) = &plan.revisions.create {
            if !write() {
                return writes;
            }
            self.revisions.push((**revision).clone());
        }
        if let Some((name, number)) = &plan.revisions.renumber
            && write()
        {
            let found = self
                .revisions
                .iter_mut()
                .find(|r| r.metadata.name.as_ref() == Some(name));
            found.unwrap().revision = *number;
        }
        for node in &plan.create {
            if write() {
                self.made += 1;
                let mut pod = new_pod(&self.set, node, &plan.revisions.update);
                pod.metadata.name = Some(format!("agent-{:03}", self.made));
                self.pods.push(pod);
            }
        }
        for gone in &plan.delete {
            if write() {
                self.pods.retain(|p| name(p) != *gone);
            }
        }
        for gone in &plan.surplus {
            if write() {
                self.revisions
                    .retain(|r| r.metadata.name.as_ref() != Some(gone));
            }
        }
        if let Some(status) = plan.status
            && write()
        {
            self.set.status = Some(status);
        }
        writes
    }

    fn mark(&mut self, index: usize, phase: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        if let Some(pod) = self.pods.get_mut(index) {
            pod.status = serde_json::from_value(json!({"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-21T10:00:00Z"}]}))
            .unwrap();
        }
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            (0..self.pods.len()).for_each(|i| self.mark(i, "Running", true));
            if self.step(0) == 0 {
                return;
            }
        }
        panic!("it goes on writing");
    }

    fn image(&mut self, image: &str) {
        let template = &mut self.set.spec.as_mut().unwrap().template;
        template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    fn on(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.pods.iter().filter_map(node_of).collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn every_node_has_one_that_selector_and_taints_allow() {
    let mut sim = Sim::new(json!({"template": {"spec": {"nodeSelector": {"os": "linux"}}}}));
    sim.nodes[1] = node("n2", json!({"metadata": {"labels": {"os": "other"}}}));
    let cordoned = json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
    sim.nodes[2] = node("n3", cordoned);
    sim.settle();
    assert_eq!(sim.on(), ["n1", "n3"]);
    sim.nodes[0] = node(
        "n1",
        json!({"spec": {"taints": [{"key": "own", "effect": "NoExecute"}]}}),
    );
    sim.settle();
    assert_eq!(sim.on(), ["n3"]);
    let status = sim.set.status.clone().unwrap();
    assert_eq!(
        (status.desired_number_scheduled, status.number_ready),
        (1, 1)
    );
}

#[test]
fn an_update_takes_one_node_at_a_time() {
    let mut sim = Sim::new(json!({}));
    sim.settle();
    sim.image("two");
    sim.step(0);
    assert_eq!(sim.pods.len(), 2);
    sim.step(0);
    assert_eq!(sim.pods.len(), 3);
    // Not ready yet: the next one waits.
    sim.step(0);
    assert_eq!(sim.pods.len(), 3);
    sim.settle();
    assert_eq!(
        sim.set.status.as_ref().unwrap().updated_number_scheduled,
        Some(3)
    );
}

#[test]
fn a_surge_puts_the_new_one_beside_the_old() {
    let mut sim = Sim::new(
        json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}),
    );
    sim.settle();
    sim.image("two");
    sim.step(0);
    assert_eq!(sim.pods.len(), 4);
    sim.settle();
    assert_eq!(sim.on(), ["n1", "n2", "n3"]);
    assert_eq!(
        sim.set.status.as_ref().unwrap().updated_number_scheduled,
        Some(3)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn daemon_sets_converge_whatever_fails_and_then_write_nothing(
        surge in any::<bool>(),
        steps in proptest::collection::vec((any::<u16>(), 0..5_u8, 0..3_usize), 0..14)
    ) {
        let rolling = if surge { json!({"maxSurge": 1, "maxUnavailable": 0}) } else { json!({"maxSurge": 0, "maxUnavailable": 1}) };
        let mut sim = Sim::new(json!({"updateStrategy": {"rollingUpdate": rolling}}));
        for (fails, what, which) in steps {
            sim.step(fails);
            match what {
                0 => sim.mark(which, "Failed", false),
                1 => sim.mark(which, "Running", true),
                2 => sim.image(["one", "two", "three"][which]),
                3 => sim.nodes.retain(|n| n.metadata.name.as_deref() != Some(["n1", "n2", "n3"][which])),
                _ => sim.mark(which, "Running", false),
            }
        }
        sim.settle();
        let mut names: Vec<&str> = sim.nodes.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
        names.sort_unstable();
        prop_assert_eq!(sim.on(), names);
        let plan = plan(&sim.set, &sim.nodes, &sim.pods, &sim.revisions, now());
        prop_assert!(plan.is_quiet());
        prop_assert!(sim.pods.iter().all(|p| is_of(p, &plan.revisions.update)));
    }
}
