//! The plan alone, against a world of lists and a clock that moves when it is told to.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

struct Sim {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: Timestamp,
}

fn job(extra: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "pi", "namespace": "default", "uid": "job-1", "generation": 1},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "suspend": false, "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"job": "1"}},
            "template": {"metadata": {"labels": {"job": "1"}},
                         "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]}}}
    });
    json_patch::merge(&mut job["spec"], &extra);
    serde_json::from_value(job).unwrap()
}

impl Sim {
    fn new(extra: Value) -> Self {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        Self {
            job: job(extra),
            pods: Vec::new(),
            made: 0,
            now,
        }
    }

    /// One look; writes of which `fails` says so are not made. How many there were.
    fn step(&mut self, fails: u16) -> usize {
        let plan = plan(&self.job, &self.pods, self.now);
        let mut writes = 0;
        let mut write = || {
            writes += 1;
            fails >> (writes % 16) & 1 == 0
        };
        if let Some(status) = &plan.status {
            if !write() {
                return writes;
            }
            self.job.status = Some(status.clone());
        }
        for name in plan.let_go.iter().chain(&plan.delete) {
            if !write() {
                return writes;
            }
            self.edit(name, |pod| pod.metadata.finalizers = None);
        }
        for name in &plan.delete {
            if !write() {
                return writes;
            }
            self.pods
                .retain(|p| p.metadata.name.as_deref() != Some(name));
        }
        for wanted in &plan.create {
            if write() {
                self.made += 1;
                let mut pod = new_pod(&self.job, wanted);
                pod.metadata.name = Some(format!("pod-{:03}", self.made));
                pod.metadata.uid = Some(format!("uid-{}", self.made));
                pod.metadata.creation_timestamp = Some(Time(self.now));
                self.pods.push(pod);
            }
        }
        writes
    }

    /// One look; the clock moves on where there is nothing to do.
    fn tick(&mut self) {
        if self.step(0) == 0 {
            let seconds = plan(&self.job, &self.pods, self.now)
                .again_after
                .unwrap_or(1);
            self.now += jiff::SignedDuration::from_secs(seconds);
        }
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self
            .pods
            .iter_mut()
            .find(|p| p.metadata.name.as_deref() == Some(name))
        {
            change(pod);
        }
    }

    fn settle(&mut self) {
        for _ in 0..30 {
            if self.step(0) == 0 {
                return;
            }
        }
        panic!("it goes on writing");
    }

    /// Ends every pod that runs.
    fn end_all(&mut self, phase: &str, code: i32) {
        let at = self.now.to_string();
        for pod in self
            .pods
            .iter_mut()
            .filter(|p| super::phase(p) == Phase::Active)
        {
            pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": code, "finishedAt": at}}}]}))
            .unwrap();
        }
    }

    fn active(&self) -> usize {
        self.pods
            .iter()
            .filter(|p| super::phase(p) == Phase::Active)
            .count()
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn ended(&self) -> Option<(String, String)> {
        let status = self.status();
        let end = status
            .conditions
            .into_iter()
            .flatten()
            .find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"))?;
        Some((end.type_, end.reason.unwrap_or_default()))
    }
}

#[test]
fn as_many_run_as_asked_and_all_are_counted() {
    let mut sim = Sim::new(json!({"parallelism": 2, "completions": 5}));
    for (running, done) in [(2, 0), (2, 2), (1, 4)] {
        sim.settle();
        assert_eq!(
            (sim.active(), sim.status().succeeded.unwrap_or(0)),
            (running, done)
        );
        sim.end_all("Succeeded", 0);
    }
    sim.settle();
    assert_eq!(sim.status().succeeded, Some(5));
    assert_eq!(
        sim.ended().unwrap(),
        ("Complete".into(), "CompletionsReached".into())
    );
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()));
}

#[test]
fn indexes_are_each_done_once() {
    let mut sim =
        Sim::new(json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"}));
    sim.settle();
    assert_eq!(sim.active(), 3);
    sim.end_all("Succeeded", 0);
    sim.settle();
    assert_eq!(sim.status().completed_indexes.as_deref(), Some("0-2"));
    let pod = sim
        .pods
        .iter()
        .find(|p| super::phase(p) == Phase::Active)
        .unwrap();
    assert_eq!(pod.metadata.annotations.as_ref().unwrap()[INDEX], "3");
    assert_eq!(pod.spec.as_ref().unwrap().hostname.as_deref(), Some("pi-3"));
    sim.end_all("Succeeded", 0);
    sim.settle();
    assert_eq!(sim.ended().unwrap().0, "Complete");
}

#[test]
fn failures_back_off_up_to_the_limit() {
    let mut sim = Sim::new(json!({"backoffLimit": 1}));
    sim.settle();
    let start = sim.now;
    sim.end_all("Failed", 1);
    while sim.active() == 0 {
        sim.tick();
    }
    assert!(sim.now.as_second() - start.as_second() >= 10);
    sim.end_all("Failed", 1);
    sim.settle();
    assert_eq!(
        sim.ended().unwrap(),
        ("Failed".into(), "BackoffLimitExceeded".into())
    );
    assert_eq!(sim.status().failed, Some(2));
}

#[test]
fn an_index_has_a_limit_of_its_own() {
    let mut sim = Sim::new(
        json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed",
        "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1}),
    );
    for _ in 0..60 {
        sim.tick();
        let index = |p: &Pod| p.metadata.annotations.as_ref().unwrap()[INDEX].clone();
        let at = sim.now.to_string();
        for pod in sim
            .pods
            .iter_mut()
            .filter(|p| super::phase(p) == Phase::Active)
        {
            let phase = if index(pod) == "0" {
                "Succeeded"
            } else {
                "Failed"
            };
            pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}))
            .unwrap();
        }
    }
    assert_eq!(
        sim.ended().unwrap(),
        ("Failed".into(), "FailedIndexes".into())
    );
    let status = sim.status();
    assert_eq!(
        (
            status.completed_indexes.as_deref(),
            status.failed_indexes.as_deref()
        ),
        (Some("0"), Some("1"))
    );
    assert_eq!(sim.made, 3);
}

#[test]
fn rules_of_failure_decide_by_exit_code() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}]);
    let mut sim = Sim::new(json!({"podFailurePolicy": {"rules": rules}}));
    sim.settle();
    sim.end_all("Failed", 7);
    for _ in 0..20 {
        sim.tick();
    }
    assert_eq!((sim.status().failed, sim.active()), (None, 1));
    sim.end_all("Failed", 42);
    sim.settle();
    assert_eq!(
        sim.ended().unwrap(),
        ("Failed".into(), "PodFailurePolicy".into())
    );
    let conditions = sim.status().conditions.unwrap();
    let message = conditions[0].message.as_deref().unwrap();
    assert_eq!(
        message,
        "Container a for pod default/pod-002 failed with exit code 42 matching FailJob rule at index 0"
    );
}

#[test]
fn a_deadline_ends_a_job_and_its_time_to_live_removes_it() {
    let mut sim = Sim::new(json!({"activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 100}));
    sim.settle();
    let plan_now = plan(&sim.job, &sim.pods, sim.now);
    assert!(plan_now.again_after.is_some_and(|s| s <= 30));
    sim.now += jiff::SignedDuration::from_secs(31);
    sim.settle();
    assert_eq!(
        sim.ended().unwrap(),
        ("Failed".into(), "DeadlineExceeded".into())
    );
    assert_eq!(sim.active(), 0);
    let waits = plan(&sim.job, &sim.pods, sim.now);
    assert!(!waits.remove && waits.again_after.is_some());
    sim.now += jiff::SignedDuration::from_secs(101);
    assert!(plan(&sim.job, &sim.pods, sim.now).remove);
}

#[test]
fn a_suspended_job_runs_nothing_and_counts_nothing() {
    let mut sim = Sim::new(json!({"parallelism": 2, "completions": 2}));
    sim.settle();
    assert_eq!(sim.active(), 2);
    sim.job.spec.as_mut().unwrap().suspend = Some(true);
    sim.settle();
    assert_eq!(
        (sim.active(), sim.status().failed, sim.status().start_time),
        (0, None, None)
    );
    sim.job.spec.as_mut().unwrap().suspend = Some(false);
    sim.settle();
    assert_eq!(sim.active(), 2);
    assert!(sim.status().start_time.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn jobs_converge_whatever_fails_and_then_write_nothing(
        parallelism in 1..4_i32, completions in 1..6_i32, indexed in any::<bool>(),
        steps in proptest::collection::vec((any::<u16>(), 0..4_u8), 0..12)
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut sim = Sim::new(json!({"parallelism": parallelism, "completions": completions, "completionMode": mode}));
        for (fails, what) in steps {
            sim.step(fails);
            prop_assert!(sim.active() <= parallelism as usize);
            match what {
                0 => sim.end_all("Succeeded", 0),
                1 => sim.end_all("Failed", 1),
                _ => {}
            }
        }
        for _ in 0..400 {
            if sim.ended().is_some() {
                break;
            }
            sim.tick();
            sim.end_all("Succeeded", 0);
        }
        sim.settle();
        let (end, _) = sim.ended().unwrap();
        if end == "Complete" {
            prop_assert!(sim.status().succeeded.unwrap_or(0) >= completions);
        }
        prop_assert!(plan(&sim.job, &sim.pods, sim.now).is_quiet());
        prop_assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()));
    }
}
