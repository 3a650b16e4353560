//! UpdateContainerResources.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use anyhow::Context;
use rrun_cri_api::v1;
use rrun_task_api::any;
use rrun_task_api::pb::task;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::bundle;
use crate::container;
use crate::daemon::{Daemon, blocking};
use crate::error::{Error, Result};
use crate::nri::{self, Event};
use crate::store::{ContainerPhase, ContainerRecord};

/// Changes the limits of a created or running container. Zero leaves a value as it is.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse> {
    let mut asked = request.linux.unwrap_or_default();
    if !(-1000..=1000).contains(&asked.oom_score_adj) {
        return Err(Error::invalid(format!(
            "linux.oom_score_adj: {} is not between -1000 and 1000",
            asked.oom_score_adj
        )));
    }
    let entry = daemon.container(&request.container_id)?;
    let _guard = entry.lock.lock().await;
    let record = entry.get();
    match record.phase() {
        ContainerPhase::Running => {
            ask_plugins(daemon, &record, &mut asked).await?;
            apply(daemon, &record, &asked, request.annotations).await?;
            adjust_scores(daemon, &record, asked.oom_score_adj).await?;
        }
        ContainerPhase::Created => {
            ask_plugins(daemon, &record, &mut asked).await?;
            rewrite(daemon, &record, &asked).await?;
        }
        phase => {
            return Err(Error::State(format!("container {} is {phase}", record.id)));
        }
    }
    let merged = |r: &mut ContainerRecord| merge_into(r, asked);
    daemon.store.update(&entry, merged).await?;
    daemon
        .tell_container(Event::PostUpdateContainer, &entry.get())
        .await;
    Ok(v1::UpdateContainerResourcesResponse {})
}

/// Lets NRI plugins change the update, and applies what they want of other containers.
async fn ask_plugins(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    asked: &mut v1::LinuxContainerResources,
) -> Result<()> {
    let mut others = Vec::new();
    {
        let plugins = daemon.nri.hold().await;
        if plugins.is_empty() {
            return Ok(());
        }
        let sandbox = daemon.sandbox(&record.sandbox_id)?.get();
        let spec = container::read_spec(daemon, &record.id)?;
        for update in plugins
            .update_container(&sandbox, record, &spec, asked)
            .await?
        {
            match (update.container_id == record.id, update.linux.clone()) {
                (true, Some(linux)) => merge(asked, nri::asked(&linux)?),
                _ => others.push(update),
            }
        }
    }
    nri::update_others(daemon, others, Some(&record.id)).await?;
    Ok(())
}

/// Changes the resources that a record says the container has.
pub fn merge_into(record: &mut ContainerRecord, new: v1::LinuxContainerResources) {
    let config = record.config.get_or_insert_default();
    let linux = config.linux.get_or_insert_default();
    merge(linux.resources.get_or_insert_default(), new);
}

async fn apply(
    daemon: &Daemon,
    record: &ContainerRecord,
    asked: &v1::LinuxContainerResources,
    annotations: std::collections::HashMap<String, String>,
) -> Result<()> {
    let json = bundle::resources(asked, container::limits(daemon));
    apply_json(daemon, record, &json, annotations).await?;
    Ok(())
}

/// The same with `linux.resources` as the runtime has it.
pub async fn apply_json(
    daemon: &Daemon,
    record: &ContainerRecord,
    json: &serde_json::Value,
    annotations: std::collections::HashMap<String, String>,
) -> anyhow::Result<()> {
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let update = task::UpdateTaskRequest {
        id: record.id.clone(),
        resources: Some(any::pack_json(
            any::RESOURCES,
            json.to_string().into_bytes(),
        )),
        annotations: annotations.into_iter().collect(),
    };
    client.update(&update).await?;
    Ok(())
}

/// Gives every process of a running container another oom_score_adj, and those of later execs, which
/// are made as its configuration says. Zero is unset, as CRI has it.
async fn adjust_scores(daemon: &Arc<Daemon>, record: &ContainerRecord, score: i64) -> Result<()> {
    if score == 0 {
        return Ok(());
    }
    let client = daemon.shims.get(&record.id, &record.shim_address).await?;
    let request = task::PidsRequest {
        id: record.id.clone(),
    };
    let pids = client.pids(&request).await.map_err(anyhow::Error::from)?;
    let processes = pids.processes;
    let (daemon, id) = (daemon.clone(), record.id.clone());
    let set = move || {
        let score = score.max(container::oom_floor()?);
        let mut spec = container::read_spec(&daemon, &id)?;
        spec["process"]["oomScoreAdj"] = serde_json::json!(score);
        container::replace_spec(&daemon, &id, &spec)?;
        let score = score.to_string();
        for process in processes {
            match set_score(process.pid, &id, &score) {
                // It has ended meanwhile.
                Err(Errno::NOENT | Errno::SRCH) => {}
                other => other.with_context(|| {
                    format!("write {score} to /proc/{}/oom_score_adj", process.pid)
                })?,
            }
        }
        Ok(())
    };
    blocking(set).await?;
    Ok(())
}

/// Of a process that is in the container's cgroup: the number of one that has ended may be another's.
fn set_score(pid: u32, container: &str, score: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?;
    let open = |name: &str, flags: OFlags| {
        rustix::fs::openat(&dir, name, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
    };
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut cgroups = String::new();
    let mut file = open("cgroup", OFlags::RDONLY)?;
    file.read_to_string(&mut cgroups).map_err(failed)?;
    if !cgroups.contains(container) {
        return Err(Errno::SRCH);
    }
    let mut file = open("oom_score_adj", OFlags::WRONLY)?;
    file.write_all(score.as_bytes()).map_err(failed)
}

/// A container that has no process yet has its limits in its bundle. Written before the record: a
/// retry after a kill -9 between the two changes the same again.
async fn rewrite(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    asked: &v1::LinuxContainerResources,
) -> Result<()> {
    let linux = record.config().linux.as_ref();
    let mut merged = linux.and_then(|l| l.resources.clone()).unwrap_or_default();
    merge(&mut merged, asked.clone());
    let (daemon, id) = (daemon.clone(), record.id.clone());
    blocking(move || {
        let mut spec = container::read_spec(&daemon, &id)?;
        let mut resources = bundle::resources(&merged, container::limits(&daemon));
        resources["devices"] = spec["linux"]["resources"]["devices"].take();
        spec["linux"]["resources"] = resources;
        if merged.oom_score_adj != 0 {
            let score = merged.oom_score_adj.max(container::oom_floor()?);
            spec["process"]["oomScoreAdj"] = serde_json::json!(score);
        }
        container::replace_spec(&daemon, &id, &spec)
    })
    .await?;
    Ok(())
}

/// What was set replaces, what was not stays.
pub(super) fn merge(old: &mut v1::LinuxContainerResources, new: v1::LinuxContainerResources) {
    for (old, new) in [
        (&mut old.cpu_period, new.cpu_period),
        (&mut old.cpu_quota, new.cpu_quota),
        (&mut old.cpu_shares, new.cpu_shares),
        (&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        (
            &mut old.memory_swap_limit_in_bytes,
            new.memory_swap_limit_in_bytes,
        ),
        (&mut old.oom_score_adj, new.oom_score_adj),
    ] {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in [
        (&mut old.cpuset_cpus, new.cpuset_cpus),
        (&mut old.cpuset_mems, new.cpuset_mems),
    ] {
        if !new.is_empty() {
            *old = new;
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits = new.hugepage_limits;
    }
    old.unified.extend(new.unified);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_changes() {
        let mut old = v1::LinuxContainerResources {
            cpu_shares: 100,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let new = v1::LinuxContainerResources {
            memory_limit_in_bytes: 7,
            cpuset_cpus: "1".into(),
            ..Default::default()
        };
        merge(&mut old, new);
        assert_eq!((old.cpu_shares, old.memory_limit_in_bytes), (100, 7));
        assert_eq!(old.cpuset_cpus, "1");
    }

    #[test]
    fn a_process_that_is_not_the_containers_keeps_its_score() {
        let (own, path) = (std::process::id(), "/proc/self/oom_score_adj");
        let before = std::fs::read_to_string(path).unwrap();
        let other = if before.trim() == "999" { "998" } else { "999" };
        assert_eq!(set_score(own, "no-such-container", other), Err(Errno::SRCH));
        assert_eq!(std::fs::read_to_string(path).unwrap(), before);
        assert_eq!(set_score(own, "", before.trim()), Ok(()));
    }
}
