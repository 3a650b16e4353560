//! A pod's volumes: files made from the API's objects, directories, and their place in containers.

mod atomic;
pub mod claims;
mod mounts;
mod payload;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::api::auth::token::{DEFAULT_SECONDS, POD_SECONDS};

use super::dirs::Dirs;
use super::hugepages;
use super::memory::every_container;
use super::names;
use super::sources::{Facts, Sources};
use crate::quantity;

pub use mounts::mounts;

/// Where a volume is on the host.
pub fn place(dirs: &Dirs, uid: &str, volume: &Volume) -> Option<PathBuf> {
    if let Some(host) = &volume.host_path {
        return Some(PathBuf::from(&host.path));
    }
    Some(dirs.volume(uid, plugin(volume)?, &volume.name))
}

fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.empty_dir.is_some() {
        Some("empty-dir")
    } else if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else {
        None
    }
}

/// Whether the pod is made of this ConfigMap or Secret: its volumes, or its containers'
/// environment.
pub fn refers_to(pod: &Pod, kind: &str, name: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let mounted = volumes
        .into_iter()
        .flatten()
        .any(|v| volume_refers(v, kind, name));
    mounted
        || every_container(pod)
            .iter()
            .any(|c| environment_refers(c, kind, name))
}

fn volume_refers(volume: &Volume, kind: &str, name: &str) -> bool {
    let sources = volume.projected.as_ref().and_then(|p| p.sources.as_ref());
    let mut sources = sources.into_iter().flatten();
    if kind == "ConfigMap" {
        volume.config_map.as_ref().is_some_and(|c| c.name == name)
            || sources.any(|s| s.config_map.as_ref().is_some_and(|c| c.name == name))
    } else {
        let own = volume
            .secret
            .as_ref()
            .and_then(|s| s.secret_name.as_deref());
        own == Some(name) || sources.any(|s| s.secret.as_ref().is_some_and(|c| c.name == name))
    }
}

fn environment_refers(container: &Container, kind: &str, name: &str) -> bool {
    let map = kind == "ConfigMap";
    let whole = container.env_from.iter().flatten().any(|from| {
        let map_name = from.config_map_ref.as_ref().map(|r| &r.name);
        let secret_name = from.secret_ref.as_ref().map(|r| &r.name);
        (if map { map_name } else { secret_name }).is_some_and(|n| n == name)
    });
    let variables = container.env.iter().flatten();
    whole
        || variables
            .into_iter()
            .filter_map(|v| v.value_from.as_ref())
            .any(|source| {
                let map_name = source.config_map_key_ref.as_ref().map(|r| &r.name);
                let secret_name = source.secret_key_ref.as_ref().map(|r| &r.name);
                (if map { map_name } else { secret_name }).is_some_and(|n| n == name)
            })
}

/// How long until a token of the pod's volumes is to be replaced; `None` where it has none.
pub fn token_life(pod: &Pod) -> Option<std::time::Duration> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let projected = volumes
        .into_iter()
        .flatten()
        .filter_map(|v| v.projected.as_ref());
    let sources = projected.flat_map(|p| p.sources.iter().flatten());
    let seconds = sources
        .filter_map(|s| s.service_account_token.as_ref())
        .map(|t| match t.expiration_seconds {
            // These last a year, and are made anew each day.
            Some(POD_SECONDS) if t.audience.is_none() => 24 * 3600,
            other => other.unwrap_or(DEFAULT_SECONDS) * 4 / 5,
        });
    let least = seconds.min()?;
    Some(std::time::Duration::from_secs(
        u64::try_from(least).unwrap_or(600) + 1,
    ))
}

/// Makes or refreshes every volume of the pod. The error names the volume.
pub fn prepare(
    pod: &Pod,
    dirs: &Dirs,
    sources: &impl Sources,
    facts: &Facts,
) -> Result<(), String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        let failed = |why| {
            format!(
                "MountVolume.SetUp failed for volume \"{}\" : {why}",
                volume.name
            )
        };
        one(pod, dirs, volume, sources, facts).map_err(failed)?;
    }
    Ok(())
}

fn one(
    pod: &Pod,
    dirs: &Dirs,
    volume: &Volume,
    sources: &impl Sources,
    facts: &Facts,
) -> Result<(), String> {
    if let Some(host) = &volume.host_path {
        return host_path(Path::new(&host.path), host.type_.as_deref().unwrap_or(""));
    }
    // The runtime makes it, from an image that is pulled before its container is made.
    if volume.image.is_some() {
        return Ok(());
    }
    let uid = names::uid(pod);
    let Some(dir) = place(dirs, uid, volume) else {
        return Err("this kind of volume is not supported here".to_owned());
    };
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = context.and_then(|c| c.fs_group);
    if let Some(empty) = &volume.empty_dir {
        return empty_dir(&dir, empty, pod, group);
    }
    let files = payload::files(pod, volume, sources, facts, group.is_some(), &dir)?;
    fs::create_dir_all(&dir).map_err(|e| said(&dir, &e))?;
    atomic::write(&dir, &files, group).map_err(|e| said(&dir, &e))
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn empty_dir(
    dir: &Path,
    source: &EmptyDirVolumeSource,
    pod: &Pod,
    group: Option<i64>,
) -> Result<(), String> {
    let file_system = file_system(source, pod)?;
    if dir.exists() && (file_system.is_none() || is_mount(dir)) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|e| said(dir, &e))?;
    if let Some((kind, options)) = file_system {
        let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(kind, dir, kind, flags, options.as_c_str()).map_err(|e| said(dir, &e.into()))?;
    }
    open_to(dir, group).map_err(|e| said(dir, &e))
}

/// What an emptyDir's medium is a mount of, and with which options; nothing for the disk.
fn file_system(
    source: &EmptyDirVolumeSource,
    pod: &Pod,
) -> Result<Option<(&'static str, String)>, String> {
    let size = source.size_limit.as_ref().and_then(quantity::value);
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(None),
        "Memory" => {
            let size = size.map_or_else(String::new, |bytes| format!(",size={bytes}"));
            Ok(Some(("tmpfs", format!("mode=0777{size}"))))
        }
        medium => {
            let bytes = hugepages::page(medium, pod)?;
            Ok(Some(("hugetlbfs", format!("pagesize={bytes}"))))
        }
    }
}

/// Everybody may write; with a group of the pod its files stay the group's.
fn open_to(dir: &Path, group: Option<i64>) -> std::io::Result<()> {
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if let Some(gid) = group.and_then(|g| u32::try_from(g).ok()) {
        chown(dir, None, Some(gid))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Whether another file system begins here.
fn is_mount(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    dir.parent()
        .is_some_and(|parent| device(dir) != device(parent))
}

fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let found = fs::metadata(path).ok();
    match kind {
        "DirectoryOrCreate" if found.is_none() => {
            return fs::create_dir_all(path).map_err(|e| said(path, &e));
        }
        "FileOrCreate" if found.is_none() => {
            return fs::File::create(path).map(drop).map_err(|e| said(path, &e));
        }
        _ => {}
    }
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|m| test(&m.file_type()));
    let (right, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        _ => (true, ""),
    };
    if right {
        return Ok(());
    }
    Err(format!(
        "hostPath type check failed: {} is not {what}",
        path.display()
    ))
}

/// Removes everything of the pod's directory, file systems in memory first. Nothing there is fine.
pub fn remove(dirs: &Dirs, uid: &str) -> std::io::Result<()> {
    let pod = dirs.pod(uid);
    for plugin in ["empty-dir"] {
        let list = dirs.volume(uid, plugin, "");
        for entry in fs::read_dir(list).into_iter().flatten().flatten() {
            if is_mount(&entry.path()) {
                unmount(entry.path(), UnmountFlags::DETACH)?;
            }
        }
    }
    match fs::remove_dir_all(&pod) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
