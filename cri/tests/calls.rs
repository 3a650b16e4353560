//! Every call of the interface, with what it says of ids that are not there and of requests that are
//! empty; and what each answers about one pod.
#![allow(missing_docs, clippy::unwrap_used, clippy::needless_update)]

mod kit;

use kit::{Client, Cri, IMAGE, remove_pod, run, script};
use rrun_cri_api::v1;
use rrun_cri_api::v1::image_service_client::ImageServiceClient;
use rrun_tests::{Need, require};
use tonic::Code;
use tonic::transport::Channel;

type Images = ImageServiceClient<Channel>;

/// Outcome of a call: its name, and gRPC's code.
macro_rules! outcome {
    ($client:expr, $call:ident, $request:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let request = v1::$request { $($field: $value,)* ..Default::default() };
        let answered = Box::pin($client.$call(request)).await;
        (stringify!($call), answered.map_or_else(|e| e.code(), |_| Code::Ok))
    }};
}

/// Each call that names a sandbox or container, on one whose id is this.
async fn on(client: &mut Client, id: &str) -> Vec<(&'static str, Code)> {
    let some = || id.to_owned();
    let cmd = || vec!["true".to_owned()];
    vec![
        outcome! { client, stop_pod_sandbox, StopPodSandboxRequest { pod_sandbox_id: some() } },
        outcome! { client, remove_pod_sandbox, RemovePodSandboxRequest { pod_sandbox_id: some() } },
        outcome! { client, stop_container, StopContainerRequest { container_id: some() } },
        outcome! { client, remove_container, RemoveContainerRequest { container_id: some() } },
        outcome! { client, pod_sandbox_status, PodSandboxStatusRequest { pod_sandbox_id: some() } },
        outcome! { client, create_container, CreateContainerRequest { pod_sandbox_id: some(), config: Some(script("main", "true")) } },
        outcome! { client, start_container, StartContainerRequest { container_id: some() } },
        outcome! { client, container_status, ContainerStatusRequest { container_id: some() } },
        outcome! { client, update_container_resources, UpdateContainerResourcesRequest { container_id: some() } },
        outcome! { client, update_pod_sandbox_resources, UpdatePodSandboxResourcesRequest { pod_sandbox_id: some() } },
        outcome! { client, reopen_container_log, ReopenContainerLogRequest { container_id: some() } },
        outcome! { client, exec_sync, ExecSyncRequest { container_id: some(), cmd: cmd() } },
        outcome! { client, exec, ExecRequest { container_id: some(), cmd: cmd(), stdout: true } },
        outcome! { client, attach, AttachRequest { container_id: some(), stdout: true } },
        outcome! { client, port_forward, PortForwardRequest { pod_sandbox_id: some() } },
        outcome! { client, container_stats, ContainerStatsRequest { container_id: some() } },
        outcome! { client, pod_sandbox_stats, PodSandboxStatsRequest { pod_sandbox_id: some() } },
        outcome! { client, checkpoint_container, CheckpointContainerRequest { container_id: some(), location: "/nonexistent/file".into() } },
    ]
}

#[tokio::test]
async fn an_id_that_is_unknown_or_empty_names_nothing() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    // The only ones there are: an empty id is not the start of theirs.
    let pod = cri.run_pod(&mut client, "only").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    for (number, (call, code)) in on(&mut client, "0123nothing").await.into_iter().enumerate() {
        // What is gone is stopped and removed.
        let wanted = if number < 4 { Code::Ok } else { Code::NotFound };
        assert_eq!(code, wanted, "{call}");
    }
    for (call, code) in on(&mut client, "").await {
        assert_eq!(code, Code::InvalidArgument, "{call}");
    }
    let status = kit::status(&mut client, &id).await;
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_that_says_nothing_is_refused() {
    require!(Need::Root);
    let cri = Cri::start();
    let (mut client, mut images) = (cri.client().await, Images::new(cri.channel().await));
    let cidr = |cidr: &str| {
        Some(v1::RuntimeConfig {
            network_config: Some(v1::NetworkConfig {
                pod_cidr: cidr.into(),
            }),
        })
    };
    let image = |name: &str| {
        Some(v1::ImageSpec {
            image: name.into(),
            ..Default::default()
        })
    };
    let pod = cri.run_pod(&mut client, "pod").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    for (case, (call, code)) in [
        (
            "no config",
            outcome! { client, run_pod_sandbox, RunPodSandboxRequest {} },
        ),
        (
            "no such handler",
            outcome! { client, run_pod_sandbox, RunPodSandboxRequest { config: Some(cri.pod("other", false)), runtime_handler: "nothing".into() } },
        ),
        (
            "no config",
            outcome! { client, create_container, CreateContainerRequest { pod_sandbox_id: pod.0.clone() } },
        ),
        (
            "no cmd",
            outcome! { client, exec_sync, ExecSyncRequest { container_id: id.clone() } },
        ),
        (
            "empty cmd",
            outcome! { client, exec_sync, ExecSyncRequest { container_id: id.clone(), cmd: vec![String::new()] } },
        ),
        (
            "timeout",
            outcome! { client, exec_sync, ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: -1 } },
        ),
        (
            "no stream",
            outcome! { client, exec, ExecRequest { container_id: id.clone(), cmd: vec!["true".into()] } },
        ),
        (
            "no stream",
            outcome! { client, attach, AttachRequest { container_id: id.clone() } },
        ),
        (
            "tty",
            outcome! { client, attach, AttachRequest { container_id: id.clone(), tty: true, stdout: true } },
        ),
        (
            "port",
            outcome! { client, port_forward, PortForwardRequest { pod_sandbox_id: pod.0.clone(), port: vec![70_000] } },
        ),
        (
            "location",
            outcome! { client, checkpoint_container, CheckpointContainerRequest { container_id: id.clone() } },
        ),
        (
            "a word",
            outcome! { client, update_runtime_config, UpdateRuntimeConfigRequest { runtime_config: cidr("word") } },
        ),
        (
            "six",
            outcome! { client, update_runtime_config, UpdateRuntimeConfigRequest { runtime_config: cidr("10.1.0.0/16,fd00::/129") } },
        ),
        (
            "no image",
            outcome! { images, image_status, ImageStatusRequest {} },
        ),
        (
            "no image",
            outcome! { images, pull_image, PullImageRequest {} },
        ),
        (
            "no image",
            outcome! { images, remove_image, RemoveImageRequest {} },
        ),
        (
            "no name",
            outcome! { images, pull_image, PullImageRequest { image: image("UPPER/case:") } },
        ),
    ] {
        assert_eq!(code, Code::InvalidArgument, "{call}: {case}");
    }
    for (call, code) in [
        outcome! { client, update_runtime_config, UpdateRuntimeConfigRequest {} },
        outcome! { client, update_runtime_config, UpdateRuntimeConfigRequest { runtime_config: cidr("10.1.0.0/16,fd00::/64") } },
        // What is not here is no error, and gone.
        outcome! { images, image_status, ImageStatusRequest { image: image("localhost/none:1") } },
        outcome! { images, remove_image, RemoveImageRequest { image: image("localhost/none:1") } },
    ] {
        assert_eq!(code, Code::Ok, "{call}");
    }
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// Both forms of a list: in one answer and in pieces.
macro_rules! lists {
    ($client:ident.$list:ident($lreq:ident).$items:ident, $stream:ident($sreq:ident).$pieces:ident, $filter:expr) => {{
        let request = v1::$lreq { filter: $filter };
        let whole = $client.$list(request).await.unwrap().into_inner().$items;
        let request = v1::$sreq { filter: $filter };
        let mut stream = $client.$stream(request).await.unwrap().into_inner();
        let mut pieces = 0;
        while let Some(piece) = stream.message().await.unwrap() {
            pieces += piece.$pieces.len();
        }
        assert_eq!(whole.len(), pieces, stringify!($list));
        whole
    }};
}

#[tokio::test]
async fn filters_choose_and_streams_say_the_same_as_lists() {
    require!(Need::Root);
    let cri = Cri::start();
    let (mut client, mut images) = (cri.client().await, Images::new(cri.channel().await));
    let pod = cri.run_pod(&mut client, "one").await;
    let other = cri.run_pod(&mut client, "two").await;
    let mut config = script("main", "exec sleep 1000");
    config.labels.insert("tier".into(), "a".into());
    let id = run(&mut client, &pod, config).await;
    let made = kit::create(&mut client, &other, script("main", "true")).await;
    let made = made.unwrap();
    let pods = async |client: &mut Client, filter: v1::PodSandboxFilter| {
        let found = lists!(
            client.list_pod_sandbox(ListPodSandboxRequest).items,
            stream_pod_sandboxes(StreamPodSandboxesRequest).pod_sandboxes,
            Some(filter.clone())
        );
        found.into_iter().map(|p| p.id).collect::<Vec<_>>()
    };
    let of_id = |id: &str| v1::PodSandboxFilter {
        id: id.into(),
        ..Default::default()
    };
    assert_eq!(
        pods(&mut client, v1::PodSandboxFilter::default())
            .await
            .len(),
        2
    );
    assert_eq!(pods(&mut client, of_id(&pod.0)).await, [pod.0.as_str()]);
    assert!(pods(&mut client, of_id("nothing")).await.is_empty());
    let mut both = of_id(&pod.0);
    both.label_selector.insert("app".into(), "two".into());
    assert!(pods(&mut client, both.clone()).await.is_empty());
    both.id.clear();
    assert_eq!(pods(&mut client, both.clone()).await, [other.0.as_str()]);
    both.state = Some(v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxNotready as i32,
    });
    assert!(pods(&mut client, both).await.is_empty());
    let containers = async |client: &mut Client, filter: v1::ContainerFilter| {
        let found = lists!(
            client.list_containers(ListContainersRequest).containers,
            stream_containers(StreamContainersRequest).containers,
            Some(filter.clone())
        );
        found.into_iter().map(|c| c.id).collect::<Vec<_>>()
    };
    let mut filter = v1::ContainerFilter {
        pod_sandbox_id: pod.0.clone(),
        ..Default::default()
    };
    assert_eq!(containers(&mut client, filter.clone()).await, [id.as_str()]);
    filter.label_selector.insert("tier".into(), "b".into());
    assert!(containers(&mut client, filter).await.is_empty());
    let created = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerCreated as i32,
        }),
        ..Default::default()
    };
    assert_eq!(containers(&mut client, created).await, [made.as_str()]);
    let stats = lists!(
        client.list_container_stats(ListContainerStatsRequest).stats,
        stream_container_stats(StreamContainerStatsRequest).container_stats,
        None
    );
    let of = |s: &v1::ContainerStats| s.attributes.clone().unwrap().id;
    assert_eq!(stats.iter().map(of).collect::<Vec<_>>(), [id]);
    let stats = lists!(
        client
            .list_pod_sandbox_stats(ListPodSandboxStatsRequest)
            .stats,
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest).pod_sandbox_stats,
        None
    );
    assert_eq!(stats.len(), 2);
    let found = lists!(
        images.list_images(ListImagesRequest).images,
        stream_images(StreamImagesRequest).images,
        None
    );
    assert_eq!(found[0].repo_tags, [IMAGE]);
    remove_pod(&mut client, &pod.0).await;
    remove_pod(&mut client, &other.0).await;
}

#[tokio::test]
async fn what_ended_has_a_status_and_usage_of_what_is_left() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let config = cri.pod("ended", true);
    let pod = (kit::run_pod(&mut client, &config).await, config);
    let id = run(
        &mut client,
        &pod,
        script("main", "echo text > /file; exit 3"),
    )
    .await;
    let status = kit::wait_exited(&mut client, &id).await;
    assert_eq!((status.exit_code, &status.reason[..]), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let request = v1::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = client.container_stats(request).await.unwrap().into_inner();
    let layer = stats.stats.unwrap().writable_layer.unwrap();
    assert!(layer.used_bytes.unwrap().value > 0);
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod.0.clone(),
    };
    client.stop_pod_sandbox(request).await.unwrap();
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: pod.0.clone(),
    };
    let stats = client
        .pod_sandbox_stats(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stats.stats.unwrap().attributes.unwrap().id, pod.0);
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.0.clone(),
        verbose: false,
    };
    let answer = client
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
    let status = answer.status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    // The addresses of a stopped pod may be another's.
    assert_eq!(status.network.unwrap().ip, "");
    assert_eq!(answer.containers_statuses[0].id, id);
    refused(&mut client, &pod.0, &id).await;
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// What cannot be done with a container that ended in a pod that was stopped.
async fn refused(client: &mut Client, pod: &str, id: &str) {
    for (call, code) in [
        outcome! { client, create_container, CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(script("late", "true")) } },
        outcome! { client, start_container, StartContainerRequest { container_id: id.into() } },
        outcome! { client, exec, ExecRequest { container_id: id.into(), cmd: vec!["true".into()], stdout: true } },
        outcome! { client, attach, AttachRequest { container_id: id.into(), stdout: true } },
        outcome! { client, reopen_container_log, ReopenContainerLogRequest { container_id: id.into() } },
        outcome! { client, port_forward, PortForwardRequest { pod_sandbox_id: pod.into() } },
        outcome! { client, update_container_resources, UpdateContainerResourcesRequest { container_id: id.into() } },
        outcome! { client, update_pod_sandbox_resources, UpdatePodSandboxResourcesRequest { pod_sandbox_id: pod.into() } },
    ] {
        assert_eq!(code, Code::FailedPrecondition, "{call}");
    }
}

#[tokio::test]
async fn a_pod_whose_namespace_is_gone_is_not_ready_once_it_starts_nothing() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let config = cri.pod("broken", true);
    let pod = (kit::run_pod(&mut client, &config).await, config);
    let id = kit::create(&mut client, &pod, script("main", "true")).await;
    let id = id.unwrap();
    let pin = cri.path("state/sandboxes").join(&pod.0).join("ns/net");
    let unpinned = std::process::Command::new("umount").arg(&pin).status();
    assert!(unpinned.unwrap().success());
    kit::start(&mut client, &id).await.unwrap_err();
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.0.clone(),
        verbose: false,
    };
    let answer = client.pod_sandbox_status(request).await.unwrap();
    let status = answer.into_inner().status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_runtime_tells_of_itself() {
    require!(Need::Root);
    let cri = Cri::start();
    let (mut client, mut images) = (cri.client().await, Images::new(cri.channel().await));
    let version = client.version(v1::VersionRequest::default()).await.unwrap();
    let version = version.into_inner();
    assert_eq!(
        (&version.runtime_name[..], &version.runtime_api_version[..]),
        ("rrun-cri", "v1")
    );
    assert!(!version.version.is_empty() && !version.runtime_version.is_empty());
    let status = client.status(v1::StatusRequest { verbose: true }).await;
    let status = status.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    let is = |kind: &str| conditions.iter().any(|c| c.r#type == kind && c.status);
    assert!(is("RuntimeReady") && is("NetworkReady"), "{conditions:?}");
    assert_eq!(status.runtime_handlers[0].name, "");
    assert!(status.info["config"].contains("runtimes"));
    let config = client.runtime_config(v1::RuntimeConfigRequest {}).await;
    assert!(config.unwrap().into_inner().linux.is_some());
    let descriptors = client
        .list_metric_descriptors(v1::ListMetricDescriptorsRequest {})
        .await;
    let descriptors = descriptors.unwrap().into_inner().descriptors;
    let pod = cri.run_pod(&mut client, "metrics").await;
    run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let listed = client
        .list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {})
        .await;
    let listed = listed.unwrap().into_inner().pod_metrics;
    let metrics = listed.iter().flat_map(|pod| {
        let containers = pod.container_metrics.iter().flat_map(|c| &c.metrics);
        pod.metrics.iter().chain(containers)
    });
    let metrics: Vec<_> = metrics.collect();
    assert!(!metrics.is_empty());
    for metric in metrics {
        let described = descriptors.iter().find(|d| d.name == metric.name);
        let described = described.unwrap_or_else(|| panic!("no descriptor of {}", metric.name));
        assert_eq!(
            described.label_keys.len(),
            metric.label_values.len(),
            "{}",
            metric.name
        );
    }
    let mut pieces = client
        .stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest {})
        .await
        .unwrap()
        .into_inner();
    let piece = pieces.message().await.unwrap().unwrap();
    assert_eq!(piece.pod_sandbox_metrics.len(), listed.len());
    let info = images.image_fs_info(v1::ImageFsInfoRequest {}).await;
    let info = info.unwrap().into_inner();
    assert!(info.image_filesystems[0].used_bytes.unwrap().value > 0);
    assert_eq!(info.container_filesystems.len(), 1);
    remove_pod(&mut client, &pod.0).await;
}
