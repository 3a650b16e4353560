//! After a start, whatever came before it: re-read the world, plan, execute.
//!
//! The world is the shims, the exit records, the pins of namespaces and the boot. The plan is one
//! step per record; nothing that runs is touched, let alone restarted.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use rrun_task_api::exit::Exit;
use rrun_task_api::pb::shim;
use rrun_task_api::pb::task_types::Status;

use crate::container;
use crate::daemon::{Daemon, blocking};
use crate::exec;
use crate::rpc;
use crate::sandbox::{self, Failure};
use crate::store::{ContainerPhase, ContainerRecord, Entry, SandboxPhase, SandboxRecord};

/// What the world says of a container.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Its exit record.
    exit: Option<Exit>,
    /// What its shim says; `None` where there is no shim.
    shim: Option<shim::StatusResponse>,
    /// The bundle is there: no reboot since.
    bundle: bool,
}

/// What to do about a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerStep {
    /// It is as its record says.
    Keep,
    /// It runs: wait for its end.
    Watch,
    /// It runs, though the record only says that it was to be started: note that, and wait.
    Adopt,
    /// It never ran: end the half-made shim; it is created.
    Reset,
    /// It has ended: note how, and end its shim.
    Finish,
    /// Its end is on record: end the shim that may be left.
    EndShim,
    /// Remove what there is of it.
    Remove,
}

fn plan_container(phase: ContainerPhase, seen: &Seen) -> ContainerStep {
    let runs = seen.shim.as_ref().is_some_and(|s| {
        matches!(
            s.status(),
            Status::Running | Status::Paused | Status::Pausing
        )
    });
    match phase {
        ContainerPhase::Unknown | ContainerPhase::Creating | ContainerPhase::Removing => {
            ContainerStep::Remove
        }
        ContainerPhase::Created if seen.bundle => ContainerStep::Keep,
        ContainerPhase::Starting | ContainerPhase::Running if seen.exit.is_some() => {
            ContainerStep::Finish
        }
        ContainerPhase::Starting if runs => ContainerStep::Adopt,
        ContainerPhase::Starting if seen.bundle => ContainerStep::Reset,
        ContainerPhase::Running if runs => ContainerStep::Watch,
        ContainerPhase::Created | ContainerPhase::Starting | ContainerPhase::Running => {
            ContainerStep::Finish
        }
        ContainerPhase::Exited if seen.shim.is_some() => ContainerStep::EndShim,
        ContainerPhase::Exited => ContainerStep::Keep,
    }
}

/// What to do about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SandboxStep {
    Keep,
    Stop,
    Remove,
}

/// `whole`: its namespaces and files are there, of this boot.
fn plan_sandbox(phase: SandboxPhase, whole: bool) -> SandboxStep {
    match phase {
        SandboxPhase::Unknown | SandboxPhase::Creating | SandboxPhase::Removing => {
            SandboxStep::Remove
        }
        SandboxPhase::Ready if whole => SandboxStep::Keep,
        SandboxPhase::Ready | SandboxPhase::Stopping => SandboxStep::Stop,
        SandboxPhase::Stopped => SandboxStep::Keep,
    }
}

/// Brings records and world together. What cannot be done for one object is reported, and left
/// for the call that stops or removes it.
pub async fn recover(daemon: &Arc<Daemon>) -> Result<()> {
    let containers = daemon.store.containers.all();
    let sandboxes = daemon.store.sandboxes.all();
    let work = containers
        .iter()
        .map(|entry| recover_container(daemon, entry));
    for (entry, result) in containers.iter().zip(join_all(work).await) {
        if let Err(error) = result {
            tracing::error!(container = entry.get().id, "recover: {error:#}");
        }
    }
    let work = sandboxes.iter().map(|entry| recover_sandbox(daemon, entry));
    for (entry, result) in sandboxes.iter().zip(join_all(work).await) {
        if let Err(error) = result {
            tracing::error!(pod = entry.get().id, "recover: {error:#}");
        }
    }
    recover_network(daemon).await;
    if let Err(error) = remove_orphans(daemon).await {
        tracing::error!("remove what belongs to no record: {error:#}");
    }
    tracing::info!(
        sandboxes = daemon.store.sandboxes.all().len(),
        containers = daemon.store.containers.all().len(),
        "recovered"
    );
    Ok(())
}

async fn recover_container(
    daemon: &Arc<Daemon>,
    entry: &Arc<Entry<ContainerRecord>>,
) -> Result<()> {
    let record = entry.get();
    let seen = see(daemon, &record).await?;
    let step = plan_container(record.phase(), &seen);
    tracing::debug!(container = record.id, ?step, "recover");
    if let (ContainerStep::Watch | ContainerStep::Adopt, Some(status)) = (step, &seen.shim) {
        let client = daemon.shims.get(&record.id, &record.shim_address).await?;
        exec::forget_ended(&client, &record.id, status.execs.clone());
    }
    let _guard = entry.lock.lock().await;
    match step {
        ContainerStep::Keep => {}
        ContainerStep::Watch => container::watch(daemon.clone(), entry.clone()),
        ContainerStep::Adopt => {
            let status = seen.shim.unwrap_or_default();
            let running = |r: &mut ContainerRecord| {
                r.pid = status.pid;
                r.pid_start = status.start_time;
                r.started_at = status.started_at.map_or_else(crate::id::now, |t| {
                    t.seconds * 1_000_000_000 + i64::from(t.nanos)
                });
                r.set_phase(ContainerPhase::Running);
            };
            daemon.store.update(entry, running).await?;
            container::watch(daemon.clone(), entry.clone());
        }
        ContainerStep::Reset => {
            container::kill(daemon, &record).await?;
            let created = |r: &mut ContainerRecord| {
                r.shim_address.clear();
                r.set_phase(ContainerPhase::Created);
            };
            daemon.store.update(entry, created).await?;
        }
        ContainerStep::Finish => container::finish(daemon, entry).await?,
        ContainerStep::EndShim => container::end_shim(daemon, &record).await?,
        ContainerStep::Remove => rpc::remove_container_now(daemon, entry).await?,
    }
    Ok(())
}

async fn see(daemon: &Arc<Daemon>, record: &ContainerRecord) -> Result<Seen> {
    let bundle = daemon.config.bundle_dir(&record.id);
    let dir = bundle.clone();
    let exit = blocking(move || {
        Exit::read(&dir).with_context(|| format!("read {}/exit.json", dir.display()))
    });
    let mut seen = Seen {
        exit: exit.await?,
        shim: None,
        bundle: bundle.join("config.json").exists(),
    };
    if let Ok(client) = daemon.shims.get(&record.id, &record.shim_address).await {
        let request = shim::StatusRequest {
            id: record.id.clone(),
        };
        seen.shim = match client.status(&request).await {
            Ok(status) => Some(status),
            // A shim without a container, or one that is on its way out.
            Err(error) if error.is_not_found() => Some(shim::StatusResponse::default()),
            Err(_) => None,
        };
    }
    Ok(seen)
}

async fn recover_sandbox(daemon: &Arc<Daemon>, entry: &Entry<SandboxRecord>) -> Result<()> {
    let record = entry.get();
    let dir = daemon.config.sandbox_dir(&record.id);
    let pinned = record.host_network() || sandbox::namespaces::is_pinned(&dir, "net");
    let whole = record.boot_id == daemon.boot_id && pinned && dir.exists();
    let step = plan_sandbox(record.phase(), whole);
    tracing::debug!(pod = record.id, ?step, "recover");
    let _guard = entry.lock.lock().await;
    match step {
        SandboxStep::Keep => Ok(()),
        SandboxStep::Stop => rpc::stop_sandbox_now(daemon, entry, Failure::Ends).await,
        SandboxStep::Remove => rpc::remove_sandbox_now(daemon, entry).await,
    }?;
    Ok(())
}

async fn recover_network(daemon: &Arc<Daemon>) {
    let live: Vec<_> = daemon
        .store
        .sandboxes
        .all()
        .iter()
        .map(|entry| entry.get())
        .filter(|record| record.phase() == SandboxPhase::Ready && !record.host_network())
        .map(|record| sandbox::net_request(daemon, &record))
        .collect();
    if let Err(error) = daemon.network.recover(&live).await {
        tracing::error!("recover the network: {error:#}");
    }
}

/// Directories and rootfs of ours that no record knows. Those of records that could not be read
/// stay: somebody may still want to look at them.
async fn remove_orphans(daemon: &Arc<Daemon>) -> Result<()> {
    let mut known: BTreeSet<String> = daemon.store.set_aside_ids()?.into_iter().collect();
    known.extend(
        daemon
            .store
            .sandboxes
            .all()
            .iter()
            .map(|e| e.get().id.clone()),
    );
    known.extend(
        daemon
            .store
            .containers
            .all()
            .iter()
            .map(|e| e.get().id.clone()),
    );
    let daemon = daemon.clone();
    blocking(move || {
        let config = &daemon.config;
        for dir in orphans(&config.state.join("sandboxes"), &known)? {
            let path = config.sandbox_dir(&dir);
            sandbox::namespaces::unpin(&path)?;
            sandbox::files::unmount_shm(&path)?;
            sandbox::files::remove_dir(&path)?;
        }
        for dir in orphans(&config.state.join("containers"), &known)? {
            let path = config.bundle_dir(&dir);
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        for dir in orphans(&config.root.join("containers"), &known)? {
            daemon.images.release(&dir)?;
            let path = config.container_dir(&dir);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

/// Names in a directory that start with no known id.
fn orphans(dir: &Path, known: &BTreeSet<String>) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.with_context(|| format!("list {}", dir.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("list {}", dir.display()))?
            .file_name();
        let name = name.to_string_lossy().into_owned();
        // Image volumes are `<id>-image<n>`.
        let id = name.split('-').next().unwrap_or_default();
        if !known.contains(id) {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(exit: bool, status: Option<Status>, bundle: bool) -> Seen {
        Seen {
            exit: exit.then(Exit::default),
            shim: status.map(|status| shim::StatusResponse {
                status: status as i32,
                ..Default::default()
            }),
            bundle,
        }
    }

    #[test]
    fn what_runs_is_never_touched() {
        for status in [Status::Running, Status::Paused] {
            let seen = seen(false, Some(status), true);
            assert_eq!(
                plan_container(ContainerPhase::Running, &seen),
                ContainerStep::Watch
            );
            assert_eq!(
                plan_container(ContainerPhase::Starting, &seen),
                ContainerStep::Adopt
            );
        }
    }

    #[test]
    fn an_exit_on_record_is_believed_whatever_the_shim_says() {
        for status in [None, Some(Status::Stopped), Some(Status::Running)] {
            let seen = seen(true, status, true);
            assert_eq!(
                plan_container(ContainerPhase::Running, &seen),
                ContainerStep::Finish
            );
            assert_eq!(
                plan_container(ContainerPhase::Starting, &seen),
                ContainerStep::Finish
            );
        }
    }

    #[test]
    fn a_start_that_was_cut_short_can_be_tried_again() {
        for status in [None, Some(Status::Created), Some(Status::Unknown)] {
            let seen = seen(false, status, true);
            assert_eq!(
                plan_container(ContainerPhase::Starting, &seen),
                ContainerStep::Reset
            );
        }
    }

    #[test]
    fn after_a_reboot_nothing_runs_and_nothing_can_be_started() {
        let gone = seen(false, None, false);
        for phase in [
            ContainerPhase::Created,
            ContainerPhase::Starting,
            ContainerPhase::Running,
        ] {
            assert_eq!(
                plan_container(phase, &gone),
                ContainerStep::Finish,
                "{phase:?}"
            );
        }
        assert_eq!(
            plan_container(ContainerPhase::Exited, &gone),
            ContainerStep::Keep
        );
        assert_eq!(plan_sandbox(SandboxPhase::Ready, false), SandboxStep::Stop);
    }

    #[test]
    fn half_made_is_removed_and_half_removed_too() {
        for phase in [ContainerPhase::Creating, ContainerPhase::Removing] {
            let step = plan_container(phase, &seen(false, None, true));
            assert_eq!(step, ContainerStep::Remove);
        }
        for phase in [SandboxPhase::Creating, SandboxPhase::Removing] {
            assert_eq!(plan_sandbox(phase, true), SandboxStep::Remove);
        }
        assert_eq!(
            plan_sandbox(SandboxPhase::Stopping, true),
            SandboxStep::Stop
        );
    }
}
