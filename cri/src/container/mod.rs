//! What a container is made of: a writable layer, a bundle, and a shim while it runs.

mod etc;
mod facts;
mod image_volume;
mod monitor;
mod rootfs;
mod start;
mod stop;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bundle::{Bundle, Facts, Source};
use crate::cdi;
use crate::checkpoint;
use crate::daemon::{Daemon, blocking};
use crate::selinux;
use crate::store::{ContainerRecord, SandboxRecord};

pub use facts::{limits, oom_floor};
pub use monitor::{end_shim, finish, watch};
pub use start::start;
pub use stop::{kill, stop};

/// Makes the directories and the writable layer of a container whose record says Creating, and
/// gives the bundle that [`write`] is to write. After an error [`remove`] removes what was made.
pub async fn prepare(
    daemon: &Arc<Daemon>,
    sandbox: &Arc<SandboxRecord>,
    record: &ContainerRecord,
) -> Result<Bundle> {
    let daemon = daemon.clone();
    let sandbox = sandbox.clone();
    let record = record.clone();
    blocking(move || {
        let dir = daemon.config.container_dir(&record.id);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let facts = facts::gather(&daemon, &sandbox, &record)?;
        let mut bundle = crate::bundle::bundle(&sandbox, &record, &facts)?;
        if let Some(label) = bundle.spec["process"]["selinuxLabel"].as_str() {
            selinux::check(label)?;
        }
        relabel(&bundle.spec, &record, &facts)?;
        let devices = cdi::asked(record.config())?;
        cdi::inject(&daemon.config.cdi_dirs, &devices, &mut bundle.spec)?;
        if !record.checkpoint.is_empty() {
            let rootfs = daemon.images.find_rootfs(&record.id)?;
            let rootfs = rootfs.context("the image store does not know the rootfs just made")?;
            checkpoint::unpack(&daemon.images, &record.checkpoint, &dir, &rootfs)?;
        }
        Ok(bundle)
    })
    .await
}

/// Gives a container's SELinux label to the files that are for it.
fn relabel(spec: &Value, record: &ContainerRecord, facts: &Facts) -> Result<()> {
    let Some(label) = spec["linux"]["mountLabel"].as_str() else {
        return Ok(());
    };
    for name in ["hostname", "hosts", "resolv.conf", "shm"] {
        let path = facts.sandbox_dir.join(name);
        if path.exists() {
            selinux::relabel(&path, label)?;
        }
    }
    for (_, path) in &facts.volumes {
        selinux::relabel(path, label)?;
    }
    for (mount, fact) in record.config().mounts.iter().zip(&facts.mounts) {
        if let Source::Path(path) = &fact.source
            && mount.selinux_relabel
        {
            selinux::relabel(path, label)?;
        }
    }
    Ok(())
}

/// Adds CDI devices to the config.json of a container that is being made.
pub async fn add_devices(
    daemon: &Arc<Daemon>,
    devices: Vec<String>,
    mut spec: Value,
) -> Result<Value> {
    if devices.is_empty() {
        return Ok(spec);
    }
    let daemon = daemon.clone();
    blocking(move || {
        cdi::inject(&daemon.config.cdi_dirs, &devices, &mut spec)?;
        Ok(spec)
    })
    .await
}

/// Writes the bundle of a container.
pub async fn write(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    mut bundle: Bundle,
) -> Result<()> {
    let path = daemon.config.bundle_dir(&record.id);
    let split = daemon.runtime_of(record)?.shim_mounts;
    blocking(move || {
        if split {
            rootfs::split(&path, &mut bundle.spec)?;
        }
        write_bundle(&path, &bundle.spec)
    })
    .await
}

/// Replaces the config.json of a container that is not started.
pub fn write_spec(daemon: &Daemon, id: &str, spec: &Value) -> Result<()> {
    write_bundle(&daemon.config.bundle_dir(id), spec)
}

fn write_bundle(dir: &Path, spec: &Value) -> Result<()> {
    let rootfs = dir.join("rootfs");
    fs::create_dir_all(&rootfs).with_context(|| format!("create {}", rootfs.display()))?;
    let path = dir.join("config.json");
    let text = serde_json::to_vec(spec).context("serialize config.json")?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// config.json of a container.
pub fn read_spec(daemon: &Daemon, id: &str) -> Result<Value> {
    let path = daemon.config.bundle_dir(id).join("config.json");
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

/// Puts another config.json in the place of a container's, whole or not at all.
pub fn replace_spec(daemon: &Daemon, id: &str, spec: &Value) -> Result<()> {
    let path = daemon.config.bundle_dir(id).join("config.json");
    let half = path.with_extension("json.new");
    let text = serde_json::to_vec(spec).context("serialize config.json")?;
    fs::write(&half, text).with_context(|| format!("write {}", half.display()))?;
    fs::rename(&half, &path).with_context(|| format!("rename {}", half.display()))
}

/// Removes everything of a container that has no process. Any part may be gone.
pub async fn remove(daemon: &Arc<Daemon>, record: &ContainerRecord) -> Result<()> {
    let daemon = daemon.clone();
    let id = record.id.clone();
    let volumes = record.mount_images.len();
    blocking(move || {
        remove_all(&daemon.config.bundle_dir(&id))?;
        for number in 0..volumes {
            release(&daemon, &volume_key(&id, number))?;
        }
        release(&daemon, &id)
    })
    .await
}

/// The image store's key of an image volume.
fn volume_key(id: &str, number: usize) -> String {
    format!("{id}-image{number}")
}

fn release(daemon: &Daemon, key: &str) -> Result<()> {
    let released = daemon.images.release(key);
    released.with_context(|| format!("release the rootfs of {key}"))?;
    remove_all(&daemon.config.container_dir(key))
}

fn remove_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
