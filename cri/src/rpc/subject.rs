//! What a request is about: the ids that every line logged on its way carries.

use rrun_cri_api::{probe, v1};

/// Pod, container and image of a request; empty where it names none.
#[derive(Clone, Copy, Default)]
pub struct Ids<'a> {
    /// A pod sandbox's id.
    pub pod: &'a str,
    /// A container's id.
    pub container: &'a str,
    /// An image's name or id.
    pub image: &'a str,
}

/// A request that can say what it is about.
pub trait Subject {
    /// Nothing, unless told otherwise.
    fn ids(&self) -> Ids<'_> {
        Ids::default()
    }
}

macro_rules! subjects {
    ($($request:ident $({ $($id:ident: $field:ident),* })?;)*) => {
        $(impl Subject for v1::$request {
            $(fn ids(&self) -> Ids<'_> {
                Ids { $($id: &self.$field,)* ..Ids::default() }
            })?
        })*
    };
}

subjects! {
    RunPodSandboxRequest;
    StopPodSandboxRequest { pod: pod_sandbox_id };
    RemovePodSandboxRequest { pod: pod_sandbox_id };
    PodSandboxStatusRequest { pod: pod_sandbox_id };
    PodSandboxStatsRequest { pod: pod_sandbox_id };
    UpdatePodSandboxResourcesRequest { pod: pod_sandbox_id };
    PortForwardRequest { pod: pod_sandbox_id };
    CreateContainerRequest { pod: pod_sandbox_id };
    StartContainerRequest { container: container_id };
    StopContainerRequest { container: container_id };
    RemoveContainerRequest { container: container_id };
    ContainerStatusRequest { container: container_id };
    ContainerStatsRequest { container: container_id };
    UpdateContainerResourcesRequest { container: container_id };
    CheckpointContainerRequest { container: container_id };
    ReopenContainerLogRequest { container: container_id };
    ExecSyncRequest { container: container_id };
    ExecRequest { container: container_id };
    AttachRequest { container: container_id };
    VersionRequest;
    StatusRequest;
    RuntimeConfigRequest;
    UpdateRuntimeConfigRequest;
    ListPodSandboxRequest;
    ListContainersRequest;
    ListContainerStatsRequest;
    ListPodSandboxStatsRequest;
    ListMetricDescriptorsRequest;
    ListPodSandboxMetricsRequest;
    ListImagesRequest;
    ImageFsInfoRequest;
    GetEventsRequest;
    StreamPodSandboxesRequest;
    StreamContainersRequest;
    StreamContainerStatsRequest;
    StreamPodSandboxStatsRequest;
    StreamPodSandboxMetricsRequest;
    StreamImagesRequest;
}

impl Subject for probe::UntilFailureRequest {
    fn ids(&self) -> Ids<'_> {
        Ids {
            container: &self.container_id,
            ..Ids::default()
        }
    }
}

macro_rules! images {
    ($($request:ident)*) => {
        $(impl Subject for v1::$request {
            fn ids(&self) -> Ids<'_> {
                Ids { image: self.image.as_ref().map_or("", |i| &i.image), ..Ids::default() }
            }
        })*
    };
}

images! { PullImageRequest RemoveImageRequest ImageStatusRequest }

/// The span of a call: its name, and the ids that the request has. Those that a call makes are
/// recorded when they are known. `parent` is the caller's place in a trace (W3C traceparent).
pub fn span(rpc: &'static str, request: &impl Subject, parent: Option<&str>) -> tracing::Span {
    let ids = request.ids();
    let span = tracing::info_span!(
        "call",
        rpc,
        traceparent = parent,
        pod = tracing::field::Empty,
        container = tracing::field::Empty,
        image = tracing::field::Empty
    );
    for (name, id) in [
        ("pod", ids.pod),
        ("container", ids.container),
        ("image", ids.image),
    ] {
        if !id.is_empty() {
            span.record(name, id);
        }
    }
    span
}
