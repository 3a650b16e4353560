//! What a pod sandbox is made of: pinned namespaces, a few files, a network. There is no pause
//! process; only a pod that shares its pid namespace has a small first process.

pub mod files;
pub mod init;
pub mod limits;
pub mod namespaces;
mod plan;
pub mod users;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use anyhow::Result;
use tracing::{Instrument, debug_span};

use crate::daemon::{Daemon, blocking};
use crate::network::{PodIps, PodNetRequest};
use crate::store::SandboxRecord;

pub use plan::Plan;
pub use users::IdMaps;

/// The pin of a namespace (`net`, `ipc`, `uts`, `user`, `pid`) of a sandbox.
pub fn pin(dir: &Path, kind: &str) -> PathBuf {
    dir.join("ns").join(kind)
}

/// What the network needs to know of a pod, at setup and again at teardown.
pub fn net_request(daemon: &Daemon, record: &SandboxRecord) -> PodNetRequest {
    let config = record.config();
    let metadata = record.metadata();
    PodNetRequest {
        pod_id: record.id.clone(),
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        netns: pin(&daemon.config.sandbox_dir(&record.id), "net"),
        port_mappings: config.port_mappings.clone(),
        dns: config.dns_config.clone().unwrap_or_default(),
        annotations: config.annotations.clone().into_iter().collect(),
        cgroup_parent: record.cgroup_parent.clone(),
    }
}

/// Makes everything of a sandbox whose record says Creating, and gives its addresses. After an
/// error [`teardown`] removes what was made.
pub async fn make(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<PodIps> {
    let dir = daemon.config.sandbox_dir(&record.id);
    let plan = Plan::new(record, dir, daemon.selinux())?;
    let made = plan.clone();
    let init = blocking(move || {
        files::make_dirs(&made)?;
        let init = namespaces::make(&made)?;
        files::mount_shm(&made)?;
        Ok(init)
    })
    .instrument(debug_span!("make namespaces"))
    .await?;
    if let Some(init) = init {
        reap(init);
    }
    let ips = if record.host_network() {
        PodIps::default()
    } else {
        let request = net_request(daemon, record);
        let setup = daemon.network.setup(&request);
        setup.instrument(debug_span!("set up network")).await?
    };
    let written = ips.clone();
    blocking(move || files::write(&plan, &written)).await?;
    Ok(ips)
}

/// Waits in a thread for the end of a first process, which is this daemon's child; one that was
/// started by an earlier daemon is the machine's.
fn reap(mut init: Child) {
    let thread = std::thread::Builder::new()
        .name("reap".into())
        .stack_size(64 * 1024);
    let waiting = thread.spawn(move || {
        // Nobody asks how it ended.
        let _ = init.wait();
    });
    if let Err(error) = waiting {
        tracing::warn!("a pod's first process will stay as a zombie: {error}");
    }
}

/// What a network that cannot be torn down is to the end of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An error: the client tries again.
    Ends,
    /// A line in the log, and tried again at the next start: who removes a pod wants it gone.
    IsReported,
}

/// Ends the network and the namespaces of a sandbox, and keeps its files. Any part may be gone.
pub async fn teardown(
    daemon: &Arc<Daemon>,
    record: &SandboxRecord,
    failure: Failure,
) -> Result<()> {
    if !record.host_network() {
        let request = net_request(daemon, record);
        let torn_down = daemon.network.teardown(&request);
        let torn_down = torn_down.instrument(debug_span!("tear down network"));
        match (torn_down.await, failure) {
            (Err(error), Failure::IsReported) => {
                tracing::error!(sandbox = record.id, "remove without its network: {error:#}");
            }
            (done, _) => done?,
        }
    }
    let dir = daemon.config.sandbox_dir(&record.id);
    blocking(move || {
        init::end(&dir)?;
        namespaces::unpin(&dir)?;
        files::unmount_shm(&dir)
    })
    .await
}

/// Removes the files and the cgroups of a sandbox after [`teardown`].
pub async fn remove(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<()> {
    let dir = daemon.config.sandbox_dir(&record.id);
    let cgroups = daemon.cgroups.clone();
    let made = record.cgroups_made.clone();
    blocking(move || {
        files::remove_dir(&dir)?;
        cgroups.remove_empty(&made)
    })
    .await
}
