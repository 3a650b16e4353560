//! The runtime's socket is lost for longer than anything waits, while the world goes on.

use std::time::{Duration, Instant};

use rrun_pods::api::{DeleteOptions, kinds};
use serde_json::{Value, json};

use super::machine::{LONGEST, Machine, condition};

/// A pod whose one container is called as the pod.
fn pod(name: &str, more: &Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 3,
        "containers": [{"name": name, "image": "i:1"}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

fn probed(name: &str) -> Value {
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1});
    let container =
        json!({"name": name, "image": "i:1", "livenessProbe": probe, "readinessProbe": probe});
    pod(name, &json!({"containers": [container]}))
}

impl Machine {
    async fn delete_named(&self, name: &str) {
        let options = DeleteOptions::default();
        let deleted = self.client.delete(&kinds::POD, "default", name, &options);
        deleted.await.unwrap();
    }

    async fn node_is_ready(&self, wanted: &str) {
        let begun = Instant::now();
        loop {
            let node = self.client.find(&kinds::NODE, "", "node").unwrap();
            if condition(node.value(), "Ready") == wanted {
                return;
            }
            assert!(begun.elapsed() < LONGEST, "{:#}", node.value()["status"]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ready_of(&self, name: &str) -> Value {
        self.until_of(name, "ready", |p| condition(p, "Ready") == "True")
            .await
    }

    async fn called(&self, call: &str) {
        let begun = Instant::now();
        while !self.fake.calls().iter().any(|c| c == call) {
            assert!(begun.elapsed() < LONGEST, "{call}: {:?}", self.fake.calls());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn times(&self, call: &str) -> usize {
        let calls = self.fake.calls();
        calls.iter().filter(|c| *c == call).count()
    }
}

fn restarts(pod: &Value) -> i64 {
    let of = &pod["status"]["containerStatuses"][0]["restartCount"];
    of.as_i64().unwrap()
}

/// What was asked for while nobody could answer is done once somebody can, and nothing else is.
#[tokio::test]
async fn a_lost_runtime_loses_nothing_and_runs_nothing_twice() {
    let mut machine = Machine::start().await;
    let never = json!({"restartPolicy": "Never"});
    machine.create_named("stays", probed("stays")).await;
    for name in ["dies", "gone"] {
        machine.create_named(name, pod(name, &json!({}))).await;
    }
    machine.create_named("once", pod("once", &never)).await;
    for name in ["stays", "dies", "gone", "once"] {
        machine.ready_of(name).await;
    }
    let held = machine
        .fake
        .world
        .lock()
        .unwrap()
        .held
        .insert("starts".into());
    assert!(held);
    machine.create_named("starts", pod("starts", &never)).await;
    machine.called("asked starts").await;

    machine.lose_runtime();
    machine.node_is_ready("False").await;
    machine.fake.world.lock().unwrap().held.clear();
    machine.fake.exit("dies", 1);
    machine.fake.exit("once", 0);
    machine.create_named("new", pod("new", &never)).await;
    machine.create_named("brief", pod("brief", &never)).await;
    machine.delete_named("gone").await;
    machine.delete_named("brief").await;
    // Longer than the probes' periods: what cannot be asked has not failed.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let stays = machine.ready_of("stays").await;
    assert_eq!(restarts(&stays), 0);
    let gone = machine.client.find(&kinds::POD, "default", "gone");
    assert!(gone.is_some(), "its container runs, as far as is known");

    machine.find_runtime();
    machine.node_is_ready("True").await;
    for name in ["stays", "new", "starts"] {
        assert_eq!(restarts(&machine.ready_of(name).await), 0, "{name}");
    }
    let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded";
    machine.until_of("once", "succeeded", ended).await;
    let again = |pod: &Value| condition(pod, "Ready") == "True" && restarts(pod) == 1;
    machine.until_of("dies", "restarted", again).await;
    for name in ["gone", "brief"] {
        machine.until_of(name, "gone", Value::is_null).await;
    }
    for (name, times) in [
        ("stays", 1),
        ("once", 1),
        ("new", 1),
        ("starts", 1),
        ("gone", 1),
        ("dies", 1),
        ("brief", 0),
    ] {
        assert_eq!(machine.times(&format!("create {name} 0")), times, "{name}");
    }
    assert_eq!(machine.times("create dies 1"), 1);
    assert_eq!(machine.times("stop 3"), 1, "{:?}", machine.fake.calls());
}

/// A start that the loss cut off is no failure of the container's: with a back-off that grows to
/// forty seconds the last of these would be waited for in vain.
#[tokio::test]
async fn a_start_that_was_cut_off_is_not_held_against_the_container() {
    let mut machine = Machine::start().await;
    machine.fake.world.lock().unwrap().held.insert("a".into());
    machine.create(pod("a", &json!({}))).await;
    for _ in 0..4 {
        machine.called("asked a").await;
        machine.fake.world.lock().unwrap().calls.clear();
        machine.lose_runtime();
        machine.node_is_ready("False").await;
        machine.find_runtime();
    }
    machine.fake.world.lock().unwrap().held.clear();
    machine.ready().await;
    assert_eq!(machine.times("create a 0"), 1);
}
