//! The runtime service: state machines of sandboxes and containers, without processes.

use std::pin::Pin;
use std::time::Duration;

use rrun_cri_api::v1 as cri;
use rrun_cri_api::v1::runtime_service_server::RuntimeService;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Fake, now};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// The trait's methods as `async_trait` writes them, which does not look into macros.
macro_rules! not_here {
    ($($name:ident($asked:ident) -> $given:ident;)*) => { $(
        fn $name<'a, 'b>(
            &'a self,
            _: Request<cri::$asked>,
        ) -> Pin<Box<dyn Future<Output = Answer<cri::$given>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )* };
}

macro_rules! no_streams {
    ($($kind:ident $name:ident($asked:ident) -> $given:ident;)*) => { $(
        type $kind = Streamed<cri::$given>;
        fn $name<'a, 'b>(
            &'a self,
            _: Request<cri::$asked>,
        ) -> Pin<Box<dyn Future<Output = Answer<Self::$kind>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )* };
}

type Labels = std::collections::HashMap<String, String>;

/// What of a table bears all the labels, each as it is listed.
fn listed<'a, T: 'a, L>(
    all: impl IntoIterator<Item = &'a T>,
    labels: fn(&T) -> &Labels,
    wanted: &Labels,
    show: impl Fn(&T) -> L,
) -> Vec<L> {
    let matches = |item: &T| wanted.iter().all(|(k, v)| labels(item).get(k) == Some(v));
    let all = all.into_iter().filter(|item| matches(item));
    all.map(show).collect()
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        let mut world = self.world.lock().unwrap();
        let id = world.id("s");
        world.calls.push(format!(
            "sandbox {}",
            config.metadata.as_ref().unwrap().name
        ));
        let mut status = cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: now(),
            network: Some(cri::PodSandboxNetworkStatus {
                ip: "127.0.0.1".into(),
                additional_ips: vec![],
            }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        status.set_state(cri::PodSandboxState::SandboxReady);
        world.sandboxes.insert(id.clone(), status);
        world.tell(&id, cri::ContainerEventType::ContainerStartedEvent);
        Ok(Response::new(cri::RunPodSandboxResponse {
            pod_sandbox_id: id,
        }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut world = self.world.lock().unwrap();
        world.calls.push("stop sandbox".into());
        let uid = world
            .sandboxes
            .get(&id)
            .and_then(|s| s.labels.get("io.kubernetes.pod.uid").cloned());
        let inside: Vec<String> = world
            .containers
            .values()
            .filter(|c| c.labels.get("io.kubernetes.pod.uid").cloned() == uid)
            .map(|c| c.id.clone())
            .collect();
        for container in inside {
            world.end(&container, 137);
        }
        if let Some(sandbox) = world.sandboxes.get_mut(&id) {
            sandbox.set_state(cri::PodSandboxState::SandboxNotready);
        }
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut world = self.world.lock().unwrap();
        world.calls.push("remove sandbox".into());
        world.sandboxes.remove(&id);
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let found = self.world.lock().unwrap().sandboxes.get(&id).cloned();
        let status = found.ok_or_else(|| Status::not_found(id))?;
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(status),
            ..Default::default()
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let wanted = request.into_inner().filter.unwrap_or_default();
        let world = self.world.lock().unwrap();
        let show = |s: &cri::PodSandboxStatus| cri::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        };
        let all = world.sandboxes.values();
        let items = listed(all, |s| &s.labels, &wanted.label_selector, show);
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let meta = config.metadata.clone().unwrap();
        let mut asked = false;
        while self.world.lock().unwrap().held.contains(&meta.name) {
            if !std::mem::replace(&mut asked, true) {
                let call = format!("asked {}", meta.name);
                self.world.lock().unwrap().calls.push(call);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut world = self.world.lock().unwrap();
        world.ready(&request.pod_sandbox_id)?;
        let id = world.id("c");
        world
            .calls
            .push(format!("create {} {}", meta.name, meta.attempt));
        let mut status = cri::ContainerStatus {
            id: id.clone(),
            metadata: Some(meta),
            created_at: now(),
            image: config.image.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        status.set_state(cri::ContainerState::ContainerCreated);
        world.containers.insert(id.clone(), status);
        world.configs.insert(id.clone(), config);
        Ok(Response::new(cri::CreateContainerResponse {
            container_id: id,
        }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut world = self.world.lock().unwrap();
        let container = world
            .containers
            .get_mut(&id)
            .ok_or_else(|| Status::not_found(""))?;
        container.set_state(cri::ContainerState::ContainerRunning);
        container.started_at = now();
        world.tell(&id, cri::ContainerEventType::ContainerStartedEvent);
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        let id = &request.container_id;
        let call = format!("stop {}", request.timeout);
        self.world.lock().unwrap().calls.push(call);
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let ends = tokio::time::Instant::now() + grace;
        let resists = || self.world.lock().unwrap().resists(id);
        let mut code = 143;
        while resists() {
            if tokio::time::Instant::now() >= ends {
                code = 137;
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.world.lock().unwrap().end(id, code);
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.world.lock().unwrap().containers.remove(&id);
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let wanted = request.into_inner().filter.unwrap_or_default();
        let world = self.world.lock().unwrap();
        let show = |c: &cri::ContainerStatus| cri::Container {
            id: c.id.clone(),
            metadata: c.metadata.clone(),
            state: c.state,
            labels: c.labels.clone(),
            ..Default::default()
        };
        let all = world.containers.values();
        let containers = listed(all, |c| &c.labels, &wanted.label_selector, show);
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let found = self.world.lock().unwrap().containers.get(&id).cloned();
        let status = found.ok_or_else(|| Status::not_found(id))?;
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(status),
            ..Default::default()
        }))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let word = request.cmd.first().cloned().unwrap_or_default();
        let call = format!("begin {word}");
        self.world.lock().unwrap().calls.push(call);
        while self.world.lock().unwrap().held.contains(&word) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut world = self.world.lock().unwrap();
        let exit_code = world.commands.get(&word).copied().unwrap_or(0);
        world.calls.push(format!("exec {word}"));
        Ok(Response::new(cri::ExecSyncResponse {
            exit_code,
            stdout: vec![],
            stderr: b"said no".to_vec(),
        }))
    }

    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = self.world.lock().unwrap().events.subscribe();
        let stream = tokio_stream::wrappers::BroadcastStream::new(events);
        Ok(Response::new(Box::pin(
            stream.map(|e| e.map_err(|e| Status::data_loss(e.to_string()))),
        )))
    }

    no_streams! {
        StreamPodSandboxesStream stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
        StreamContainersStream stream_containers(StreamContainersRequest) -> StreamContainersResponse;
        StreamContainerStatsStream stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
        StreamPodSandboxStatsStream stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
        StreamPodSandboxMetricsStream stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
    }

    not_here! {
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        status(StatusRequest) -> StatusResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
}
