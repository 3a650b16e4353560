//! What every call shares.

use std::future::Future;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use anyhow::{Context, Result};

use crate::cgroups::Cgroups;
use crate::config::{AskedSelinux, Config, Live, Runtime};
use crate::error;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::nri::Nri;
use crate::pulls::Pulls;
use crate::rest::Rest;
use crate::selinux;
use crate::shims::Shims;
use crate::stats::Rates;
use crate::store::{ContainerRecord, Entry, KeyLocks, SandboxRecord, Store};
use crate::streaming::Streaming;

/// The daemon: its configuration, its state, and those it works with.
pub struct Daemon {
    /// What file and command line said.
    pub config: Config,
    /// The part of it that a SIGHUP changes.
    live: RwLock<Arc<Live>>,
    /// Plugins.
    pub nri: Nri,
    /// Figures about this daemon.
    pub metrics: Metrics,
    /// Told of changes, for the time after them.
    pub rest: Rest,
    /// Processor time per second.
    pub rates: Rates,
    /// Pulls that are under way.
    pub pulls: Arc<Pulls>,
    /// Durable intent.
    pub store: Store,
    /// Images.
    pub images: rrun_images::Store,
    /// Network of pods.
    pub network: Network,
    /// Set once, right after the start: the streaming server needs the daemon itself.
    pub streaming: OnceLock<Streaming>,
    /// Connections to shims.
    pub shims: Shims,
    /// Subscribers of GetContainerEvents.
    pub events: Events,
    /// Names of sandboxes and containers that are being created.
    pub names: KeyLocks,
    /// The cgroup hierarchies of this machine.
    pub cgroups: Cgroups,
    /// This boot.
    pub boot_id: String,
}

impl Daemon {
    /// Opens everything. Changes nothing outside the daemon's own directories.
    pub async fn open(config: Config, live: Live) -> Result<Arc<Self>> {
        for dir in [&config.root, &config.state] {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let store = Store::open(&config.root)?;
        let images = rrun_images::Store::open(&config.store)
            .and_then(|images| images.with_format(config.layer_format))
            .with_context(|| format!("open image store {}", config.store.display()))?;
        let network = Network::open(config.network.clone()).await?;
        Ok(Arc::new(Self {
            store,
            images,
            network,
            streaming: OnceLock::new(),
            shims: Shims::default(),
            events: Events::default(),
            names: KeyLocks::default(),
            cgroups: Cgroups::detect()?,
            boot_id: crate::id::boot_id()?,
            live: RwLock::new(Arc::new(live)),
            metrics: Metrics::default(),
            nri: Nri::default(),
            rates: Rates::default(),
            rest: Rest::default(),
            pulls: Arc::default(),
            config,
        }))
    }

    /// The part of the configuration that may have changed.
    pub fn live(&self) -> Arc<Live> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces it.
    pub fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// Who gets an SELinux label; `None` where the machine has no SELinux.
    pub fn selinux(&self) -> Option<AskedSelinux> {
        selinux::enabled().then_some(self.config.selinux)
    }

    /// The runtime handler of a container's pod.
    pub fn runtime_of(&self, record: &ContainerRecord) -> Result<Runtime> {
        let sandbox = self.store.sandboxes.get(&record.sandbox_id);
        let handler = sandbox.map_or(String::new(), |s| s.get().runtime_handler.clone());
        Ok(self.live().runtime(&handler)?.clone())
    }

    /// The sandbox of an id or the start of one.
    pub fn sandbox(&self, id: &str) -> error::Result<Arc<Entry<SandboxRecord>>> {
        self.store
            .sandboxes
            .find(id)?
            .ok_or_else(|| error::Error::no_sandbox(id))
    }

    /// The container of an id or the start of one.
    pub fn container(&self, id: &str) -> error::Result<Arc<Entry<ContainerRecord>>> {
        self.store
            .containers
            .find(id)?
            .ok_or_else(|| error::Error::no_container(id))
    }

    /// The streaming server, which is there before the first call.
    pub fn streaming(&self) -> Result<&Streaming> {
        self.streaming
            .get()
            .context("the streaming server is not started yet")
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Entry<ContainerRecord>>> {
        let mut all = self.store.containers.all();
        all.retain(|entry| entry.get().sandbox_id == sandbox_id);
        all
    }
}

/// Runs work to its end even if the client goes away in the middle of it: half a change is worth
/// less than a whole one, and a retry finds it done.
pub async fn detached<T: Send + 'static>(
    work: impl Future<Output = error::Result<T>> + Send + 'static,
) -> error::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(anyhow::anyhow!("the call ended early: {error}").into()),
    }
}

/// Runs short blocking work (mounts, files, namespaces) off the asynchronous threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .context("the call ended early")?
}
