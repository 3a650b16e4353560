//! The steps that bring a sandbox or a container to life.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ObjectReference, Pod, Secret, Service};
use rrun_cri_api::v1 as cri;

use super::capsule::Capsules;
use super::cri::Cri;
use super::dirs::Dirs;
use super::eviction::Evictions;
use super::exec::Place;
use super::history::History;
use super::images::{Found, Images};
use super::memory::{Failure, every_container};
use super::sandbox::Dns;
use super::sources::{Facts, Sources};
use super::{container, env, hooks, names, sandbox, volumes};
use crate::api::Client;
use crate::api::auth::token::Bound;
use crate::events::Recorder;
use crate::proxy::policy::Gate;
use crate::resources::Resources;
use crate::store::Selector;

/// A pod whose network policies are not loaded by then is tried again later.
const LONGEST_GUARD: Duration = Duration::from_secs(20);

/// What every worker shares.
pub struct Shared {
    /// The API.
    pub client: Client,
    /// The runtime.
    pub cri: Cri,
    /// Directories.
    pub dirs: Dirs,
    /// Events.
    pub events: Recorder,
    /// Pulls.
    pub images: Images,
    /// DNS of pods.
    pub dns: Dns,
    /// The node's address.
    pub host_ip: String,
    /// What the node has for pods.
    pub allocatable: Resources,
    /// Handler for pods that name none.
    pub runtime_handler: String,
    /// Pods that are to go, and why.
    pub evictions: Evictions,
    /// What containers that failed left.
    pub capsules: Capsules,
    /// What containers used lately.
    pub history: History,
    /// Where a pod waits for its network policies.
    pub gate: Option<Gate>,
}

/// The API as a source of ConfigMaps and Secrets.
struct FromApi<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Sources for FromApi<'_> {
    fn config_map(&self, name: &str) -> Option<ConfigMap> {
        self.client.get_as(self.namespace, name).ok()
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.client.get_as(self.namespace, name).ok()
    }

    fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String> {
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref());
        let audiences = Some(audience.to_owned()).filter(|a| !a.is_empty());
        let bound = Bound {
            kind: "pod".to_owned(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: names::uid(pod).to_owned(),
        };
        let audiences = audiences.into_iter().collect();
        let account = account.unwrap_or("default");
        let made = self
            .client
            .token(self.namespace, account, audiences, seconds, Some(bound));
        made.map(|(token, _)| token).map_err(|s| s.message)
    }
}

/// A reference to the pod, for events.
pub fn reference(pod: &Pod, container: Option<(&str, &str)>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: container.map(|(list, name)| format!("spec.{list}{{{name}}}")),
    }
}

/// A reference to a container of the pod.
pub fn container_reference(pod: &Pod, name: &str) -> ObjectReference {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_ref());
    let list = if init.into_iter().flatten().any(|c| c.name == name) {
        "initContainers"
    } else {
        "containers"
    };
    reference(pod, Some((list, name)))
}

pub(super) fn failure(reason: &str, message: impl Into<String>) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.into(),
        at: Timestamp::now(),
    }
}

impl Shared {
    fn sources<'a>(&'a self, pod: &'a Pod) -> FromApi<'a> {
        FromApi {
            client: &self.client,
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
        }
    }

    fn facts(&self, pod_ips: Vec<String>) -> Facts {
        Facts {
            host_ip: self.host_ip.clone(),
            pod_ips,
            allocatable: self.allocatable.clone(),
        }
    }

    /// Makes or refreshes the pod's volumes.
    pub async fn volumes(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), String> {
        let (shared, pod) = (self.clone(), pod.clone());
        let ips = pod
            .status
            .as_ref()
            .and_then(|s| s.pod_ips.clone())
            .unwrap_or_default();
        let facts = self.facts(ips.into_iter().map(|ip| ip.ip).collect());
        let work = move || {
            let pod = volumes::claims::resolve(&shared.client, &pod)?;
            volumes::prepare(&pod, &shared.dirs, &shared.sources(&pod), &facts)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(error.to_string()),
        }
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> cri::PodSandboxConfig {
        sandbox::config(pod, &self.dirs, &self.dns, self.cri.driver(), attempt)
    }

    /// Makes the pod's volumes and its sandbox.
    pub async fn run_sandbox(self: &Arc<Self>, pod: Arc<Pod>, attempt: u32) -> Result<(), Failure> {
        self.volumes(&pod)
            .await
            .map_err(|why| failure("FailedMount", why))?;
        let config = self.sandbox_config(&pod, attempt);
        // The runtime writes logs there as soon as a container begins.
        std::fs::create_dir_all(&config.log_directory).map_err(|e| {
            failure(
                "FailedCreatePodSandBox",
                format!("{}: {e}", config.log_directory),
            )
        })?;
        let runtime_handler = self.handler(&pod)?;
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler,
        };
        let made = self.cri.runtime().run_pod_sandbox(request).await;
        made.map(drop).map_err(|status| {
            let why = status.message();
            failure(
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {why}"),
            )
        })
    }

    /// Makes and starts a container in a sandbox that is ready.
    pub async fn run_container(
        self: &Arc<Self>,
        pod: Arc<Pod>,
        container: Box<Container>,
        restarts: u32,
        sandbox_id: String,
    ) -> Result<(), Failure> {
        let object = container_reference(&pod, &container.name);
        let attempt = 0;
        let sandbox_config = self.sandbox_config(&pod, attempt);
        let note = |reason: &str, message: String| self.events.normal(&object, reason, message);
        let sources = self.sources(&pod);
        let image = self
            .images
            .ensure(
                &self.cri,
                &pod,
                &container,
                &sources,
                &sandbox_config,
                &note,
            )
            .await
            .map_err(|(reason, message)| failure(reason, message))?;
        check_user(&pod, &container, &image)
            .map_err(|why| failure("CreateContainerConfigError", why))?;
        self.image_volumes(&pod, &container, &sandbox_config, &note)
            .await?;
        let ips = self.addresses(&pod, &sandbox_id).await?;
        self.guarded(&pod, &ips).await?;
        let mut prepared = self
            .config(&pod, &container, restarts, &image, &ips)
            .map_err(|why| failure("CreateContainerConfigError", why))?;
        self.aim(&pod, &container.name, &mut prepared).await?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id,
            config: Some(prepared),
            sandbox_config: Some(sandbox_config),
        };
        let mut runtime = self.cri.runtime();
        let made = runtime.create_container(request).await;
        let id = made
            .map_err(|status| failure("CreateContainerError", status.message()))?
            .into_inner()
            .container_id;
        let name = &container.name;
        self.events
            .normal(&object, "Created", format!("Container created: {name}"));
        let request = cri::StartContainerRequest {
            container_id: id.clone(),
        };
        runtime
            .start_container(request)
            .await
            .map_err(|status| failure("RunContainerError", status.message()))?;
        self.events
            .normal(&object, "Started", format!("Container started: {name}"));
        self.post_start(&pod, *container, id, ips, &object).await
    }

    /// An ephemeral container with a target sees its target's processes.
    async fn aim(
        &self,
        pod: &Pod,
        name: &str,
        config: &mut cri::ContainerConfig,
    ) -> Result<(), Failure> {
        let spec = pod.spec.as_ref();
        let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_ref());
        let own = ephemeral.into_iter().flatten().find(|c| c.name == name);
        let Some(target) = own.and_then(|c| c.target_container_name.as_deref()) else {
            return Ok(());
        };
        let wrong = |why: &str| failure("CreateContainerConfigError", why);
        let all = self.cri.containers(names::uid(pod)).await;
        let all = all.map_err(|s| wrong(s.message()))?;
        let found = all.into_iter().find(|c| {
            c.state() == cri::ContainerState::ContainerRunning
                && c.labels.get(names::CONTAINER_NAME).map(String::as_str) == Some(target)
        });
        let Some(found) = found else {
            return Err(wrong(&format!("unable to find target container {target}")));
        };
        let context = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        let namespaces = context.namespace_options.get_or_insert_default();
        namespaces.pid = cri::NamespaceMode::Target.into();
        namespaces.target_id = found.id;
        Ok(())
    }

    /// Gives a running container other resources, and its pod the sum. What grows grows from the
    /// outside in, so that no limit is ever below what it holds.
    pub async fn resize(
        &self,
        pod: &Pod,
        id: String,
        sandbox: String,
        wanted: cri::LinuxContainerResources,
        shrinks: bool,
    ) -> Result<(), Failure> {
        let failed = |s: tonic::Status| failure("ResizeFailed", s.message());
        let spec = pod.spec.clone().unwrap_or_default();
        let whole = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox,
            overhead: None,
            resources: Some(sandbox::resources(&spec)),
        };
        let own = cri::UpdateContainerResourcesRequest {
            container_id: id,
            linux: Some(wanted),
            ..Default::default()
        };
        let (mut first, mut last) = (self.cri.runtime(), self.cri.runtime());
        let whole = async move {
            match first.update_pod_sandbox_resources(whole).await {
                // A runtime that leaves the pod's cgroup to the kubelet set no limit on it either.
                Err(s) if s.code() != tonic::Code::Unimplemented => Err(failed(s)),
                _ => Ok(()),
            }
        };
        let own = async move {
            let done = last.update_container_resources(own).await;
            done.map(drop).map_err(failed)
        };
        if shrinks {
            own.await?;
            whole.await
        } else {
            whole.await?;
            own.await
        }
    }

    async fn post_start(
        &self,
        pod: &Pod,
        container: Container,
        id: String,
        ips: Vec<String>,
        object: &ObjectReference,
    ) -> Result<(), Failure> {
        let ip = ips
            .into_iter()
            .next()
            .unwrap_or_else(|| self.host_ip.clone());
        let place = Place {
            cri: self.cri.clone(),
            id: id.clone(),
            container,
            ip,
        };
        let Err(why) = hooks::post_start(&place).await else {
            return Ok(());
        };
        self.events
            .warning(object, "FailedPostStartHook", why.clone());
        let grace = super::worker::grace(pod);
        // It runs without what its hook was to do: it is to start anew.
        let _ = self.cri.stop(&id, grace).await;
        Err(failure("PostStartHookError", why))
    }

    /// Pulls the images that are mounted as volumes.
    async fn image_volumes(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &cri::PodSandboxConfig,
        note: &(dyn Fn(&str, String) + Send + Sync),
    ) -> Result<(), Failure> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref());
        for volume in volumes.unwrap_or_default() {
            let mut mounts = container.volume_mounts.iter().flatten();
            let Some(image) = volume
                .image
                .as_ref()
                .filter(|_| mounts.any(|m| m.name == volume.name))
            else {
                continue;
            };
            let wanted = Container {
                name: container.name.clone(),
                image: image.reference.clone(),
                image_pull_policy: image.pull_policy.clone(),
                ..Container::default()
            };
            let sources = self.sources(pod);
            let found = self
                .images
                .ensure(&self.cri, pod, &wanted, &sources, sandbox, note)
                .await;
            found.map_err(|(reason, message)| failure(reason, message))?;
        }
        Ok(())
    }

    /// Waits until the network policies of the pod's addresses hold.
    async fn guarded(&self, pod: &Pod, ips: &[String]) -> Result<(), Failure> {
        let host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let Some(gate) = self.gate.as_ref().filter(|_| !host) else {
            return Ok(());
        };
        let ips = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let passed = gate.pass(names::uid(pod), ips, LONGEST_GUARD).await;
        passed.map_err(|why| failure("NetworkPolicyNotReady", why))
    }

    async fn addresses(&self, pod: &Pod, sandbox: &str) -> Result<Vec<String>, Failure> {
        if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            return Ok(vec![self.host_ip.clone()]);
        }
        let status = self.cri.sandbox(sandbox).await;
        let status = status.map_err(|s| failure("CreateContainerError", s.message()))?;
        let network = status.and_then(|s| s.status).and_then(|s| s.network);
        let mut ips: Vec<String> = network.iter().map(|n| n.ip.clone()).collect();
        ips.extend(
            network
                .into_iter()
                .flat_map(|n| n.additional_ips)
                .map(|ip| ip.ip),
        );
        ips.retain(|ip| !ip.is_empty());
        Ok(ips)
    }

    fn config(
        &self,
        pod: &Pod,
        container: &Container,
        restarts: u32,
        image: &Found,
        ips: &[String],
    ) -> Result<cri::ContainerConfig, String> {
        let services = self.services(pod)?;
        let sources = self.sources(pod);
        let facts = self.facts(ips.to_vec());
        let env = env::environment(pod, container, &services, &sources, &facts)?;
        let resolved = volumes::claims::resolve(&self.client, pod)?;
        let own = every_container(&resolved);
        let own = own.into_iter().find(|c| c.name == container.name);
        let mut mounts = volumes::mounts(
            &resolved,
            own.as_ref().unwrap_or(container),
            &self.dirs,
            &env,
        )?;
        let uid = names::uid(pod);
        if pod.spec.as_ref().and_then(|s| s.host_network) != Some(true) {
            mounts.extend(self.hosts(pod, container, ips)?);
        }
        let message_file = self.dirs.message(uid, &container.name, restarts);
        mounts.push(message_mount(container, &message_file)?);
        Ok(container::config(&container::Prepared {
            pod,
            container,
            restarts,
            image_ref: image.image_ref.clone(),
            env,
            mounts,
            message_file: &message_file,
            node: &self.allocatable,
        }))
    }

    fn services(&self, pod: &Pod) -> Result<Vec<Service>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut all: Vec<Service> = self
            .client
            .list_as(namespace, &Selector::all())
            .map_err(|s| s.message)?;
        if namespace != "default" {
            all.extend(self.client.get_as("default", "kubernetes").ok());
        }
        all.retain(|service| env::is_told_of(pod, service));
        Ok(all)
    }

    /// `/etc/hosts`, unless the container mounts its own.
    fn hosts(
        &self,
        pod: &Pod,
        container: &Container,
        ips: &[String],
    ) -> Result<Option<cri::Mount>, String> {
        let own = container
            .volume_mounts
            .iter()
            .flatten()
            .any(|m| m.mount_path == "/etc/hosts");
        if own {
            return Ok(None);
        }
        let path = self.dirs.hosts(names::uid(pod));
        let text = hosts_file(pod, &self.dns.domain, ips);
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            write(&path, &text)?;
        }
        Ok(Some(cri::Mount {
            container_path: "/etc/hosts".to_owned(),
            host_path: path.to_string_lossy().into_owned(),
            ..cri::Mount::default()
        }))
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}

fn hosts_file(pod: &Pod, domain: &str, ips: &[String]) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let host = sandbox::hostname(pod, &spec);
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
            Some(sub) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                text.push_str(&format!(
                    "{ip}\t{host}.{sub}.{namespace}.svc.{domain}\t{host}\n"
                ));
            }
            None => text.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    let aliases: Vec<_> = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

fn message_mount(container: &Container, file: &std::path::Path) -> Result<cri::Mount, String> {
    use std::os::unix::fs::PermissionsExt;
    write(file, "")?;
    // Whatever user the container runs as may write it.
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666))
        .map_err(|e| format!("{}: {e}", file.display()))?;
    let path = container.termination_message_path.clone();
    Ok(cri::Mount {
        container_path: path.unwrap_or_else(|| container::MESSAGE_PATH.to_owned()),
        host_path: file.to_string_lossy().into_owned(),
        ..cri::Mount::default()
    })
}

/// runAsNonRoot: the user must be known to be another than root.
fn check_user(pod: &Pod, container: &Container, image: &Found) -> Result<(), String> {
    let spec = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let strict = own
        .and_then(|c| c.run_as_non_root)
        .or(spec.and_then(|c| c.run_as_non_root));
    if strict != Some(true) {
        return Ok(());
    }
    let asked = own
        .and_then(|c| c.run_as_user)
        .or(spec.and_then(|c| c.run_as_user));
    match (asked, image.uid) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err("container has runAsNonRoot and image will run as root".to_owned()),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => {
            Err("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        )),
    }
}
