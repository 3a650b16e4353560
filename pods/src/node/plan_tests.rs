use super::*;
use rrun_cri_api::v1 as cri;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn now() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

fn nanoseconds(second: i64) -> i64 {
    (now().as_second() + second) * 1_000_000_000
}

fn sandbox(ready: bool) -> cri::PodSandboxStatus {
    let state = if ready {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    };
    cri::PodSandboxStatus {
        id: "s".into(),
        state: state.into(),
        created_at: nanoseconds(-100),
        metadata: Some(cri::PodSandboxMetadata::default()),
        ..Default::default()
    }
}

/// A container that runs (`None`), or ended with a code five seconds ago.
fn container(name: &str, code: Option<i32>, restarts: u32) -> cri::ContainerStatus {
    let state = if code.is_some() {
        ContainerState::ContainerExited
    } else {
        ContainerState::ContainerRunning
    };
    cri::ContainerStatus {
        id: format!("{name}-{restarts}"),
        metadata: Some(cri::ContainerMetadata {
            name: name.into(),
            attempt: restarts,
        }),
        state: state.into(),
        created_at: nanoseconds(-50),
        started_at: nanoseconds(-50),
        finished_at: if code.is_some() { nanoseconds(-5) } else { 0 },
        exit_code: code.unwrap_or(0),
        ..Default::default()
    }
}

fn plan_of(pod: &Pod, containers: Vec<cri::ContainerStatus>, memory: &Memory) -> Plan {
    plan(
        pod,
        &Runtime::new(vec![sandbox(true)], containers),
        memory,
        now(),
    )
}

fn started(plan: &Plan) -> Vec<(String, u32)> {
    let starts = plan.actions.iter().filter_map(|action| match action {
        Action::Start {
            container,
            restarts,
            ..
        } => Some((container.name.clone(), *restarts)),
        _ => None,
    });
    starts.collect()
}

fn two() -> Pod {
    pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}))
}

#[test]
fn a_pod_begins_with_its_sandbox() {
    let plan = plan(&two(), &Runtime::default(), &Memory::default(), now());
    assert_eq!(plan.actions, [Action::Sandbox { attempt: 0 }]);
}

#[test]
fn containers_start_beside_each_other() {
    let plan = plan_of(&two(), vec![], &Memory::default());
    assert_eq!(started(&plan), [("a".into(), 0), ("b".into(), 0)]);
}

#[test]
fn what_runs_is_left_alone() {
    let running = vec![container("a", None, 0), container("b", None, 3)];
    let plan = plan_of(&two(), running, &Memory::default());
    assert!(plan.actions.is_empty() && plan.wake.is_none() && !plan.ended);
}

#[test]
fn the_first_restart_is_at_once_and_the_second_waits() {
    let crashed = || vec![container("a", Some(137), 0), container("b", None, 0)];
    let mut memory = Memory::default();
    assert_eq!(
        started(&plan_of(&two(), crashed(), &memory)),
        [("a".into(), 1)]
    );
    memory
        .parts
        .entry("a".into())
        .or_default()
        .crashes
        .next(now());
    let waiting = plan_of(&two(), crashed(), &memory);
    assert!(started(&waiting).is_empty());
    assert_eq!(waiting.wake.unwrap().as_second() - now().as_second(), 5);
}

#[test]
fn restart_policies() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 1, false),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let plan = plan_of(
            &pod,
            vec![container("a", Some(code), 0)],
            &Memory::default(),
        );
        assert_eq!(!started(&plan).is_empty(), again, "{policy} {code}");
        assert_eq!(plan.ended, !again, "{policy} {code}");
    }
}

fn with_init(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy,
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
        "containers": [{"name": "a"}]}))
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let pod = with_init("Always");
    let mut memory = Memory::default();
    assert_eq!(started(&plan_of(&pod, vec![], &memory)), [("i1".into(), 0)]);
    let mut have = vec![container("i1", Some(0), 0)];
    assert_eq!(
        started(&plan_of(&pod, have.clone(), &memory)),
        [("side".into(), 0)]
    );
    have.push(container("side", None, 0));
    assert!(
        started(&plan_of(&pod, have.clone(), &memory)).is_empty(),
        "the sidecar is to start first"
    );
    memory.parts.entry("side".into()).or_default().started = true;
    assert_eq!(
        started(&plan_of(&pod, have.clone(), &memory)),
        [("i2".into(), 0)]
    );
    have.push(container("i2", Some(0), 0));
    assert_eq!(
        started(&plan_of(&pod, have.clone(), &memory)),
        [("a".into(), 0)]
    );
    have.push(container("a", None, 0));
    have.retain(|c| c.metadata.as_ref().unwrap().name != "side");
    have.push(container("side", Some(1), 0));
    assert_eq!(started(&plan_of(&pod, have, &memory)), [("side".into(), 1)]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let failed = vec![container("i1", Some(1), 0)];
    assert!(plan_of(&with_init("Never"), failed.clone(), &Memory::default()).ended);
    let again = plan_of(&with_init("OnFailure"), failed, &Memory::default());
    assert_eq!(started(&again), [("i1".into(), 1)]);
}

#[test]
fn a_lost_sandbox_is_replaced_and_everything_starts_in_the_new_one() {
    let pod = two();
    let old = vec![container("a", Some(137), 2), container("b", Some(137), 0)];
    let runtime = Runtime::new(vec![sandbox(false)], old.clone());
    let first = plan(&pod, &runtime, &Memory::default(), now());
    assert_eq!(first.actions, [Action::Sandbox { attempt: 1 }]);
    let mut fresh = sandbox(true);
    fresh.created_at = nanoseconds(-1);
    let runtime = Runtime::new(vec![fresh, sandbox(false)], old);
    let second = plan(&pod, &runtime, &Memory::default(), now());
    assert_eq!(started(&second), [("a".into(), 3), ("b".into(), 1)]);
}

#[test]
fn a_condemned_container_is_killed_and_one_that_is_busy_is_left() {
    let mut memory = Memory::default();
    let part = memory.parts.entry("a".into()).or_default();
    part.id = "a-0".into();
    part.condemned = Some(("liveness".into(), "no".into()));
    let running = || vec![container("a", None, 0), container("b", None, 0)];
    let plan = plan_of(&two(), running(), &memory);
    assert!(matches!(&plan.actions[..], [Action::Kill { name, .. }] if name == "a"));
    memory.busy.insert("a".into());
    assert!(plan_of(&two(), running(), &memory).actions.is_empty());
}

#[test]
fn a_changed_image_replaces_the_container() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "new"}]}));
    let mut running = container("a", None, 0);
    running
        .annotations
        .insert(crate::node::names::HASH.into(), "old".into());
    let plan = plan_of(&pod, vec![running], &Memory::default());
    assert!(matches!(&plan.actions[..], [Action::Kill { .. }]));
}

#[test]
fn old_containers_are_forgotten_but_for_the_last_one() {
    let all = vec![
        container("a", None, 3),
        container("a", Some(1), 2),
        container("a", Some(1), 1),
        container("b", None, 0),
    ];
    let plan = plan_of(&two(), all, &Memory::default());
    assert_eq!(plan.actions, [Action::Remove { id: "a-1".into() }]);
}

#[test]
fn a_deadline_ends_the_pod() {
    let mut pod = pod(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}));
    let status = json!({"startTime": "2026-11-21T09:59:10Z"});
    pod.status = serde_json::from_value(status).unwrap();
    let before = plan_of(&pod, vec![container("a", None, 0)], &Memory::default());
    assert_eq!(before.wake.unwrap().as_second() - now().as_second(), 10);
    let status = json!({"startTime": "2026-11-21T09:59:00Z"});
    pod.status = serde_json::from_value(status).unwrap();
    assert!(plan_of(&pod, vec![container("a", None, 0)], &Memory::default()).ended);
}
