//! Pods and containers from outside: what they see, how they end, what they leave.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::fs;
use std::path::Path;

use kit::{Cri, create, exec, pid, remove_pod, run, run_pod, script, start, status, stop};
use kit::{LIMIT, wait_exited};
use rrun_cri_api::v1;
use rrun_tests::{Need, require, wait_until};

#[tokio::test]
async fn a_pod_lives_and_leaves_nothing() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "one").await;
    let id = run(
        &mut client,
        &pod,
        script("main", "echo hello; exec sleep 1000"),
    )
    .await;
    let now = status(&mut client, &id).await;
    assert_eq!(now.state(), v1::ContainerState::ContainerRunning);
    assert!(now.started_at >= now.created_at && now.created_at > 0);
    let log = cri.path("logs/main.log");
    wait_until("the log", LIMIT, || {
        fs::read_to_string(&log).is_ok_and(|l| l.ends_with(" stdout F hello\n"))
    });
    let said = exec(&mut client, &id, "echo out; echo err >&2; exit 3").await;
    assert_eq!(said.exit_code, 3);
    assert_eq!(
        (&said.stdout[..], &said.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    stop(&mut client, &id, 0).await;
    let end = wait_exited(&mut client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "Error"));
    assert!(end.finished_at >= end.started_at);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_of_its_own_network_has_an_address_and_a_name() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let config = cri.pod("net", true);
    let pod = (run_pod(&mut client, &config).await, config);
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.0.clone(),
        verbose: true,
    };
    let response = client
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
    // What scripts read of `crictl inspectp`.
    let info: serde_json::Value = serde_json::from_str(&response.info["info"]).unwrap();
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        .as_array()
        .unwrap();
    let net = namespaces.iter().find(|n| n["type"] == "network").unwrap();
    assert!(Path::new(net["path"].as_str().unwrap()).exists(), "{info}");
    assert_eq!(info["pid"], 0, "nothing runs yet");
    let ip = response.status.unwrap().network.unwrap().ip;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let said = exec(&mut client, &id, "hostname; ip addr show; cat /etc/hosts").await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.starts_with("net\n"), "{text}");
    assert!(text.contains(&format!("inet {ip}/")), "{ip}: {text}");
    assert!(text.contains(&format!("{ip}\tnet")), "{text}");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn exits_have_reasons() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "exits").await;
    for (name, body, code, reason) in [
        ("fine", "exit 0", 0, "Completed"),
        ("bad", "exit 7", 7, "Error"),
        // The first process of a pid namespace is deaf to what it does not handle.
        ("killed", "sh -c 'kill -TERM $$'; exit $?", 143, "Error"),
    ] {
        let id = run(&mut client, &pod, script(name, body)).await;
        let end = wait_exited(&mut client, &id).await;
        assert_eq!(
            (end.exit_code, end.reason.as_str()),
            (code, reason),
            "{name}"
        );
    }
    remove_pod(&mut client, &pod.0).await;
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_oom_killed() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "oom").await;
    let mut config = script("main", "exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    let linux = config.linux.get_or_insert_default();
    linux.resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let id = run(&mut client, &pod, config).await;
    let end = wait_exited(&mut client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));
    remove_pod(&mut client, &pod.0).await;
}

#[tokio::test]
async fn containers_that_share_a_pid_namespace_see_each_other_and_an_empty_first_process() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let mut config = cri.pod("pids", false);
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    let shared = |o: &mut Option<v1::NamespaceOption>| {
        o.as_mut().unwrap().set_pid(v1::NamespaceMode::Pod);
    };
    shared(&mut security.namespace_options);
    let pod = (run_pod(&mut client, &config).await, config);
    let share = |mut c: v1::ContainerConfig| {
        let linux = c.linux.as_mut().unwrap();
        shared(&mut linux.security_context.as_mut().unwrap().namespace_options);
        c
    };
    run(&mut client, &pod, share(script("a", "exec sleep 4321"))).await;
    let b = run(&mut client, &pod, share(script("b", "exec sleep 1000"))).await;
    let said = exec(&mut client, &b, "ps").await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("sleep 4321"), "{text}");
    let said = exec(&mut client, &b, "ls /proc/1/root/etc").await;
    assert_ne!(said.exit_code, 0, "the machine's root is in sight");
    // An orphan is reaped.
    let said = exec(
        &mut client,
        &b,
        "sh -c 'sleep 0.1 &' ; sleep 1; ps -o stat,comm",
    )
    .await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(!text.contains('Z'), "{text}");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn limits_are_what_the_container_gets() {
    require!(Need::Root, Need::CgroupV1);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "limits").await;
    let mut config = script("main", "exec sleep 1000");
    let linux = config.linux.get_or_insert_default();
    linux.resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_period: 100_000,
        cpu_quota: 20_000,
        ..Default::default()
    });
    let id = run(&mut client, &pod, config).await;
    let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
                /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    let said = exec(&mut client, &id, read).await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "33554432\n20000\n");
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    client.update_container_resources(update).await.unwrap();
    let said = exec(&mut client, &id, read).await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "67108864\n20000\n");
    let resources = status(&mut client, &id)
        .await
        .resources
        .unwrap()
        .linux
        .unwrap();
    assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    assert_eq!(resources.cpu_quota, 20_000);
    remove_pod(&mut client, &pod.0).await;
}

#[tokio::test]
async fn a_cdi_device_brings_its_node_its_environment_and_its_mounts() {
    require!(Need::Root);
    let dir = tempfile::tempdir().unwrap();
    let device = serde_json::json!({"cdiVersion": "0.6.0", "kind": "example.com/dev",
        "containerEdits": {"env": ["SHARED=yes"]},
        "devices": [{"name": "one", "containerEdits": {
            "env": ["OWN=yes"],
            "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/zero", "permissions": "r"}],
            "mounts": [{"hostPath": dir.path(), "containerPath": "/vendor", "options": ["ro"]}]}}]});
    fs::write(dir.path().join("dev.json"), device.to_string()).unwrap();
    let cri = Cri::start_with(&format!("cdi_spec_dirs = [{:?}]\n", dir.path()));
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "cdi").await;
    let mut config = script("main", "exec sleep 1000");
    config.cdi_devices = vec![v1::CdiDevice {
        name: "example.com/dev=one".into(),
    }];
    let id = run(&mut client, &pod, config.clone()).await;
    let look = "echo $SHARED $OWN; head -c 3 /dev/one | busybox od -An -tx1; ls /vendor";
    let said = exec(&mut client, &id, look).await;
    let text = String::from_utf8(said.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["yes", "yes", "00", "00", "00", "dev.json"]);
    config.metadata.as_mut().unwrap().name = "other".into();
    config.cdi_devices[0].name = "example.com/dev=two".into();
    let error = create(&mut client, &pod, config).await.unwrap_err();
    assert!(error.message().contains("example.com/dev=two"), "{error}");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stop_with_less_time_does_not_wait_for_one_with_more() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "hurry").await;
    let body = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    let id = run(&mut client, &pod, script("main", body)).await;
    let log = cri.path("logs/main.log");
    let said = |what: &str| fs::read_to_string(&log).map_or(0, |l| l.matches(what).count());
    wait_until("the trap", LIMIT, || said("ready") == 1);
    let patient = tokio::spawn({
        let (mut client, id) = (cri.client().await, id.clone());
        async move { stop(&mut client, &id, 1800).await }
    });
    // The other stop is a task of this thread.
    let asked = async {
        while said("asked") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .expect("the signal");
    stop(&mut client, &id, 1).await;
    assert_eq!(wait_exited(&mut client, &id).await.exit_code, 137);
    patient.await.unwrap();
    assert_eq!(said("asked"), 1, "one stop signal for both");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn stopping_waits_for_the_grace_period_and_no_longer() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "grace").await;
    let polite = script("polite", "trap 'exit 5' TERM; while :; do sleep 0.05; done");
    let polite = run(&mut client, &pod, polite).await;
    // The trap must be set before the signal comes.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    stop(&mut client, &polite, 20).await;
    assert_eq!(status(&mut client, &polite).await.exit_code, 5);
    let deaf = script("deaf", "trap '' TERM; while :; do sleep 0.05; done");
    let deaf = run(&mut client, &pod, deaf).await;
    stop(&mut client, &deaf, 1).await;
    assert_eq!(status(&mut client, &deaf).await.exit_code, 137);
    remove_pod(&mut client, &pod.0).await;
}

#[tokio::test]
async fn a_start_that_fails_is_an_exit_with_a_reason() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "failing").await;
    let mut config = script("main", "");
    config.command = vec!["/no/such/program".into()];
    let id = create(&mut client, &pod, config).await.unwrap();
    let error = start(&mut client, &id).await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    let end = status(&mut client, &id).await;
    assert_eq!(end.state(), v1::ContainerState::ContainerExited);
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));
    assert!(end.message.contains("/no/such/program"), "{}", end.message);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn users_and_groups_are_the_image_s_and_the_request_s() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "users").await;
    let mut config = script("main", "exec sleep 1000");
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.supplemental_groups = vec![777];
    let id = run(&mut client, &pod, config).await;
    // The kernel keeps groups sorted.
    let said = exec(&mut client, &id, "id -u; id -G").await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(text, "0\n0 777 50000\n");
    let user = status(&mut client, &id).await.user.unwrap().linux.unwrap();
    assert_eq!(user.supplemental_groups, [0, 50_000, 777]);
    assert!(pid(&mut client, &id).await > 1);
    remove_pod(&mut client, &pod.0).await;
}

/// CRIU does not know every kernel; it says so itself.
fn criu_refuses() -> Option<String> {
    let output = std::process::Command::new("criu")
        .arg("check")
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    let last = why.trim().lines().last().unwrap_or_default();
    (!output.status.success()).then(|| format!("criu check fails: {last}"))
}

#[tokio::test]
async fn a_checkpoint_is_written_and_goes_on_as_another_container() {
    require!(Need::Root, Need::Program("criu"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "checkpoint").await;
    let count = "echo kept > /note; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    let id = run(&mut client, &pod, script("counter", count)).await;
    let numbers = |name: &str| -> Vec<u32> {
        let log = fs::read_to_string(cri.path(&format!("logs/{name}.log"))).unwrap_or_default();
        let words = log
            .lines()
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok());
        words.collect()
    };
    wait_until("it to count", LIMIT, || numbers("counter").len() > 5);
    let archive = cri.path("checkpoint.tar");
    let mut request = v1::CheckpointContainerRequest {
        container_id: id.clone(),
        location: archive.display().to_string(),
        timeout: 0,
    };
    let answer = client.checkpoint_container(request.clone()).await;
    if let Some(why) = criu_refuses() {
        let error = answer.unwrap_err();
        assert!(error.message().contains("criu"), "{error}");
        assert!(!archive.exists());
        rrun_tests::report_skip(module_path!(), &why);
    } else {
        answer.unwrap();
        let before = numbers("counter").len();
        wait_until("it to count on", LIMIT, || {
            numbers("counter").len() > before + 2
        });
        stop(&mut client, &id, 0).await;
        let mut config = script("restored", count);
        config.image.as_mut().unwrap().image = archive.display().to_string();
        let restored = run(&mut client, &pod, config).await;
        wait_until("the other to count", LIMIT, || {
            numbers("restored").len() > 2
        });
        assert!(numbers("restored")[0] > 5, "{:?}", numbers("restored"));
        let said = exec(&mut client, &restored, "cat /note").await;
        assert_eq!(said.stdout, b"kept\n");
    }
    request.location = "relative.tar".into();
    let error = client.checkpoint_container(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}
