//! The node agent against a fake runtime behind a real CRI socket, and the API in the process.
#![allow(missing_docs, clippy::unwrap_used)]

mod fake;
mod machine;
mod outage;

use std::time::{Duration, Instant};

use machine::{LONGEST, Machine, condition, first, simple};
use rrun_pods::api::{DeleteOptions, kinds};
use serde_json::{Value, json};

#[tokio::test]
async fn a_pod_runs_and_its_status_reads_like_a_kubelets() {
    let machine = Machine::start().await;
    machine.create(simple()).await;
    let pod = machine.ready().await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "127.0.0.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert!(
        first(&pod)["containerID"]
            .as_str()
            .unwrap()
            .starts_with("fake://")
    );
    for kind in [
        "Initialized",
        "ContainersReady",
        "PodScheduled",
        "PodReadyToStartContainers",
    ] {
        assert_eq!(condition(&pod, kind), "True", "{kind}");
    }
    let version = pod["metadata"]["resourceVersion"].clone();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        machine.pod()["metadata"]["resourceVersion"],
        version,
        "nothing is written at rest"
    );
}

#[tokio::test]
async fn a_crash_is_healed_at_once_and_the_second_one_waits() {
    let machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    let begun = Instant::now();
    machine.fake.exit("a", 137);
    let pod = machine
        .until("restarted", |pod| {
            first(pod)["restartCount"] == 1 && first(pod)["ready"] == true
        })
        .await;
    // The first back-off is ten seconds.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "took {took:?}");
    let last = &first(&pod)["lastState"]["terminated"];
    assert_eq!(
        (last["exitCode"].as_i64(), last["reason"].as_str()),
        (Some(137), Some("Error"))
    );
    machine.fake.exit("a", 1);
    let pod = machine
        .until("back-off", |pod| {
            first(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let message = first(&pod)["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.starts_with("back-off 10s restarting failed container=a pod=p_default("),
        "{message}"
    );
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test]
async fn nothing_is_restarted_when_the_manager_or_the_runtime_was_killed() {
    let mut machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    let id = machine.fake.running("a").unwrap();
    machine.restart_agent().await;
    machine.lose_runtime();
    tokio::time::sleep(Duration::from_millis(200)).await;
    machine.find_runtime();
    machine.restart_agent().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pod = machine.ready().await;
    assert_eq!(machine.fake.running("a"), Some(id));
    assert_eq!(first(&pod)["restartCount"], 0);
    assert_eq!(machine.creations(), 1);
}

#[tokio::test]
async fn what_died_while_nobody_looked_is_healed() {
    let mut machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    machine.lose_runtime();
    machine.fake.exit("a", 9);
    machine.find_runtime();
    machine
        .until("restarted", |pod| {
            first(pod)["restartCount"] == 1 && first(pod)["ready"] == true
        })
        .await;
}

#[tokio::test]
async fn a_deleted_pod_ends_with_its_grace_and_leaves_nothing() {
    let machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    let options = DeleteOptions::default();
    machine
        .client
        .delete(&kinds::POD, "default", "p", &options)
        .await
        .unwrap();
    machine.until("gone", Value::is_null).await;
    assert!(
        machine.fake.calls().contains(&"stop 7".to_owned()),
        "{:?}",
        machine.fake.calls()
    );
    let world = machine.fake.world.lock().unwrap();
    assert!(world.sandboxes.is_empty() && world.containers.is_empty());
    let pods = machine.dir.path().join("node/pods");
    assert_eq!(std::fs::read_dir(pods).map_or(0, Iterator::count), 0);
}

/// A pod that is being deleted with half an hour of grace, and uses it.
async fn lingering(machine: &Machine, more: Value) -> String {
    let deaf = ["a".to_owned(), "side".to_owned()];
    machine.fake.world.lock().unwrap().deaf.extend(deaf);
    let mut spec = json!({"terminationGracePeriodSeconds": 1800,
        "containers": [{"name": "a", "image": "i:1"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    machine.create(spec).await;
    let pod = machine.ready().await;
    delete(machine, None).await;
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn delete(machine: &Machine, grace: Option<i64>) {
    let options = DeleteOptions {
        grace_period_seconds: grace,
        ..DeleteOptions::default()
    };
    let deleted = machine
        .client
        .delete(&kinds::POD, "default", "p", &options)
        .await;
    deleted.unwrap();
}

#[tokio::test]
async fn a_grace_that_is_shortened_while_a_pod_ends_reaches_the_runtime() {
    let machine = Machine::start().await;
    lingering(&machine, json!({})).await;
    let called = |call: &'static str| {
        let fake = machine.fake.clone();
        move |_: &Value| fake.calls().iter().any(|c| c == call)
    };
    machine.until("asked to end", called("stop 1800")).await;
    // More is not given, and the same again is not asked for.
    delete(&machine, Some(3600)).await;
    delete(&machine, Some(1)).await;
    machine.until("asked again", called("stop 1")).await;
    machine.until("gone", Value::is_null).await;
    let calls = machine.fake.calls();
    let stops: Vec<_> = calls.iter().filter(|c| c.starts_with("stop ")).collect();
    assert_eq!(stops, ["stop 1800", "stop 1", "stop sandbox"]);
}

#[tokio::test]
async fn a_forced_delete_ends_a_pod_at_once_and_leaves_its_name_free() {
    let machine = Machine::start().await;
    let hook = json!({"containers": [{"name": "a", "image": "i:1"}],
        "initContainers": [{"name": "side", "image": "i:1", "restartPolicy": "Always"}]});
    let uid = lingering(&machine, hook).await;
    let asked = |_: &Value| machine.fake.calls().contains(&"stop 1800".to_owned());
    machine.until("asked to end", asked).await;
    delete(&machine, Some(0)).await;
    assert!(machine.pod().is_null(), "the object does not wait");
    machine.create(simple()).await;
    let pod = machine.ready().await;
    assert_ne!(pod["metadata"]["uid"], json!(uid));
    let gone = |_: &Value| {
        let world = machine.fake.world.lock().unwrap();
        world.sandboxes.len() == 1 && world.containers.len() == 1
    };
    machine.until("nothing of the old one", gone).await;
    let calls = machine.fake.calls();
    let stops = calls.iter().filter(|c| c.starts_with("stop "));
    let stops: Vec<_> = stops.map(String::as_str).collect();
    assert_eq!(stops, ["stop 1800", "stop 0", "stop 0", "stop sandbox"]);
    assert_eq!(condition(&machine.ready().await, "Ready"), "True");
}

#[tokio::test]
async fn what_the_api_does_not_know_is_removed() {
    let mut machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    machine.agent.abort();
    let uid = machine.pod()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let options = DeleteOptions::now(&uid);
    machine
        .client
        .delete(&kinds::POD, "default", "p", &options)
        .await
        .unwrap();
    machine.restart_agent().await;
    let begun = Instant::now();
    while !machine.fake.world.lock().unwrap().sandboxes.is_empty() {
        assert!(begun.elapsed() < LONGEST, "{:?}", machine.fake.calls());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn init_containers_run_first_and_a_job_like_pod_succeeds() {
    let machine = Machine::start().await;
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [{"name": "init", "image": "i:1"}],
        "containers": [{"name": "a", "image": "i:1"}]});
    machine.create(spec).await;
    machine
        .until("init runs", |_| machine.fake.running("init").is_some())
        .await;
    assert_eq!(machine.fake.running("a"), None);
    let pod = machine
        .until("initializing", |p| {
            first(p)["state"]["waiting"]["reason"] == "PodInitializing"
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    machine.fake.exit("init", 0);
    machine
        .until("main runs", |_| machine.fake.running("a").is_some())
        .await;
    machine.fake.exit("a", 0);
    let pod = machine
        .until("over", |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    assert_eq!(first(&pod)["state"]["terminated"]["reason"], "Completed");
    assert_eq!(condition(&pod, "Ready"), "False");
    let over = |_: &Value| machine.fake.calls().contains(&"stop sandbox".to_owned());
    machine.until("the sandbox is stopped", over).await;
}

#[tokio::test]
async fn a_config_that_is_missing_is_waited_for_and_changes_reach_files() {
    let machine = Machine::start().await;
    let spec = json!({"containers": [{"name": "a", "image": "i:1",
            "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "color"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "cm"}}]});
    machine.create(spec).await;
    machine
        .until("pending", |pod| pod["status"]["phase"] == "Pending")
        .await;
    let map = |color: &str| json!({"metadata": {"name": "cm"}, "data": {"color": color}});
    machine
        .client
        .create(&kinds::CONFIG_MAP, "default", map("blue"))
        .await
        .unwrap();
    machine.ready().await;
    let config = machine.fake.config("a");
    let color = config.envs.iter().find(|e| e.key == "COLOR").unwrap();
    assert_eq!(color.value, b"blue");
    let mount = config
        .mounts
        .iter()
        .find(|m| m.container_path == "/v")
        .unwrap();
    let file = std::path::Path::new(&mount.host_path).join("color");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "blue");
    machine
        .client
        .update(&kinds::CONFIG_MAP, "default", map("green"))
        .await
        .unwrap();
    machine
        .until("the file follows", |_| {
            std::fs::read_to_string(&file).unwrap() == "green"
        })
        .await;
}

#[tokio::test]
async fn probes_gate_readiness_and_a_failing_liveness_probe_restarts() {
    let calls = probe(true).await;
    assert!(calls.iter().any(|call| call == "repeat alive"), "{calls:?}");
    assert!(!calls.iter().any(|call| call == "exec alive"), "{calls:?}");
}

#[tokio::test]
async fn probes_are_asked_one_by_one_where_the_runtime_repeats_none() {
    let calls = probe(false).await;
    assert!(calls.iter().any(|call| call == "exec alive"), "{calls:?}");
}

/// What the runtime was called for.
async fn probe(repeats: bool) -> Vec<String> {
    let machine = Machine::start().await;
    machine.fake.world.lock().unwrap().repeats = repeats;
    machine
        .fake
        .world
        .lock()
        .unwrap()
        .commands
        .insert("ready".into(), 1);
    let spec = json!({"containers": [{"name": "a", "image": "i:1",
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}}]});
    machine.create(spec).await;
    machine
        .until("runs", |pod| first(pod)["started"] == true)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(condition(&machine.pod(), "Ready"), "False");
    machine
        .fake
        .world
        .lock()
        .unwrap()
        .commands
        .insert("ready".into(), 0);
    machine.ready().await;
    machine
        .fake
        .world
        .lock()
        .unwrap()
        .commands
        .insert("alive".into(), 1);
    machine
        .until("restarted", |pod| first(pod)["restartCount"] == 1)
        .await;
    machine.fake.calls()
}

#[tokio::test]
async fn an_image_that_does_not_pull_is_told_and_backed_off() {
    let machine = Machine::start().await;
    let broken = ("i:1".to_owned(), "manifest unknown".to_owned());
    machine
        .fake
        .world
        .lock()
        .unwrap()
        .broken_images
        .extend([broken]);
    machine.create(simple()).await;
    let pod = machine
        .until("told", |pod| {
            first(pod)["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    let message = first(&pod)["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(message, "failed to pull image \"i:1\": manifest unknown");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pulls = machine
        .fake
        .calls()
        .iter()
        .filter(|c| c.starts_with("pull"))
        .count();
    assert_eq!(pulls, 1, "the next pull waits");
}

#[tokio::test]
async fn hooks_run_around_a_container() {
    let machine = Machine::start().await;
    let spec = json!({"containers": [{"name": "a", "image": "i:1", "lifecycle": {
        "postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}}}]});
    let held = |word: &str| {
        machine
            .fake
            .world
            .lock()
            .unwrap()
            .held
            .insert(word.to_owned())
    };
    held("hello");
    machine.create(spec).await;
    let begun = || machine.fake.calls().contains(&"begin hello".to_owned());
    let pod = machine.until("begun", |pod| begun() && !first(pod).is_null());
    // It runs, and is not ready before its hook is over.
    let pod = pod.await;
    assert_eq!(
        first(&pod)["state"]["waiting"]["reason"],
        "ContainerCreating",
        "{pod}"
    );
    assert_eq!(first(&pod)["ready"], false);
    machine.fake.world.lock().unwrap().held.clear();
    machine.ready().await;
    assert!(machine.fake.calls().contains(&"exec hello".to_owned()));
    let options = DeleteOptions::default();
    machine
        .client
        .delete(&kinds::POD, "default", "p", &options)
        .await
        .unwrap();
    machine.until("gone", Value::is_null).await;
    let calls = machine.fake.calls();
    let at = |what: &str| calls.iter().position(|c| c.starts_with(what)).unwrap();
    assert!(at("exec bye") < at("stop"), "{calls:?}");
}

#[tokio::test]
async fn a_lost_sandbox_comes_back_with_its_containers() {
    let machine = Machine::start().await;
    machine.create(simple()).await;
    machine.ready().await;
    {
        let mut world = machine.fake.world.lock().unwrap();
        for sandbox in world.sandboxes.values_mut() {
            sandbox.set_state(rrun_cri_api::v1::PodSandboxState::SandboxNotready);
        }
    }
    machine.fake.exit("a", 137);
    machine
        .until("restarted", |pod| {
            first(pod)["restartCount"] == 1 && first(pod)["ready"] == true
        })
        .await;
    assert_eq!(
        machine
            .fake
            .calls()
            .iter()
            .filter(|c| c.starts_with("sandbox"))
            .count(),
        2
    );
}

#[tokio::test]
async fn a_sandbox_lost_under_a_starting_container_is_replaced() {
    let machine = Machine::start().await;
    machine.fake.world.lock().unwrap().lose_next = true;
    machine.create(simple()).await;
    machine.ready().await;
    let calls = machine.fake.calls();
    let sandboxes = calls.iter().filter(|c| c.starts_with("sandbox")).count();
    assert_eq!(sandboxes, 2, "{calls:?}");
}
