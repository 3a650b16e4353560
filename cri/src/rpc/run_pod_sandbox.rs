//! RunPodSandbox.

use std::collections::HashSet;
use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::id;
use crate::nri::Event;
use crate::sandbox::{self, Failure};
use crate::selinux;
use crate::store::{Entry, SandboxPhase, SandboxRecord, VERSION};

/// Makes a sandbox. A retry of a request that went through gets the same sandbox.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("config is missing"))?;
    let known = daemon.live().runtime(&request.runtime_handler).map(drop);
    known.map_err(|error| Error::invalid(error.to_string()))?;
    let name = name(&config)?;
    let _name = daemon.names.lock(format!("sandbox {name}")).await;
    if let Some(pod_sandbox_id) = existing(daemon, &config, &name)? {
        return Ok(v1::RunPodSandboxResponse { pod_sandbox_id });
    }
    let record = record(daemon, config, request.runtime_handler)?;
    // Refused before anything is written.
    if let Some(linux) = record.config().linux.as_ref().filter(|_| record.limits_set) {
        sandbox::limits::plan(linux, daemon.cgroups.unified)?;
    }
    let dir = daemon.config.sandbox_dir(&record.id);
    let plan = sandbox::Plan::new(&record, dir, daemon.selinux())?;
    if let Some(labels) = plan.labels {
        selinux::check(&labels.process)?;
    }
    tracing::Span::current().record("pod", record.id.as_str());
    let entry = daemon.store.add(record).await?;
    let _guard = entry.lock.lock().await;
    make(daemon, &entry).await?;
    let pod_sandbox_id = entry.get().id.clone();
    for kind in [
        v1::ContainerEventType::ContainerCreatedEvent,
        v1::ContainerEventType::ContainerStartedEvent,
    ] {
        daemon.publish(kind, &pod_sandbox_id, &pod_sandbox_id);
    }
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
}

/// What makes a sandbox unique.
fn name(config: &v1::PodSandboxConfig) -> Result<String> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("config.metadata is missing"))?;
    for (field, value) in [
        ("name", &metadata.name),
        ("namespace", &metadata.namespace),
        ("uid", &metadata.uid),
    ] {
        if value.is_empty() {
            return Err(Error::invalid(format!("config.metadata.{field} is empty")));
        }
    }
    Ok(format!(
        "{}/{} (uid {}, attempt {})",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    ))
}

/// A sandbox of the same name: the answer where it is the same and ready, else an error.
fn existing(daemon: &Daemon, config: &v1::PodSandboxConfig, name: &str) -> Result<Option<String>> {
    let same = |entry: &Arc<Entry<SandboxRecord>>| entry.get().config().metadata == config.metadata;
    let Some(entry) = daemon.store.sandboxes.all().into_iter().find(same) else {
        return Ok(None);
    };
    let record = entry.get();
    if record.phase() == SandboxPhase::Ready && record.config() == config {
        return Ok(Some(record.id.clone()));
    }
    Err(Error::Exists(format!(
        "pod sandbox {name} exists as {}: remove it first, or raise the attempt",
        record.id
    )))
}

fn record(
    daemon: &Daemon,
    config: v1::PodSandboxConfig,
    runtime_handler: String,
) -> Result<SandboxRecord> {
    let id = new_id(daemon)?;
    let linux = config.linux.as_ref();
    let named = linux.is_some_and(|l| !l.cgroup_parent.is_empty());
    let cgroup_parent = match linux.map(|l| l.cgroup_parent.as_str()) {
        None | Some("") => format!("/rrun-cri/{id}"),
        Some(parent) if parent.starts_with('/') && !parent.contains("/..") => parent.to_owned(),
        Some(parent) => {
            return Err(Error::invalid(format!(
                "config.linux.cgroup_parent {parent:?} is not an absolute path"
            )));
        }
    };
    let cgroups_made = cgroups_made(daemon, &cgroup_parent);
    Ok(SandboxRecord {
        version: VERSION,
        id,
        phase: SandboxPhase::Creating as i32,
        created_at: id::now(),
        runtime_handler,
        limits_set: named && cgroups_made.contains(&cgroup_parent),
        cgroups_made,
        cgroup_parent,
        config: Some(config),
        boot_id: daemon.boot_id.clone(),
        ..Default::default()
    })
}

/// An id whose SELinux categories no other pod has.
fn new_id(daemon: &Daemon) -> Result<String> {
    let pods = daemon.store.sandboxes.all();
    let taken: HashSet<String> = pods.iter().map(|p| selinux::level(&p.get().id)).collect();
    loop {
        let id = id::new_id()?;
        if !taken.contains(&selinux::level(&id)) {
            return Ok(id);
        }
    }
}

/// The ancestors that the containers' cgroups will bring into being, and those that another
/// sandbox's did: the last of them takes them away.
fn cgroups_made(daemon: &Daemon, parent: &str) -> Vec<String> {
    let mut made = daemon.cgroups.missing(parent);
    for entry in daemon.store.sandboxes.all() {
        for cgroup in &entry.get().cgroups_made {
            let above = std::path::Path::new(parent).starts_with(cgroup);
            if above && !made.contains(cgroup) {
                made.push(cgroup.clone());
            }
        }
    }
    made.sort_by_key(|cgroup| std::cmp::Reverse(cgroup.len()));
    made
}

/// Makes it, or leaves nothing.
async fn make(daemon: &Arc<Daemon>, entry: &Entry<SandboxRecord>) -> Result<()> {
    let record = entry.get();
    match make_whole(daemon, entry, &record).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // What cannot be undone now is undone when the record is found at the next start, or
            // removed by whoever sees it listed as not ready.
            daemon.tell_pod(Event::RemovePodSandbox, &record).await;
            if let Err(undo) = super::remove_pod_sandbox::undo(daemon, entry, Failure::Ends).await {
                tracing::error!(pod = record.id, "undo a sandbox: {undo:#}");
            }
            Err(error.into())
        }
    }
}

async fn make_whole(
    daemon: &Arc<Daemon>,
    entry: &Entry<SandboxRecord>,
    record: &SandboxRecord,
) -> anyhow::Result<()> {
    let ips = sandbox::make(daemon, record).await?;
    let ips: Vec<_> = ips.0.iter().map(ToString::to_string).collect();
    // Until the record says Ready: a plugin that joins meanwhile is told of it one way or the other.
    let plugins = daemon.nri.hold().await;
    let mut told = record.clone();
    told.ips.clone_from(&ips);
    plugins.pod(Event::RunPodSandbox, &told).await?;
    let ready = |r: &mut SandboxRecord| {
        r.ips = ips;
        r.set_phase(SandboxPhase::Ready);
    };
    daemon.store.update(entry, ready).await
}
