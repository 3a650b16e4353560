//! Carries out the plans of claims and volumes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::drive::{Controller, Key, Mapper, itself};
use super::pods::ignore_gone;
use super::volumes::{ClaimPlan, Surroundings, VolumePlan, plan_claim, plan_volume};
use crate::api::{Client, DeleteOptions, Patch, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

const CLAIM: Res = &kinds::PERSISTENT_VOLUME_CLAIM;
const VOLUME: Res = &kinds::PERSISTENT_VOLUME;

/// Where the provisioner makes its directories, and for which node.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory.
    pub root: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Ports of the node that no Service may have.
    pub reserved: Vec<u16>,
}

/// Binds claims, and makes volumes for them.
pub struct Claims {
    client: Client,
    events: Recorder,
    place: Place,
}

impl Claims {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder, place: &Place) -> Self {
        Self {
            client: client.named("persistentvolume-binder"),
            events: events.of("persistentvolume-controller"),
            place: place.clone(),
        }
    }

    async fn execute(&self, object: &Object, plan: ClaimPlan) -> Result<(), Status> {
        let (ns, name) = (object.namespace(), object.name());
        if let Some((good, reason, message)) = plan.event {
            let about = reference(object.value());
            if good {
                self.events.normal(&about, reason, message);
            } else {
                self.events.warning(&about, reason, message);
            }
        }
        if let Some(all) = plan.finalizers {
            set_finalizers(&self.client, CLAIM, object, &all).await?;
        }
        if let Some(volume) = &plan.provision {
            self.provision(object, volume).await?;
        }
        if let Some(volume) = &plan.bind {
            self.bind(object, volume).await?;
        }
        if let Some(volume) = plan.volume {
            let patch = Patch::Merge(json!({"spec": {"volumeName": volume}}));
            self.client.patch(CLAIM, ns, name, patch).await?;
        }
        if let Some(status) = plan.status {
            ignore_gone(self.client.set_status(CLAIM, ns, name, status).await)?;
        }
        Ok(())
    }

    async fn provision(&self, claim: &Object, volume: &PersistentVolume) -> Result<(), Status> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let dir = self.place.root.join(&name);
        let about = reference(claim.value());
        if let Err(error) = make(dir.clone()).await {
            let message = format!(
                "failed to provision volume with StorageClass: {}: {error}",
                dir.display()
            );
            self.events
                .warning(&about, "ProvisioningFailed", message.clone());
            return Err(Status::internal(message));
        }
        match self.client.create_as("", volume).await {
            Err(s) if !s.is_already_exists() => return Err(s),
            _ => {}
        }
        let message = format!("Successfully provisioned volume {name}");
        self.events.normal(&about, "ProvisioningSucceeded", message);
        Ok(())
    }

    /// Writes the claim into the volume, if the volume is still as it was seen.
    async fn bind(&self, claim: &Object, name: &str) -> Result<(), Status> {
        let volume = self.client.get(VOLUME, "", name)?;
        let patch = json!({
            "metadata": {"resourceVersion": volume.resource_version().to_string(),
                         "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": claim.uid(),
                     "namespace": claim.namespace(), "name": claim.name()}}
        });
        self.client
            .patch(VOLUME, "", name, Patch::Merge(patch))
            .await?;
        Ok(())
    }
}

async fn set_finalizers(
    client: &Client,
    res: Res,
    object: &Object,
    all: &[String],
) -> Result<(), Status> {
    let list = if all.is_empty() {
        json!(null)
    } else {
        json!(all)
    };
    let version = object.resource_version().to_string();
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": version}});
    let done = client.patch(res, object.namespace(), object.name(), Patch::Merge(patch));
    ignore_gone(done.await)
}

/// Makes a directory that every user may write to, as local-path does.
async fn make(dir: PathBuf) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let work = move || {
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)?
}

/// Removes a directory and what is in it; nothing there is fine.
async fn remove(dir: PathBuf) -> std::io::Result<()> {
    let work = move || match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other)?
}

/// The claims that a pod names.
fn of_pod(_: &Client, pod: &Object) -> Vec<Key> {
    let volumes = pod.at("/spec/volumes").as_array().into_iter().flatten();
    let names = volumes.filter_map(|v| v["persistentVolumeClaim"]["claimName"].as_str());
    names
        .map(|n| (pod.namespace().to_owned(), n.to_owned()))
        .collect()
}

/// The claim that a volume names; one that is free may be what any claim waits for.
fn of_volume(client: &Client, volume: &Object) -> Vec<Key> {
    let claim = volume.at("/spec/claimRef");
    match (claim["namespace"].as_str(), claim["name"].as_str()) {
        (Some(ns), Some(name)) => vec![(ns.to_owned(), name.to_owned())],
        _ => all(client, volume),
    }
}

fn all(client: &Client, _: &Object) -> Vec<Key> {
    let list = client.list(CLAIM, "", &Selector::all()).items;
    let open = list
        .iter()
        .filter(|c| c.str_at("/spec/volumeName").is_empty());
    open.map(|o| (o.namespace().to_owned(), o.name().to_owned()))
        .collect()
}

fn names_claim(pod: &Object, name: &str) -> bool {
    let volumes = pod.at("/spec/volumes").as_array().into_iter().flatten();
    let ended = matches!(pod.str_at("/status/phase"), "Succeeded" | "Failed");
    !ended
        && volumes
            .into_iter()
            .any(|v| v["persistentVolumeClaim"]["claimName"] == name)
}

impl Controller for Claims {
    const NAME: &'static str = "persistentvolumeclaims";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (CLAIM, itself),
            (&kinds::POD, of_pod),
            (VOLUME, of_volume),
            (&kinds::STORAGE_CLASS, all),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(CLAIM, &key.0, &key.1) else {
            return Ok(None);
        };
        let claim: PersistentVolumeClaim = object.typed().map_err(Status::internal)?;
        let volumes: Vec<PersistentVolume> = self.client.list_as("", &Selector::all())?;
        let class = object.str_at("/spec/storageClassName");
        let class = self.client.find(&kinds::STORAGE_CLASS, "", class);
        let class: Option<StorageClass> = class.and_then(|c| c.typed().ok());
        let pods = self
            .client
            .list(&kinds::POD, &key.0, &Selector::all())
            .items;
        let around = Surroundings {
            volumes: &volumes,
            class: class.as_ref(),
            used: pods.iter().any(|p| names_claim(p, &key.1)),
            node: &self.place.node,
            root: &self.place.root.to_string_lossy(),
        };
        let plan = plan_claim(&claim, &around);
        self.execute(&object, plan).await?;
        Ok(None)
    }
}

/// Keeps volumes' phases, and reclaims what its claim has left.
pub struct Volumes {
    client: Client,
    events: Recorder,
    place: Place,
}

impl Volumes {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder, place: &Place) -> Self {
        Self {
            client: client.named("persistentvolume-binder"),
            events: events.of("persistentvolume-controller"),
            place: place.clone(),
        }
    }

    async fn execute(&self, object: &Object, plan: VolumePlan) -> Result<(), Status> {
        let name = object.name();
        if let Some((reason, message)) = plan.event {
            self.events
                .warning(&reference(object.value()), reason, message);
        }
        if let Some(all) = plan.finalizers {
            set_finalizers(&self.client, VOLUME, object, &all).await?;
        }
        if let Some(phase) = plan.phase {
            ignore_gone(
                self.client
                    .set_status(VOLUME, "", name, json!({"phase": phase}))
                    .await,
            )?;
        }
        if plan.reclaim {
            self.reclaim(name).await?;
        }
        Ok(())
    }

    /// The directory follows from the name, not from what the object says of its path, which
    /// whoever may write volumes could have changed.
    async fn reclaim(&self, name: &str) -> Result<(), Status> {
        let plain = Path::new(name).file_name().is_some_and(|f| f == name);
        if !plain || !name.starts_with("pvc-") {
            return Ok(());
        }
        let dir = self.place.root.join(name);
        remove(dir.clone())
            .await
            .map_err(|e| Status::internal(format!("removing {}: {e}", dir.display())))?;
        ignore_gone(
            self.client
                .delete(VOLUME, "", name, &DeleteOptions::default())
                .await,
        )
    }
}

fn volume_of_claim(client: &Client, claim: &Object) -> Vec<Key> {
    let named = claim.str_at("/spec/volumeName");
    if !named.is_empty() {
        return vec![(String::new(), named.to_owned())];
    }
    let list = client.list(VOLUME, "", &Selector::all()).items;
    let mine = list.iter().filter(|v| {
        v.str_at("/spec/claimRef/name") == claim.name()
            && v.str_at("/spec/claimRef/namespace") == claim.namespace()
    });
    mine.map(|v| (String::new(), v.name().to_owned())).collect()
}

impl Controller for Volumes {
    const NAME: &'static str = "persistentvolumes";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(VOLUME, itself), (CLAIM, volume_of_claim)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(VOLUME, "", &key.1) else {
            return Ok(None);
        };
        let volume: PersistentVolume = object.typed().map_err(Status::internal)?;
        let (ns, name) = (
            object.str_at("/spec/claimRef/namespace"),
            object.str_at("/spec/claimRef/name"),
        );
        let claim = self.client.find(CLAIM, ns, name);
        let claim: Option<PersistentVolumeClaim> = claim.and_then(|c| c.typed().ok());
        let plan = plan_volume(&volume, claim.as_ref());
        self.execute(&object, plan).await?;
        Ok(None)
    }
}
