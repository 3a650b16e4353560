//! Where a container sees the pod's volumes.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use rrun_cri_api::v1 as cri;

use super::place;
use crate::node::dirs::Dirs;
use crate::node::{env, names};

/// The mounts of a container's volumes, or why one cannot be made.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    dirs: &Dirs,
    env: &[(String, String)],
) -> Result<Vec<cri::Mount>, String> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|s| s.volumes.as_deref())
        .unwrap_or_default();
    let list = container.volume_mounts.iter().flatten();
    list.map(|mount| {
        let volume = volumes.iter().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| {
            let (name, wanted) = (&container.name, &mount.name);
            format!("cannot find volume \"{wanted}\" to mount into container \"{name}\"")
        })?;
        one(pod, volume, mount, dirs, env)
    })
    .collect()
}

fn one(
    pod: &Pod,
    volume: &Volume,
    mount: &VolumeMount,
    dirs: &Dirs,
    env: &[(String, String)],
) -> Result<cri::Mount, String> {
    let mut container_path = mount.mount_path.clone();
    if !container_path.starts_with('/') {
        container_path.insert(0, '/');
    }
    let read_only = mount.read_only == Some(true);
    let recursive = matches!(
        mount.recursive_read_only.as_deref(),
        Some("Enabled" | "IfPossible")
    );
    let mut wanted = cri::Mount {
        container_path,
        readonly: read_only,
        propagation: propagation(mount).into(),
        recursive_read_only: read_only && recursive,
        ..cri::Mount::default()
    };
    let sub = sub_path(mount, env);
    if let Some(image) = &volume.image {
        wanted.image = Some(cri::ImageSpec {
            image: image.reference.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        });
        wanted.image_sub_path = sub;
        wanted.readonly = true;
        return Ok(wanted);
    }
    let unknown = || {
        let name = &volume.name;
        format!("volume \"{name}\" is of a kind that is not supported")
    };
    let mut host = place(dirs, names::uid(pod), volume).ok_or_else(unknown)?;
    if !sub.is_empty() {
        host = below(&host, &sub)?;
    }
    wanted.host_path = host.to_string_lossy().into_owned();
    // A service account's files and the like are never written through.
    let made = volume.config_map.is_some() || volume.secret.is_some();
    let made = made || volume.projected.is_some() || volume.downward_api.is_some();
    wanted.readonly |= made;
    Ok(wanted)
}

fn propagation(mount: &VolumeMount) -> cri::MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    }
}

/// Which part of the volume is mounted, with the container's environment in it; empty for all.
fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> String {
    let Some(expression) = &mount.sub_path_expr else {
        return mount.sub_path.clone().unwrap_or_default();
    };
    let known = |name: &str| {
        let found = env.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    env::expand(expression, known)
}

/// A path inside the volume, made as a directory where it is not there; links may not lead out.
fn below(root: &Path, sub: &str) -> Result<PathBuf, String> {
    let refused = |why: &str| format!("failed to prepare subPath for volumeMount: {sub}: {why}");
    let sub_path = Path::new(sub);
    if sub_path
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(refused("must be a relative path without '..'"));
    }
    let path = root.join(sub_path);
    if std::fs::symlink_metadata(&path).is_err() {
        // A link on the way is looked at before anything is made behind it.
        let mut known = root.to_owned();
        for part in sub_path.components() {
            known.push(part);
            inside(root, &known).map_err(|why| refused(&why))?;
            if std::fs::symlink_metadata(&known).is_err() {
                std::fs::create_dir(&known).map_err(|e| refused(&e.to_string()))?;
            }
        }
    }
    inside(root, &path).map_err(|why| refused(&why))?;
    path.canonicalize().map_err(|e| refused(&e.to_string()))
}

fn inside(root: &Path, path: &Path) -> Result<(), String> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let root = root.canonicalize().map_err(|e| e.to_string())?;
    let real = path.canonicalize().map_err(|e| e.to_string())?;
    if real.starts_with(root) {
        Ok(())
    } else {
        Err("a link leads out of the volume".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2021_25741_a_sub_path_stays_inside_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        assert!(below(&root, "a/b").unwrap().ends_with("volume/a/b"));
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        for bad in ["out", "out/x", "../x", "/etc", "a/../../x"] {
            assert!(below(&root, bad).is_err(), "{bad}");
        }
    }
}
