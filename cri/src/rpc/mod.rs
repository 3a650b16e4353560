//! The RPCs, one file each: checks, the order of steps, the answer.
// All handlers have one shape, also those that wait for nothing.
#![allow(clippy::unused_async)]

mod attach;
mod checkpoint_container;
pub mod container_stats;
pub mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod image_fs_info;
mod image_status;
mod list_containers;
mod list_images;
mod list_pod_sandbox;
mod metrics;
pub mod pod_sandbox_stats;
pub mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod subject;
mod until_failure;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod verbose;
mod version;

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, BoxStream, StreamExt};
use rrun_cri_api::v1;
use rrun_cri_api::v1::image_service_server::ImageService;
use rrun_cri_api::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span};

use crate::daemon::{Daemon, detached};
use crate::error::{Error, Result};
use crate::trace;

pub use remove_container::remove as remove_container_now;
pub use remove_pod_sandbox::remove as remove_sandbox_now;
pub use stop_pod_sandbox::stop as stop_sandbox_now;
pub use update_container_resources::{apply_json as update_running, merge_into as merge_resources};

/// Both services.
#[derive(Clone)]
pub struct Service(pub Arc<Daemon>);

impl Service {
    /// The span of a call; in its caller's trace, where traces are wanted.
    fn span<T: subject::Subject>(&self, rpc: &'static str, request: &Request<T>) -> Span {
        let traced = self.0.config.traces.is_some();
        let parent = traced.then(|| trace::parent(request.metadata())).flatten();
        subject::span(rpc, request.get_ref(), parent)
    }
}

type Items<T> = BoxStream<'static, Result<T, Status>>;

/// Items in one message of a stream: far below gRPC's limit of 4 MiB.
const CHUNK: usize = 64;

/// Sends a list in pieces.
fn chunks<T, M>(items: &[T], message: impl Fn(Vec<T>) -> M) -> Items<M>
where
    T: Clone,
    M: Send + 'static,
{
    let all: Vec<_> = items
        .chunks(CHUNK)
        .map(|c| Ok(message(c.to_vec())))
        .collect();
    stream::iter(all).boxed()
}

/// Counts and logs how a call ended, and makes its answer.
async fn answer<T>(
    daemon: &Daemon,
    rpc: &'static str,
    span: Span,
    work: impl Future<Output = Result<T>>,
) -> Result<Response<T>, Status> {
    let since = Instant::now();
    let result = work.instrument(span.clone()).await;
    let took = since.elapsed();
    let ms = took.as_secs_f64() * 1000.0;
    let code = result.as_ref().err().map_or("Ok", Error::code);
    daemon.metrics.call(rpc, code, took);
    let _in = span.enter();
    match result {
        Ok(value) => {
            tracing::debug!(ms, "done");
            Ok(Response::new(value))
        }
        Err(error) => {
            tracing::warn!(ms, code, "{error}");
            Err(error.into())
        }
    }
}

/// A service from its methods. Those after `changes` run to their end whatever the client does;
/// those after `streams` answer a list in pieces.
macro_rules! service {
    ($service:ident {
        changes { $($cname:ident($cmod:ident: $creq:ident) -> $cres:ident;)* }
        reads { $($rname:ident($rmod:ident: $rreq:ident) -> $rres:ident;)* }
        streams { $($sname:ident: $stype:ident ($shandler:path: $sreq:ident) -> $sres:ident;)* }
    }) => {
        #[tonic::async_trait]
        impl $service for Service {
            $(
                async fn $cname(&self, request: Request<v1::$creq>)
                    -> Result<Response<v1::$cres>, Status>
                {
                    let span = self.span(stringify!($cname), &request);
                    let (daemon, request) = (self.0.clone(), request.into_inner());
                    let work = async move { $cmod::handle(&daemon, request).await };
                    let work = detached(work.instrument(span.clone()));
                    let answered = answer(&self.0, stringify!($cname), span, work).await;
                    self.0.rest.note();
                    answered
                }
            )*
            $(
                async fn $rname(&self, request: Request<v1::$rreq>)
                    -> Result<Response<v1::$rres>, Status>
                {
                    let span = self.span(stringify!($rname), &request);
                    let request = request.into_inner();
                    let work = $rmod::handle(&self.0, request);
                    answer(&self.0, stringify!($rname), span, work).await
                }
            )*
            $(
                type $stype = Items<v1::$sres>;
                async fn $sname(&self, request: Request<v1::$sreq>)
                    -> Result<Response<Self::$stype>, Status>
                {
                    let span = self.span(stringify!($sname), &request);
                    let request = request.into_inner();
                    let work = $shandler(&self.0, request);
                    answer(&self.0, stringify!($sname), span, work).await
                }
            )*
        }
    };
}

service!(RuntimeService {
    changes {
        run_pod_sandbox(run_pod_sandbox: RunPodSandboxRequest) -> RunPodSandboxResponse;
        stop_pod_sandbox(stop_pod_sandbox: StopPodSandboxRequest) -> StopPodSandboxResponse;
        remove_pod_sandbox(remove_pod_sandbox: RemovePodSandboxRequest)
            -> RemovePodSandboxResponse;
        create_container(create_container: CreateContainerRequest) -> CreateContainerResponse;
        start_container(start_container: StartContainerRequest) -> StartContainerResponse;
        stop_container(stop_container: StopContainerRequest) -> StopContainerResponse;
        remove_container(remove_container: RemoveContainerRequest) -> RemoveContainerResponse;
        update_container_resources(update_container_resources: UpdateContainerResourcesRequest)
            -> UpdateContainerResourcesResponse;
        update_pod_sandbox_resources(
            update_pod_sandbox_resources: UpdatePodSandboxResourcesRequest)
            -> UpdatePodSandboxResourcesResponse;
        update_runtime_config(update_runtime_config: UpdateRuntimeConfigRequest)
            -> UpdateRuntimeConfigResponse;
        checkpoint_container(checkpoint_container: CheckpointContainerRequest)
            -> CheckpointContainerResponse;
        reopen_container_log(reopen_container_log: ReopenContainerLogRequest)
            -> ReopenContainerLogResponse;
    }
    reads {
        version(version: VersionRequest) -> VersionResponse;
        status(status: StatusRequest) -> StatusResponse;
        runtime_config(runtime_config: RuntimeConfigRequest) -> RuntimeConfigResponse;
        pod_sandbox_status(pod_sandbox_status: PodSandboxStatusRequest)
            -> PodSandboxStatusResponse;
        list_pod_sandbox(list_pod_sandbox: ListPodSandboxRequest) -> ListPodSandboxResponse;
        container_status(container_status: ContainerStatusRequest) -> ContainerStatusResponse;
        list_containers(list_containers: ListContainersRequest) -> ListContainersResponse;
        exec_sync(exec_sync: ExecSyncRequest) -> ExecSyncResponse;
        exec(exec: ExecRequest) -> ExecResponse;
        attach(attach: AttachRequest) -> AttachResponse;
        port_forward(port_forward: PortForwardRequest) -> PortForwardResponse;
        container_stats(container_stats: ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(list_container_stats: ListContainerStatsRequest)
            -> ListContainerStatsResponse;
        pod_sandbox_stats(pod_sandbox_stats: PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(list_pod_sandbox_stats: ListPodSandboxStatsRequest)
            -> ListPodSandboxStatsResponse;
        list_metric_descriptors(list_metric_descriptors: ListMetricDescriptorsRequest)
            -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(list_pod_sandbox_metrics: ListPodSandboxMetricsRequest)
            -> ListPodSandboxMetricsResponse;
    }
    streams {
        get_container_events: GetContainerEventsStream
            (get_container_events::handle: GetEventsRequest) -> ContainerEventResponse;
        stream_pod_sandboxes: StreamPodSandboxesStream
            (list_pod_sandbox::stream: StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
        stream_containers: StreamContainersStream
            (list_containers::stream: StreamContainersRequest) -> StreamContainersResponse;
        stream_container_stats: StreamContainerStatsStream
            (container_stats::stream: StreamContainerStatsRequest)
            -> StreamContainerStatsResponse;
        stream_pod_sandbox_stats: StreamPodSandboxStatsStream
            (pod_sandbox_stats::stream: StreamPodSandboxStatsRequest)
            -> StreamPodSandboxStatsResponse;
        stream_pod_sandbox_metrics: StreamPodSandboxMetricsStream
            (metrics::stream: StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
    }
});

service!(ImageService {
    changes {
        remove_image(remove_image: RemoveImageRequest) -> RemoveImageResponse;
    }
    reads {
        list_images(list_images: ListImagesRequest) -> ListImagesResponse;
        image_status(image_status: ImageStatusRequest) -> ImageStatusResponse;
        image_fs_info(image_fs_info: ImageFsInfoRequest) -> ImageFsInfoResponse;
        // A pull whose client went away ends; what came in stays for the next attempt.
        pull_image(pull_image: PullImageRequest) -> PullImageResponse;
    }
    streams {
        stream_images: StreamImagesStream
            (list_images::stream: StreamImagesRequest) -> StreamImagesResponse;
    }
});

use container_stats as list_container_stats_mod;
use list_container_stats_mod::list as list_container_stats;
use metrics::{descriptors as list_metric_descriptors, pods as list_pod_sandbox_metrics};
use pod_sandbox_stats::list as list_pod_sandbox_stats;

/// Whether an object's labels have every pair that a selector wants.
fn selected<S: std::hash::BuildHasher>(
    labels: &std::collections::HashMap<String, String, S>,
    selector: &std::collections::HashMap<String, String, S>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
