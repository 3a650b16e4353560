//! CreateContainer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_images::Image;
use tracing::{Instrument, debug_span};

use crate::bundle;
use crate::cdi;
use crate::checkpoint;
use crate::container;
use crate::daemon::{Daemon, blocking};
use crate::error::{Error, Result};
use crate::id;
use crate::nri::{self, Event};
use crate::store::{ContainerPhase, ContainerRecord, Entry, SandboxPhase, SandboxRecord, VERSION};

/// Makes a container without starting it. A retry of a request that went through gets the same
/// container.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("config is missing"))?;
    let metadata = config.metadata.clone().unwrap_or_default();
    if metadata.name.is_empty() {
        return Err(Error::invalid("config.metadata.name is empty"));
    }
    let sandbox = daemon.sandbox(&request.pod_sandbox_id)?;
    if sandbox.get().phase() == SandboxPhase::Creating {
        // Its lock is held by whoever makes it.
        return Err(not_ready(&sandbox.get()));
    }
    // Held until the container is there, so that a stop of the sandbox sees it.
    let _sandbox = sandbox.lock.lock().await;
    let sandbox = sandbox.get();
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(not_ready(&sandbox));
    }
    check_privilege(&config, &sandbox, request.sandbox_config.as_ref())?;
    if let Some(container_id) = existing(daemon, &sandbox.id, &config)? {
        return Ok(v1::CreateContainerResponse { container_id });
    }
    let record = record(daemon, &sandbox, config).await?;
    tracing::Span::current().record("container", record.id.as_str());
    tracing::Span::current().record("image", record.image_id.as_str());
    let entry = daemon.store.add(record).await?;
    let _guard = entry.lock.lock().await;
    make(daemon, &sandbox, &entry).await?;
    let container_id = entry.get().id.clone();
    daemon.publish(
        v1::ContainerEventType::ContainerCreatedEvent,
        &container_id,
        &sandbox.id,
    );
    Ok(v1::CreateContainerResponse { container_id })
}

fn not_ready(sandbox: &SandboxRecord) -> Error {
    Error::State(format!("pod sandbox {} is not ready", sandbox.id))
}

/// `asked`: the sandbox as the request has it.
fn check_privilege(
    config: &v1::ContainerConfig,
    sandbox: &SandboxRecord,
    asked: Option<&v1::PodSandboxConfig>,
) -> Result<()> {
    let allowed = privileged(sandbox.config()) || asked.is_some_and(privileged);
    if privileged_container(config) && !allowed {
        return Err(Error::invalid(
            "linux.security_context.privileged: not in a pod sandbox that is not privileged",
        ));
    }
    Ok(())
}

fn privileged_container(config: &v1::ContainerConfig) -> bool {
    let linux = config.linux.as_ref();
    linux
        .and_then(|l| l.security_context.as_ref())
        .is_some_and(|s| s.privileged)
}

/// Of the sandbox, as made or as the request has it: a kubelet raises it for an ephemeral container.
fn privileged(config: &v1::PodSandboxConfig) -> bool {
    let linux = config.linux.as_ref();
    linux
        .and_then(|l| l.security_context.as_ref())
        .is_some_and(|s| s.privileged)
}

/// A container of the same name and attempt: the answer where it is the same, else an error.
fn existing(
    daemon: &Daemon,
    sandbox_id: &str,
    config: &v1::ContainerConfig,
) -> Result<Option<String>> {
    let same =
        |entry: &Arc<Entry<ContainerRecord>>| entry.get().config().metadata == config.metadata;
    let Some(entry) = daemon.containers_of(sandbox_id).into_iter().find(same) else {
        return Ok(None);
    };
    let record = entry.get();
    if record.phase() == ContainerPhase::Created && record.config() == config {
        return Ok(Some(record.id.clone()));
    }
    let metadata = record.metadata();
    Err(Error::Exists(format!(
        "container {} (attempt {}) exists as {}: remove it first, or raise the attempt",
        metadata.name, metadata.attempt, record.id
    )))
}

async fn record(
    daemon: &Arc<Daemon>,
    sandbox: &SandboxRecord,
    config: v1::ContainerConfig,
) -> Result<ContainerRecord> {
    let spec = config.image.clone().unwrap_or_default();
    let name = if spec.image_ref.is_empty() || config.image.is_none() {
        spec.image
    } else {
        spec.image_ref
    };
    if name.is_empty() {
        return Err(Error::invalid("config.image is empty"));
    }
    let (image, checkpoint) = if checkpoint::is_archive(&name) {
        let path = PathBuf::from(&name);
        let names = blocking(move || checkpoint::base(&path)).await;
        (base_image(daemon, &name, names).await?, name)
    } else {
        let found = super::image_status::find(daemon, &name).await?;
        let missing = || Error::NotFound {
            kind: "image",
            id: name,
        };
        unfold(daemon, found.ok_or_else(missing)?).await?
    };
    // Names are checked before anything is made.
    cdi::asked(&config)?;
    let mount_images = mount_images(daemon, &config.mounts).await?;
    let stop_signal = bundle::stop_signal(config.stop_signal(), &image.config.stop_signal)?;
    Ok(ContainerRecord {
        version: VERSION,
        id: id::new_id()?,
        phase: ContainerPhase::Creating as i32,
        sandbox_id: sandbox.id.clone(),
        image_id: image.id.to_string(),
        image_ref: super::image_status::reference(&image),
        created_at: id::now(),
        log_path: log_path(&sandbox.config().log_directory, &config.log_path)?,
        stop_signal,
        mount_images,
        checkpoint,
        config: Some(config),
        ..Default::default()
    })
}

/// The image of a container's root, and the one that holds its checkpoint; none where the image that
/// was asked for is the root itself.
async fn unfold(daemon: &Arc<Daemon>, image: Image) -> Result<(Image, String)> {
    let (own, asked) = (daemon.clone(), image.clone());
    let names = blocking(move || {
        let folded = checkpoint::is_checkpoint(&own.images, &asked)?;
        folded
            .then(|| checkpoint::base_of_image(&own.images, &asked))
            .transpose()
    });
    let names = match names.await {
        Ok(None) => return Ok((image, String::new())),
        Ok(Some(names)) => Ok(names),
        Err(error) => Err(error),
    };
    let id = image.id.to_string();
    Ok((base_image(daemon, &id, names).await?, id))
}

/// The image that a checkpoint stands on, which has to be here.
async fn base_image(
    daemon: &Arc<Daemon>,
    checkpoint: &str,
    names: anyhow::Result<Vec<String>>,
) -> Result<Image> {
    let names = names.map_err(|error| Error::invalid(format!("{error:#}")))?;
    for name in &names {
        if let Some(image) = super::image_status::find(daemon, name).await? {
            return Ok(image);
        }
    }
    Err(Error::State(format!(
        "checkpoint {checkpoint} needs the image {}: pull it first",
        names.join(" or ")
    )))
}

/// The image of each mount, empty where it is of a path.
async fn mount_images(daemon: &Arc<Daemon>, mounts: &[v1::Mount]) -> Result<Vec<String>> {
    let mut all = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let name = mount.image.as_ref().map_or("", |i| i.image.as_str());
        if name.is_empty() || !mount.host_path.is_empty() {
            all.push(String::new());
            continue;
        }
        if !mount.readonly {
            return Err(Error::invalid(format!(
                "mounts: {}: an image is read-only, but readonly is not set",
                mount.container_path
            )));
        }
        let image = super::image_status::find(daemon, name).await?;
        let missing = || Error::NotFound {
            kind: "image",
            id: name.to_owned(),
        };
        all.push(image.ok_or_else(missing)?.id.to_string());
    }
    Ok(all)
}

/// Without a directory or a name there is no log.
fn log_path(directory: &str, name: &str) -> Result<String> {
    if directory.is_empty() || name.is_empty() {
        return Ok(String::new());
    }
    if !directory.starts_with('/') {
        return Err(Error::invalid(format!(
            "log_directory {directory:?} is not absolute"
        )));
    }
    if Path::new(name).components().any(|c| c.as_os_str() == "..") {
        return Err(Error::invalid(format!(
            "log_path {name:?} leads out of the log directory"
        )));
    }
    let name = name.trim_start_matches('/');
    Ok(format!("{}/{name}", directory.trim_end_matches('/')))
}

/// Makes it, or leaves nothing.
async fn make(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<SandboxRecord>,
    entry: &Entry<ContainerRecord>,
) -> Result<()> {
    let record = entry.get();
    match make_whole(daemon, sandbox, entry, &record).await {
        Ok(()) => {
            daemon
                .tell_container(Event::PostCreateContainer, &entry.get())
                .await;
            Ok(())
        }
        Err(error) => {
            if let Err(undo) = super::remove_container::remove(daemon, entry).await {
                tracing::error!(container = record.id, "undo a container: {undo:#}");
            }
            Err(error.into())
        }
    }
}

async fn make_whole(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<SandboxRecord>,
    entry: &Entry<ContainerRecord>,
    record: &ContainerRecord,
) -> anyhow::Result<()> {
    let mut bundle = container::prepare(daemon, sandbox, record)
        .instrument(debug_span!("prepare root file system"))
        .await?;
    let user = v1::LinuxContainerUser {
        uid: bundle.user.uid.into(),
        gid: bundle.user.gid.into(),
        supplemental_groups: bundle.user.groups.iter().map(|g| (*g).into()).collect(),
    };
    // Until the record says Created: a plugin that joins meanwhile is told of it one way or the
    // other.
    let plugins = daemon.nri.hold().await;
    let told = ContainerRecord {
        user: Some(user.clone()),
        ..record.clone()
    };
    let before = bundle.spec["linux"]["resources"].clone();
    let (updates, devices) = plugins
        .create_container(sandbox, &told, &mut bundle.spec)
        .instrument(debug_span!("ask plugins"))
        .await?;
    bundle.spec = container::add_devices(daemon, devices, bundle.spec).await?;
    let resources = &bundle.spec["linux"]["resources"];
    let adjusted = (*resources != before).then(|| nri::to_cri(resources, 0));
    container::write(daemon, record, bundle).await?;
    let created = |r: &mut ContainerRecord| {
        r.user = Some(user);
        if let Some(adjusted) = adjusted {
            super::update_container_resources::merge_into(r, adjusted);
        }
        r.set_phase(ContainerPhase::Created);
    };
    daemon.store.update(entry, created).await?;
    drop(plugins);
    nri::update_others(daemon, updates, Some(&record.id)).await
}

/// Used by the other RPCs that read the image store, whose file operations block.
pub(super) async fn images<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    work: impl FnOnce(&rrun_images::Store) -> rrun_images::Result<T> + Send + 'static,
) -> Result<T> {
    let daemon = daemon.clone();
    let result = blocking(move || Ok(work(&daemon.images))).await?;
    result.map_err(super::image_status::error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_in_the_log_directory() {
        assert_eq!(log_path("/l/", "a/0.log").unwrap(), "/l/a/0.log");
        assert_eq!(log_path("/l", "/a.log").unwrap(), "/l/a.log");
        assert_eq!(log_path("", "a.log").unwrap(), "");
        assert_eq!(log_path("/l", "").unwrap(), "");
        assert!(log_path("/l", "../../etc/passwd").is_err());
        assert!(log_path("l", "a").is_err());
    }
}
