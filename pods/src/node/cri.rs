//! The connection to the CRI socket. It connects when first used and again whenever it was lost.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rrun_cri_api::probe;
use rrun_cri_api::probe::probe_client::ProbeClient;
use rrun_cri_api::v1 as cri;
use rrun_cri_api::v1::image_service_client::ImageServiceClient;
use rrun_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Room for a list of many pods, or the output of an exec (16 MiB each way).
const LARGEST_MESSAGE: usize = 64 << 20;
/// Calls that only look are answered within this, or something is wrong.
const SHORT: Duration = Duration::from_secs(20);

/// A client of both CRI services; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    probes: ProbeClient<Channel>,
    name: Arc<OnceLock<String>>,
    away: Arc<AtomicBool>,
    systemd: Arc<AtomicBool>,
    path: Arc<Path>,
}

/// Result of a CRI call.
pub type Result<T> = std::result::Result<T, tonic::Status>;

/// A request that is given up on after [`SHORT`].
fn short<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(SHORT);
    request
}

impl Cri {
    /// A client of `socket`, as `unix:///run/rrun-cri/cri.sock` or a path.
    pub fn new(socket: &str) -> anyhow::Result<Self> {
        let path = socket.strip_prefix("unix://").unwrap_or(socket);
        anyhow::ensure!(
            path.starts_with('/'),
            "--cri-socket {socket}: must be an absolute path or unix:///path"
        );
        let channel = Endpoint::try_from(format!("unix://{path}"))?.connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(LARGEST_MESSAGE)
                .max_encoding_message_size(LARGEST_MESSAGE),
            images: ImageServiceClient::new(channel.clone()),
            probes: ProbeClient::new(channel),
            name: Arc::default(),
            away: Arc::default(),
            systemd: Arc::default(),
            path: PathBuf::from(path).into(),
        })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a use in asking: false from when the agent lost the runtime until it found
    /// it again.
    pub fn is_there(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    /// Notes that the runtime was lost, or found.
    pub(super) fn set_there(&self, there: bool) {
        self.away.store(!there, Ordering::Relaxed);
    }

    /// Asks how the runtime makes cgroups. One that cannot be asked makes them itself.
    pub(super) async fn learn_driver(&self) {
        let request = short(cri::RuntimeConfigRequest {});
        let answer = self.runtime().runtime_config(request).await;
        let linux = answer.ok().and_then(|a| a.into_inner().linux);
        let systemd = linux.is_some_and(|l| l.cgroup_driver() == cri::CgroupDriver::Systemd);
        self.systemd.store(systemd, Ordering::Relaxed);
    }

    /// How the runtime makes cgroups.
    pub fn driver(&self) -> cri::CgroupDriver {
        if self.systemd.load(Ordering::Relaxed) {
            cri::CgroupDriver::Systemd
        } else {
            cri::CgroupDriver::Cgroupfs
        }
    }

    /// The runtime service.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The image service.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// The runtime's name (`rrun`), asked once.
    pub async fn name(&self) -> String {
        if let Some(name) = self.name.get() {
            return name.clone();
        }
        match self.version().await {
            Ok(version) => {
                let name = version.runtime_name;
                self.name.get_or_init(|| name).clone()
            }
            Err(_) => "rrun".to_owned(),
        }
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<cri::VersionResponse> {
        let request = short(cri::VersionRequest::default());
        Ok(self.runtime().version(request).await?.into_inner())
    }

    /// The sandboxes of a pod, or all.
    pub async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = uid.map(|uid| cri::PodSandboxFilter {
            label_selector: [(super::names::POD_UID.to_owned(), uid.to_owned())].into(),
            ..cri::PodSandboxFilter::default()
        });
        let request = short(cri::ListPodSandboxRequest { filter });
        Ok(self
            .runtime()
            .list_pod_sandbox(request)
            .await?
            .into_inner()
            .items)
    }

    /// A sandbox's status, with its containers where the runtime tells them too; `None` where it
    /// is gone.
    pub async fn sandbox(&self, id: &str) -> Result<Option<cri::PodSandboxStatusResponse>> {
        let request = short(cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        });
        match self.runtime().pod_sandbox_status(request).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// The containers of a pod.
    pub async fn containers(&self, uid: &str) -> Result<Vec<cri::Container>> {
        let filter = cri::ContainerFilter {
            label_selector: [(super::names::POD_UID.to_owned(), uid.to_owned())].into(),
            ..cri::ContainerFilter::default()
        };
        let request = short(cri::ListContainersRequest {
            filter: Some(filter),
        });
        Ok(self
            .runtime()
            .list_containers(request)
            .await?
            .into_inner()
            .containers)
    }

    /// A container's status; `None` where it is gone.
    pub async fn container(&self, id: &str) -> Result<Option<cri::ContainerStatus>> {
        let request = short(cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        });
        match self.runtime().container_status(request).await {
            Ok(answer) => Ok(answer.into_inner().status),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// What the runtime tells of a container beside its status, in a form of its own.
    pub async fn container_info(&self, id: &str) -> Result<String> {
        let request = short(cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        });
        let mut answer = self.runtime().container_status(request).await?.into_inner();
        Ok(answer.info.remove("info").unwrap_or_default())
    }

    /// Stops a container, killing it after `grace` seconds.
    pub async fn stop(&self, id: &str, grace: i64) -> Result<()> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace,
        };
        gone_is_fine(self.runtime().stop_container(request).await.map(drop))
    }

    /// Removes a container.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        gone_is_fine(self.runtime().remove_container(request).await.map(drop))
    }

    /// Stops a sandbox and what runs in it.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(self.runtime().stop_pod_sandbox(request).await.map(drop))
    }

    /// Removes a sandbox and its containers.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        gone_is_fine(self.runtime().remove_pod_sandbox(request).await.map(drop))
    }

    /// Runs a command in a container and gives its output.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse> {
        let mut request = tonic::Request::new(cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        });
        if !timeout.is_zero() {
            request.set_timeout(timeout + SHORT);
        }
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    /// Runs a command again and again; gives the first run that does not succeed. Unimplemented where
    /// the runtime is not rrun-cri, or cannot do so in this container.
    pub async fn exec_until_failure(
        &self,
        request: probe::UntilFailureRequest,
    ) -> Result<probe::UntilFailureResponse> {
        let answer = self.probes.clone().until_failure(request).await?;
        Ok(answer.into_inner())
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => other,
    }
}
