//! Limits that change, and what is measured.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::collections::BTreeSet;
use std::path::PathBuf;

use kit::{Cri, create, exec, remove_pod, run, script, start};
use rrun_cri_api::v1;
use rrun_tests::{Need, require, wait_until};

fn memory(bytes: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        ..Default::default()
    }
}

const LIMIT_FILE: &str =
    "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";

#[tokio::test]
async fn limits_change_before_a_start_as_after_it() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "limits").await;
    let id = create(&mut client, &pod, script("main", "exec sleep 1000"))
        .await
        .unwrap();
    for (megabytes, begin) in [(64, true), (96, false)] {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(memory(megabytes << 20)),
            ..Default::default()
        };
        client.update_container_resources(request).await.unwrap();
        if begin {
            start(&mut client, &id).await.unwrap();
        }
        let said = exec(&mut client, &id, LIMIT_FILE).await;
        let text = String::from_utf8(said.stdout).unwrap();
        assert_eq!(text.trim(), (megabytes << 20).to_string());
    }
    remove_pod(&mut client, &pod.0).await;
}

#[tokio::test]
async fn the_oom_score_of_a_running_container_changes() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "oomscore").await;
    let id = run(&mut client, &pod, script("main", "sleep 1000 & sleep 1000")).await;
    let mut request = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources {
            oom_score_adj: 777,
            ..Default::default()
        }),
        ..Default::default()
    };
    client
        .update_container_resources(request.clone())
        .await
        .unwrap();
    let said = exec(&mut client, &id, "for p in /proc/[0-9]*/comm; do read n < $p; [ $n != sleep ] || cat ${p%comm}oom_score_adj; done").await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "777\n777\n");
    // Of an exec, too.
    let said = exec(&mut client, &id, "cat /proc/self/oom_score_adj").await;
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "777\n");
    request.linux.as_mut().unwrap().oom_score_adj = 1001;
    let error = client
        .update_container_resources(request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    remove_pod(&mut client, &pod.0).await;
}

/// The memory limit of a pod's cgroup.
fn pod_limit(pod: &(String, v1::PodSandboxConfig)) -> String {
    let parent = &pod.1.linux.as_ref().unwrap().cgroup_parent;
    let files = [
        format!("/sys/fs/cgroup{parent}/memory.max"),
        format!("/sys/fs/cgroup/memory{parent}/memory.limit_in_bytes"),
    ];
    let mut read = files.iter().map(std::fs::read_to_string);
    let limit = read.find_map(Result::ok).unwrap();
    limit.trim().to_owned()
}

#[tokio::test]
async fn limits_of_a_pod_are_those_of_its_cgroup() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "podlimits").await;
    run(&mut client, &pod, {
        let mut config = script("main", "exec sleep 1000");
        config.linux.as_mut().unwrap().resources = Some(memory(32 << 20));
        config
    })
    .await;
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.0.clone(),
        overhead: Some(memory(1 << 20)),
        resources: Some(memory(64 << 20)),
    };
    client.update_pod_sandbox_resources(request).await.unwrap();
    assert_eq!(pod_limit(&pod), (65 << 20).to_string());
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// Shares of version 1 or the weight of version 2; `None` without the cgroup, or without a controller.
fn share(cgroup: &str) -> Option<u64> {
    let files = [
        format!("/sys/fs/cgroup{cgroup}/cpu.weight"),
        format!("/sys/fs/cgroup/cpu{cgroup}/cpu.shares"),
    ];
    let mut read = files.iter().map(std::fs::read_to_string);
    read.find_map(Result::ok)?.trim().parse().ok()
}

#[tokio::test]
async fn pods_share_the_processor_as_they_ask_for_it_where_the_runtime_makes_their_cgroups() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let class = format!("{}/burstable", cri.cgroup);
    let mut pods = Vec::new();
    for (name, shares) in [("few", 102), ("many", 409), ("none", 2)] {
        let mut config = cri.pod(name, false);
        let linux = config.linux.as_mut().unwrap();
        linux.cgroup_parent = format!("{class}/{name}");
        linux.resources = Some(v1::LinuxContainerResources {
            cpu_shares: shares,
            ..memory(64 << 20)
        });
        let pod = (kit::run_pod(&mut client, &config).await, config);
        run(&mut client, &pod, script("main", "exec sleep 1000")).await;
        pods.push(pod);
    }
    assert_eq!(pod_limit(&pods[0]), (64 << 20).to_string());
    let of = |name: &str| share(&format!("{class}/{name}"));
    // A weight has a 26th of the shares.
    let expected = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        [4, 16, 1, 20]
    } else {
        [102, 409, 2, 511]
    };
    let (few, many, none) = (of("few"), of("many"), of("none"));
    if let Some(all) = share(&class) {
        let found = [few, many, none].map(Option::unwrap);
        assert_eq!([found[0], found[1], found[2], all], expected);
        remove_pod(&mut client, &pods.remove(1).0).await;
        assert_eq!(share(&class), Some(expected[0]));
    }
    for pod in pods {
        remove_pod(&mut client, &pod.0).await;
    }

    // A cgroup that is there is its maker's.
    let mut config = cri.pod("managed", false);
    let linux = config.linux.as_mut().unwrap();
    linux.resources = Some(v1::LinuxContainerResources {
        cpu_shares: 102,
        ..Default::default()
    });
    let parent = linux.cgroup_parent.clone();
    let made: Vec<_> = hierarchies()
        .map(|root| root.join(parent.trim_start_matches('/')))
        .collect();
    for dir in &made {
        std::fs::create_dir_all(dir).unwrap();
    }
    let pod = (kit::run_pod(&mut client, &config).await, config);
    run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let left = [None, Some(100), Some(1024)];
    assert!(left.contains(&share(&parent)), "{:?}", share(&parent));
    remove_pod(&mut client, &pod.0).await;
    for dir in &made {
        std::fs::remove_dir(dir).unwrap();
        std::fs::remove_dir(dir.parent().unwrap()).unwrap();
    }
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// Directories of a container's cgroup, each with the root of its hierarchy.
fn cgroups(parent: &str, id: &str) -> Vec<(PathBuf, PathBuf)> {
    let path = format!("{}/{id}", parent.trim_start_matches('/'));
    hierarchies()
        .map(|root| (root.join(&path), root))
        .filter(|(dir, _)| dir.is_dir())
        .collect()
}

/// Where hierarchies of cgroups are mounted.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let below = std::fs::read_dir(&top).unwrap().flatten();
    let mut roots: Vec<_> = below.map(|entry| entry.path()).collect();
    // Below the one of version 2 are its cgroups.
    if top.join("cgroup.procs").exists() {
        roots.clear();
    }
    roots.push(top);
    roots
        .into_iter()
        .filter(|root| root.join("cgroup.procs").exists())
}

/// As a careless clean-up of cgroups does: the processes are elsewhere, and the directories gone.
#[tokio::test]
async fn a_container_whose_cgroup_was_taken_away_is_measured_stopped_and_removed() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "taken").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let parent = &pod.1.linux.as_ref().unwrap().cgroup_parent;
    let all = cgroups(parent, &id);
    assert!(!all.is_empty());
    for (dir, root) in all {
        for pid in std::fs::read_to_string(dir.join("cgroup.procs"))
            .unwrap()
            .lines()
        {
            std::fs::write(root.join("cgroup.procs"), pid).unwrap();
        }
        wait_until("its cgroup is empty", kit::patience(), || {
            std::fs::remove_dir(&dir).is_ok()
        });
    }
    let request = v1::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = client.container_stats(request).await.unwrap().into_inner();
    assert_eq!(stats.stats.unwrap().attributes.unwrap().id, id);
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: pod.0.clone(),
    };
    client.pod_sandbox_stats(request).await.unwrap();
    let request = v1::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    };
    client.stop_container(request).await.unwrap();
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn metrics_have_the_labels_that_are_described() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "metrics").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let request = v1::ListMetricDescriptorsRequest {};
    let described = client
        .list_metric_descriptors(request)
        .await
        .unwrap()
        .into_inner()
        .descriptors;
    let request = v1::ListPodSandboxMetricsRequest {};
    let pods = client
        .list_pod_sandbox_metrics(request)
        .await
        .unwrap()
        .into_inner()
        .pod_metrics;
    let of = &pods
        .iter()
        .find(|p| p.pod_sandbox_id == pod.0)
        .unwrap()
        .container_metrics[0];
    assert_eq!(of.container_id, id);
    let mut names = BTreeSet::new();
    for metric in &of.metrics {
        let descriptor = described.iter().find(|d| d.name == metric.name).unwrap();
        assert_eq!(
            metric.label_values.len(),
            descriptor.label_keys.len(),
            "{}",
            metric.name
        );
        names.insert(metric.name.as_str());
    }
    for name in [
        "container_threads",
        "container_memory_usage_bytes",
        "container_processes",
    ] {
        assert!(names.contains(name), "{name} of {names:?}");
    }
    let threads = of
        .metrics
        .iter()
        .find(|m| m.name == "container_threads")
        .unwrap();
    assert_eq!(threads.value.unwrap().value, 1);
    remove_pod(&mut client, &pod.0).await;
}

/// What of the machine a daemon holds, by kind.
fn held(cri: &Cri) -> Vec<(&'static str, usize)> {
    let pid = cri.pid();
    let list = |dir: String| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let dir = cri.dir.path().display().to_string();
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let links = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let ports = links.filter(|link| {
        let master = std::fs::read_link(link.path().join("master")).unwrap_or_default();
        master.ends_with(cri.bridge())
    });
    vec![
        ("descriptors", list(format!("/proc/{pid}/fd"))),
        (
            "mounts",
            mounts.lines().filter(|l| l.contains(&dir)).count(),
        ),
        ("ports of the bridge", ports.count()),
        ("leases", list(format!("{dir}/state/network/leases"))),
        ("sandboxes", list(format!("{dir}/state/sandboxes"))),
        ("sockets of shims", list(format!("{dir}/state/s"))),
    ]
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The small form of `integration/soak`.
#[tokio::test]
async fn pods_that_come_and_go_leave_the_daemon_as_it_was() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let mut before = None;
    // Fewer where everything takes twenty times as long.
    let slow = std::env::var("RRUN_TIME_SCALE").is_ok();
    let rounds = if slow { 5 } else { 15 };
    for round in 0..rounds {
        let config = cri.pod(&format!("soak-{round}"), true);
        let pod = (kit::run_pod(&mut client, &config).await, config);
        let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
        assert_eq!(exec(&mut client, &id, "true").await.exit_code, 0);
        remove_pod(&mut client, &pod.0).await;
        if round == rounds / 3 {
            before = Some((held(&cri), resident_kib(cri.pid())));
        }
    }
    let (held_before, resident) = before.unwrap();
    assert_eq!(held(&cri), held_before);
    let grown = resident_kib(cri.pid()).saturating_sub(resident);
    assert!(grown < 4096, "{grown} KiB in {rounds} rounds");
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}
