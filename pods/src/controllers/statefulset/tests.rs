//! The plan alone, against a world of lists.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

struct Sim {
    set: StatefulSet,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
}

fn now() -> Timestamp {
    "2026-11-21T10:00:10Z".parse().unwrap()
}

impl Sim {
    fn new(extra: Value) -> Self {
        let mut set = json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "set-1", "generation": 1},
            "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "a", "image": "one"}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}
        });
        json_patch::merge(&mut set["spec"], &extra);
        let set = serde_json::from_value(set).unwrap();
        Self {
            set,
            pods: Vec::new(),
            revisions: Vec::new(),
        }
    }

    fn step(&mut self, fails: u16) -> usize {
        let plan = plan(&self.set, &self.pods, &self.revisions, now());
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
        for (ordinal, revision) in &plan.create {
            if write() {
                self.pods
                    .push(pod::new_pod(&self.set, *ordinal, revision, &self.revisions));
            }
        }
        for name in &plan.delete {
            if write() {
                self.pods.retain(|p| p.metadata.name.as_ref() != Some(name));
            }
        }
        for name in &plan.surplus {
            if write() {
                self.revisions
                    .retain(|r| r.metadata.name.as_ref() != Some(name));
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

    fn run(&mut self) {
        for index in 0..self.pods.len() {
            self.mark(index, "Running", true);
        }
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            self.run();
            if self.step(0) == 0 {
                return;
            }
        }
        panic!("it goes on writing");
    }

    fn names(&self) -> Vec<String> {
        let mut all: Vec<_> = self.pods.iter().map(pod_name).collect();
        all.sort();
        all
    }

    fn image(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    fn images(&self) -> Vec<(String, String)> {
        let of = |p: &Pod| {
            (
                pod_name(p),
                p.spec.as_ref().unwrap().containers[0]
                    .image
                    .clone()
                    .unwrap(),
            )
        };
        let mut all: Vec<_> = self.pods.iter().map(of).collect();
        all.sort();
        all
    }
}

#[test]
fn pods_come_one_after_the_other_and_go_from_above() {
    let mut sim = Sim::new(json!({}));
    sim.step(0);
    sim.step(0);
    assert_eq!(sim.names(), ["db-0"]);
    sim.run();
    sim.step(0);
    assert_eq!(sim.names(), ["db-0", "db-1"]);
    sim.settle();
    assert_eq!(sim.names(), ["db-0", "db-1", "db-2"]);
    let volumes = sim.pods[0].spec.as_ref().unwrap().volumes.as_ref().unwrap();
    assert_eq!(
        volumes[0]
            .persistent_volume_claim
            .as_ref()
            .unwrap()
            .claim_name,
        "data-db-0"
    );
    sim.set.spec.as_mut().unwrap().replicas = Some(1);
    sim.run();
    sim.step(0);
    assert_eq!(sim.names(), ["db-0", "db-1"]);
    sim.settle();
    assert_eq!(sim.names(), ["db-0"]);
}

#[test]
fn parallel_waits_for_nobody() {
    let mut sim = Sim::new(json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    sim.step(0);
    assert_eq!(sim.names(), ["db-5", "db-6", "db-7"]);
}

#[test]
fn an_update_goes_from_above_down_to_the_partition() {
    let mut sim = Sim::new(json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}));
    sim.settle();
    sim.image("two");
    sim.run();
    sim.step(0);
    assert_eq!(sim.names(), ["db-0", "db-1"]);
    sim.settle();
    let at = |name: &str, image: &str| (name.to_owned(), image.to_owned());
    assert_eq!(
        sim.images(),
        [at("db-0", "one"), at("db-1", "two"), at("db-2", "two")]
    );
    let status = sim.set.status.clone().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
    // One below the partition comes back as it was.
    sim.pods.retain(|p| pod_name(p) != "db-0");
    sim.settle();
    assert_eq!(sim.images()[0], at("db-0", "one"));
    let rolling = sim
        .set
        .spec
        .as_mut()
        .unwrap()
        .update_strategy
        .as_mut()
        .unwrap();
    rolling.rolling_update.as_mut().unwrap().partition = Some(0);
    sim.settle();
    let status = sim.set.status.clone().unwrap();
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(status.updated_replicas, Some(3));
}

#[test]
fn going_back_uses_the_old_revision_again() {
    let mut sim = Sim::new(json!({"replicas": 1}));
    sim.settle();
    let first = sim.set.status.clone().unwrap().update_revision;
    sim.image("two");
    sim.settle();
    sim.image("one");
    sim.settle();
    assert_eq!(sim.set.status.clone().unwrap().update_revision, first);
    assert_eq!(sim.revisions.len(), 2);
    assert_eq!(sim.revisions.iter().map(|r| r.revision).max(), Some(3));
}

#[test]
fn a_failed_pod_is_made_anew_and_holds_up_those_above() {
    let mut sim = Sim::new(json!({}));
    sim.settle();
    sim.pods.sort_by_key(pod_name);
    sim.mark(0, "Failed", false);
    sim.step(0);
    assert_eq!(sim.names(), ["db-1", "db-2"]);
    sim.settle();
    assert_eq!(sim.names(), ["db-0", "db-1", "db-2"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn stateful_sets_converge_whatever_fails_and_then_write_nothing(
        parallel in any::<bool>(), partition in 0..3_i32,
        steps in proptest::collection::vec((any::<u16>(), 0..5_u8, 0..4_usize), 0..14)
    ) {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut sim = Sim::new(json!({"podManagementPolicy": policy, "updateStrategy": {"rollingUpdate": {"partition": partition}}}));
        for (fails, what, which) in steps {
            sim.step(fails);
            match what {
                0 => sim.run(),
                1 => sim.mark(which, "Failed", false),
                2 => sim.set.spec.as_mut().unwrap().replicas = Some(which as i32),
                3 => sim.image(["one", "two", "three", "four"][which]),
                _ => sim.mark(which, "Running", false),
            }
        }
        sim.settle();
        let replicas = sim.set.spec.as_ref().unwrap().replicas.unwrap();
        let names: Vec<String> = (0..replicas).map(|i| format!("db-{i}")).collect();
        prop_assert_eq!(sim.names(), names);
        prop_assert!(plan(&sim.set, &sim.pods, &sim.revisions, now()).is_quiet());
        let update = sim.set.status.as_ref().unwrap().update_revision.clone().unwrap();
        for pod in &sim.pods {
            let above = ordinal("db", pod).unwrap() >= partition;
            prop_assert!(!above || revision_of(pod) == update);
        }
    }
}
