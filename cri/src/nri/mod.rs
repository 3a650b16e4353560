//! The Node Resource Interface: plugins that hear of pods and containers, and adjust containers
//! that are being created.
//!
//! Plugins connect to a socket, or are started from a directory. Work that a plugin must not miss
//! (a creation, from the plugins' say to the record) holds the list of plugins for reading; a new
//! plugin is told what there is and joins the list while holding it for writing. So whatever was
//! made before it came is in what it is told, and whatever comes after reaches it as an event.

mod adjust;
mod convert;
mod events;
mod owners;
mod peer;
mod plugin;
mod resources;
mod updates;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, bail};
use rrun_cri_api::{nri, v1};
use rrun_task_api::Status;
use rrun_task_api::prost::Message;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::config::file;
use crate::container;
use crate::daemon::Daemon;
use crate::store::{ContainerPhase, ContainerRecord, SandboxPhase, SandboxRecord};
use owners::Owners;
use peer::Serve;
use plugin::{Installed, Plugin};

pub use events::Event;

/// The plugins that are connected.
#[derive(Default)]
pub struct Nri {
    plugins: RwLock<Vec<Arc<Plugin>>>,
}

/// The plugins as long as this lives: none joins or leaves.
pub struct Hold<'a>(RwLockReadGuard<'a, Vec<Arc<Plugin>>>);

impl Nri {
    /// Keeps new plugins waiting. Never held twice by one call: a plugin that waits in between
    /// would wait for ever.
    pub async fn hold(&self) -> Hold<'_> {
        Hold(self.plugins.read().await)
    }
}

impl Hold<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn wanting(&self, event: Event) -> impl Iterator<Item = &Arc<Plugin>> {
        self.0.iter().filter(move |plugin| plugin.wants(event))
    }

    /// Tells of something that happens to a pod. The first plugin that refuses ends it.
    pub async fn pod(&self, event: Event, record: &SandboxRecord) -> Result<()> {
        for plugin in self.wanting(event) {
            // All of these requests have the pod as their field 1, and nothing else.
            let request = nri::RunPodSandboxRequest {
                pod: Some(convert::pod(record)),
            };
            let old = nri::StateChangeEvent {
                event: event as i32,
                pod: request.pod.clone(),
                container: None,
            };
            plugin
                .call::<_, nri::Empty>(event, &request, Some(&old))
                .await?;
        }
        Ok(())
    }

    /// Tells what a pod's limits are to become. The first plugin that refuses ends it.
    pub async fn update_pod(
        &self,
        record: &SandboxRecord,
        overhead: Option<&v1::LinuxContainerResources>,
        resources: Option<&v1::LinuxContainerResources>,
    ) -> Result<()> {
        for plugin in self.wanting(Event::UpdatePodSandbox) {
            let request = nri::UpdatePodSandboxRequest {
                pod: Some(convert::pod(record)),
                overhead_linux_resources: overhead.map(convert::from_cri),
                linux_resources: resources.map(convert::from_cri),
            };
            plugin
                .call::<_, nri::Empty>(Event::UpdatePodSandbox, &request, None)
                .await?;
        }
        Ok(())
    }

    /// Tells of something that happens to a container, and gives the updates of others that the
    /// plugins want.
    pub async fn container(
        &self,
        event: Event,
        pod: &SandboxRecord,
        record: &ContainerRecord,
        spec: &Value,
    ) -> Result<Vec<nri::ContainerUpdate>> {
        let mut updates = Vec::new();
        for plugin in self.wanting(event) {
            // All of these requests have pod and container as their fields 1 and 2, and all of
            // the answers are empty, but for Stop's.
            let request = nri::StopContainerRequest {
                pod: Some(convert::pod(pod)),
                container: Some(convert::container(record, spec)),
            };
            let old = nri::StateChangeEvent {
                event: event as i32,
                pod: request.pod.clone(),
                container: request.container.clone(),
            };
            let old = (event != Event::StopContainer).then_some(&old);
            let answer: Option<nri::StopContainerResponse> =
                plugin.call(event, &request, old).await?;
            updates.extend(answer.unwrap_or_default().update);
        }
        Ok(updates)
    }

    /// Lets the plugins adjust a container that is being created, and gives the updates of others
    /// and the CDI devices that they want.
    pub async fn create_container(
        &self,
        pod: &SandboxRecord,
        record: &ContainerRecord,
        spec: &mut Value,
    ) -> Result<(Vec<nri::ContainerUpdate>, Vec<String>)> {
        if self.is_empty() {
            return Ok((vec![], vec![]));
        }
        let pristine = convert::container(record, spec);
        let mut owners = Owners::default();
        let mut asked = Vec::new();
        let (mut updates, mut devices) = (Vec::new(), Vec::new());
        for plugin in self.wanting(Event::CreateContainer) {
            let request = nri::CreateContainerRequest {
                pod: Some(convert::pod(pod)),
                container: Some(convert::container(record, spec)),
            };
            let answer: Option<nri::CreateContainerResponse> =
                plugin.call(Event::CreateContainer, &request, None).await?;
            let answer = answer.unwrap_or_default();
            if let Some(adjustment) = answer.adjust {
                adjust::apply(&adjustment, spec, &mut owners, &plugin.label)?;
                devices.extend(adjustment.cdi_devices.iter().map(|d| d.name.clone()));
                asked.push(adjustment);
            }
            updates.extend(answer.update);
        }
        let request = nri::ValidateContainerAdjustmentRequest {
            pod: Some(convert::pod(pod)),
            container: Some(pristine),
            adjust: merged(asked),
            update: updates.clone(),
            owners: Some(nri::OwningPlugins {
                owners: [(record.id.clone(), owners.to_message())].into(),
            }),
            plugins: self.0.iter().map(|p| instance(&p.label)).collect(),
        };
        self.validate(&request).await?;
        Ok((updates, devices))
    }

    async fn validate(&self, request: &nri::ValidateContainerAdjustmentRequest) -> Result<()> {
        let event = Event::ValidateContainerAdjustment;
        for plugin in self.wanting(event) {
            let answer: Option<nri::ValidateContainerAdjustmentResponse> =
                plugin.call(event, request, None).await?;
            if let Some(answer) = answer.filter(|answer| answer.reject) {
                bail!(
                    "NRI plugin {} rejects the adjustments: {}",
                    plugin.label,
                    answer.reason
                );
            }
        }
        Ok(())
    }

    /// Lets the plugins see and change an update of a container's resources.
    pub async fn update_container(
        &self,
        pod: &SandboxRecord,
        record: &ContainerRecord,
        spec: &Value,
        asked: &v1::LinuxContainerResources,
    ) -> Result<Vec<nri::ContainerUpdate>> {
        let mut updates = Vec::new();
        for plugin in self.wanting(Event::UpdateContainer) {
            let request = nri::UpdateContainerRequest {
                pod: Some(convert::pod(pod)),
                container: Some(convert::container(record, spec)),
                linux_resources: Some(convert::from_cri(asked)),
            };
            let answer: Option<nri::UpdateContainerResponse> =
                plugin.call(Event::UpdateContainer, &request, None).await?;
            updates.extend(answer.unwrap_or_default().update);
        }
        Ok(updates)
    }
}

/// All adjustments in one, as protobuf merges messages: later values go before, lists add up.
fn merged(asked: Vec<nri::ContainerAdjustment>) -> Option<nri::ContainerAdjustment> {
    let bytes: Vec<u8> = asked.iter().flat_map(Message::encode_to_vec).collect();
    nri::ContainerAdjustment::decode(&bytes[..]).ok()
}

fn instance(label: &str) -> nri::PluginInstance {
    let (index, name) = label.split_once('-').unwrap_or_default();
    nri::PluginInstance {
        name: name.to_owned(),
        index: index.to_owned(),
    }
}

/// Starts the installed plugins and listens for others; gives the socket that it listens on.
pub async fn start(daemon: &Arc<Daemon>) -> Result<Option<PathBuf>> {
    let settings = daemon.config.nri.clone();
    if !settings.enable {
        return Ok(None);
    }
    for installed in Installed::find(&settings)? {
        let started = async {
            let (stream, child) = installed.start()?;
            join(daemon, stream, Some((&installed, child))).await
        };
        if let Err(error) = started.await {
            tracing::error!(plugin = %installed.path.display(), "start an NRI plugin: {error:#}");
        }
    }
    let listener = match crate::server::listen(&settings.socket, "nri.socket").await {
        Ok(listener) => listener,
        // Another runtime's plugins are no reason to serve no pods.
        Err(error) => {
            tracing::error!("no NRI plugin can connect: {error:#}");
            return Ok(None);
        }
    };
    let daemon = Arc::downgrade(daemon);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                let Some(daemon) = daemon.upgrade() else {
                    return;
                };
                if let Err(error) = join(&daemon, stream, None).await {
                    tracing::error!("an NRI plugin that connected: {error:#}");
                }
            });
        }
    });
    Ok(Some(settings.socket))
}

/// Registers a plugin, tells it what there is, and adds it to the list.
async fn join(
    daemon: &Arc<Daemon>,
    stream: UnixStream,
    installed: Option<(&Installed, Child)>,
) -> Result<()> {
    let settings: &file::Nri = &daemon.config.nri;
    let serve = serve(Arc::downgrade(daemon));
    let plugin = Plugin::register(stream, settings, installed, serve).await?;
    let plugin = Arc::new(plugin);
    let updates = {
        let mut plugins = daemon.nri.plugins.write().await;
        let (pods, containers) = everything(daemon);
        let limit = settings.synchronize_timeout.0;
        let updates = plugin.synchronize(pods, containers, limit).await?;
        plugins.push(plugin.clone());
        plugins.sort_by(|a, b| a.label.cmp(&b.label));
        updates
    };
    tracing::info!(plugin = plugin.label, "an NRI plugin is synchronized");
    let (leaving, ended) = (daemon.clone(), plugin.ended());
    let gone = Arc::downgrade(&plugin);
    let label = plugin.label.clone();
    drop(plugin);
    tokio::spawn(async move {
        ended.await;
        let mut plugins = leaving.nri.plugins.write().await;
        plugins.retain(|p| !Weak::ptr_eq(&Arc::downgrade(p), &gone));
        tracing::info!(plugin = label, "an NRI plugin is gone");
    });
    updates::apply_all(daemon, updates, None).await.map(drop)
}

/// Pods that are ready, and containers that have not ended.
fn everything(daemon: &Daemon) -> (Vec<nri::PodSandbox>, Vec<nri::Container>) {
    let pods = daemon.store.sandboxes.all();
    let pods = pods.iter().map(|entry| entry.get());
    let pods = pods.filter(|record| record.phase() == SandboxPhase::Ready);
    let containers = daemon.store.containers.all();
    let containers = containers.iter().map(|entry| entry.get()).filter(|record| {
        matches!(
            record.phase(),
            ContainerPhase::Created | ContainerPhase::Starting | ContainerPhase::Running
        )
    });
    let containers = containers.map(|record| {
        let spec = container::read_spec(daemon, &record.id).unwrap_or_default();
        convert::container(&record, &spec)
    });
    (
        pods.map(|record| convert::pod(&record)).collect(),
        containers.collect(),
    )
}

/// What a plugin asks of its own accord.
fn serve(daemon: Weak<Daemon>) -> Arc<Serve> {
    Arc::new(move |method, payload| {
        let daemon = daemon.clone();
        Box::pin(async move {
            if method != "UpdateContainers" {
                return Err(Status::unimplemented(format!("no method {method}")));
            }
            let request = nri::UpdateContainersRequest::decode(&payload[..]);
            let request = request.map_err(|e| Status::invalid(e.to_string()))?;
            let daemon = daemon.upgrade().context("the daemon is ending");
            let daemon = daemon.map_err(|e| Status::precondition(e.to_string()))?;
            let failed = updates::apply_each(&daemon, request.update, None).await;
            updates::evict(&daemon, request.evict);
            Ok(nri::UpdateContainersResponse { failed }.encode_to_vec())
        })
    })
}

impl Daemon {
    /// Tells the plugins of a pod, where their opinion changes nothing any more.
    pub async fn tell_pod(&self, event: Event, record: &SandboxRecord) {
        let told = self.nri.hold().await.pod(event, record).await;
        if let Err(error) = told {
            tracing::warn!(pod = record.id, "{error:#}");
        }
    }

    /// Tells the plugins of a container, where their opinion changes nothing any more.
    pub async fn tell_container(self: &Arc<Self>, event: Event, record: &ContainerRecord) {
        if let Err(error) = self.ask_container(event, record).await {
            tracing::warn!(container = record.id, "{error:#}");
        }
    }

    /// Asks the plugins about a container: the first that refuses ends it.
    pub async fn ask_container(
        self: &Arc<Self>,
        event: Event,
        record: &ContainerRecord,
    ) -> Result<()> {
        let updates = {
            let hold = self.nri.hold().await;
            if hold.wanting(event).next().is_none() {
                return Ok(());
            }
            let Some(pod) = self.store.sandboxes.get(&record.sandbox_id) else {
                return Ok(());
            };
            let spec = container::read_spec(self, &record.id).unwrap_or_default();
            hold.container(event, &pod.get(), record, &spec).await?
        };
        updates::apply_all(self, updates, Some(&record.id)).await
    }
}

pub use resources::to_cri;
pub use updates::apply_all as update_others;
pub use updates::asked;
