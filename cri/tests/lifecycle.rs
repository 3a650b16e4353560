//! Pods and containers from outside: what they see, how they end, what they leave.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::fs;

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
        verbose: false,
    };
    let response = client
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
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
