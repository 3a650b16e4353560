//! Claims of a pod as what they stand for on this machine: directories.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod,
};

use crate::api::Client;

/// The pod with each claim replaced by its volume's directory, or why it cannot be mounted.
pub fn resolve(client: &Client, pod: &Pod) -> Result<Pod, String> {
    let mut pod = pod.clone();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else {
        return Ok(pod);
    };
    let mut read_only = Vec::new();
    for volume in spec.volumes.iter_mut().flatten() {
        let Some(source) = volume.persistent_volume_claim.take() else {
            continue;
        };
        if source.read_only == Some(true) {
            read_only.push(volume.name.clone());
        }
        let found = directory(client, &namespace, &source.claim_name);
        let failed = |why| {
            format!(
                "MountVolume.SetUp failed for volume \"{}\" : {why}",
                volume.name
            )
        };
        volume.host_path = Some(found.map_err(failed)?);
    }
    let init = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init) {
        for mount in container.volume_mounts.iter_mut().flatten() {
            if read_only.contains(&mount.name) {
                mount.read_only = Some(true);
            }
        }
    }
    Ok(pod)
}

fn directory(
    client: &Client,
    namespace: &str,
    claim: &str,
) -> Result<HostPathVolumeSource, String> {
    let object: PersistentVolumeClaim = client
        .get_as(namespace, claim)
        .map_err(|_| format!("persistentvolumeclaim \"{claim}\" not found"))?;
    let bound = object.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = object.spec.and_then(|s| s.volume_name).unwrap_or_default();
    if !bound || name.is_empty() {
        return Err(format!("persistentvolumeclaim \"{claim}\" is not bound"));
    }
    let volume: PersistentVolume = client
        .get_as("", &name)
        .map_err(|_| format!("persistentvolume \"{name}\" not found"))?;
    let spec = volume.spec.unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!(
            "persistentvolume \"{name}\": block volumes are not there"
        ));
    }
    let local = spec.local.map(|local| HostPathVolumeSource {
        path: local.path,
        type_: Some("Directory".to_owned()),
    });
    spec.host_path
        .or(local)
        .ok_or_else(|| format!("persistentvolume \"{name}\" is of a kind that is not there"))
}
