//! Limits that change, and what is measured.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::collections::BTreeSet;

use kit::{Cri, create, exec, remove_pod, run, script, start};
use rrun_cri_api::v1;
use rrun_tests::{Need, require};

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
    let parent = &pod.1.linux.as_ref().unwrap().cgroup_parent;
    let files = [
        format!("/sys/fs/cgroup{parent}/memory.max"),
        format!("/sys/fs/cgroup/memory{parent}/memory.limit_in_bytes"),
    ];
    let limit = files
        .iter()
        .find_map(|f| std::fs::read_to_string(f).ok())
        .unwrap();
    assert_eq!(limit.trim(), (65 << 20).to_string());
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
