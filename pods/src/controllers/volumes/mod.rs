//! PersistentVolumes and their claims: who belongs to whom, as data.
//!
//! ```text
//! claim   Pending ──bound──▶ Bound ──volume gone──▶ Lost
//! volume  Available ──▶ Bound ──claim gone──▶ Released ──policy Delete──▶ removed
//! ```
//!
//! A binding is written from both sides, the volume's first: a volume that names a claim is that
//! claim's, whatever became of the second write.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::objects::selects;
use crate::quantity;

/// The provisioner of this program: directories below its own.
pub const LOCAL_PATH: &str = "rrun.io/local-path";
/// Annotation of volumes that it made.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Holds a claim for as long as a pod uses it.
pub const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";
/// Holds a volume for as long as it is bound.
pub const VOLUME_IN_USE: &str = "kubernetes.io/pv-protection";

/// What to do about a claim, in this order.
#[derive(Debug, Default)]
pub struct ClaimPlan {
    /// Finalizers to set, where they differ.
    pub finalizers: Option<Vec<String>>,
    /// A volume to make: its directory first.
    pub provision: Option<Box<PersistentVolume>>,
    /// A volume to bind to this claim: its name.
    pub bind: Option<String>,
    /// `spec.volumeName` to set.
    pub volume: Option<String>,
    /// The status, where it differs.
    pub status: Option<Value>,
    /// What to tell people: whether it is good, reason, message.
    pub event: Option<(bool, &'static str, String)>,
}

impl ClaimPlan {
    /// Whether there is nothing to write.
    pub fn is_quiet(&self) -> bool {
        self.finalizers.is_none()
            && self.provision.is_none()
            && self.bind.is_none()
            && self.volume.is_none()
            && self.status.is_none()
    }
}

/// What a claim's plan looks at beside the claim.
pub struct Surroundings<'a> {
    /// Every volume.
    pub volumes: &'a [PersistentVolume],
    /// The claim's class.
    pub class: Option<&'a StorageClass>,
    /// Whether a pod that has not ended names the claim.
    pub used: bool,
    /// Name of this node.
    pub node: &'a str,
    /// Directory of this program's volumes.
    pub root: &'a str,
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

fn claim_ref(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Whether the volume is this claim's, or kept for one of its name.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    reference.is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && r.uid
                .as_ref()
                .is_none_or(|u| u.is_empty() || *u == uid(&claim.metadata))
    })
}

fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    is_for(volume, claim)
        && reference.is_some_and(|r| r.uid.as_deref() == Some(uid(&claim.metadata)))
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let all = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    all.and_then(|c| c.get("storage"))
        .and_then(quantity::value)
        .unwrap_or(0)
}

fn asked(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let storage = resources
        .and_then(|r| r.requests.as_ref())
        .and_then(|r| r.get("storage"));
    storage.and_then(quantity::value).unwrap_or(0)
}

/// Whether a volume that nobody has is what the claim asks for.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let class = |c: &Option<String>| c.clone().unwrap_or_default();
    let modes = has.access_modes.as_deref().unwrap_or_default();
    let reserved = has.claim_ref.is_some();
    volume.metadata.deletion_timestamp.is_none()
        && (!reserved || is_for(volume, claim))
        && class(&has.storage_class_name) == class(&wants.storage_class_name)
        && wants
            .access_modes
            .iter()
            .flatten()
            .all(|m| modes.contains(m))
        && wants
            .selector
            .as_ref()
            .is_none_or(|s| selects(s, volume.metadata.labels.as_ref()))
        && has.volume_mode.as_deref().unwrap_or("Filesystem")
            == wants.volume_mode.as_deref().unwrap_or("Filesystem")
        && capacity(volume) >= asked(claim)
}

/// Compares a claim with the volumes that there are.
pub fn plan_claim(claim: &PersistentVolumeClaim, around: &Surroundings<'_>) -> ClaimPlan {
    let mut plan = ClaimPlan::default();
    protect(
        &claim.metadata,
        CLAIM_IN_USE,
        around.used,
        &mut plan.finalizers,
    );
    let wanted = claim
        .spec
        .as_ref()
        .and_then(|s| s.volume_name.clone())
        .filter(|v| !v.is_empty());
    let by_name = |n: &str| around.volumes.iter().find(|v| name(&v.metadata) == n);
    match wanted {
        Some(wanted) => match by_name(&wanted) {
            Some(volume) if is_bound_to(volume, claim) => bound(claim, volume, &mut plan),
            // Named by the user before it was bound.
            Some(volume)
                if is_for(volume, claim)
                    || volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()) =>
            {
                plan.bind = Some(wanted);
                bound(claim, volume, &mut plan);
            }
            Some(_) => {
                let why = format!("volume \"{wanted}\" already bound to a different claim.");
                plan.event = Some((false, "FailedBinding", why));
            }
            None if phase(claim) == "Pending" => {}
            None => lost(claim, &mut plan),
        },
        None if claim.metadata.deletion_timestamp.is_none() => unbound(claim, around, &mut plan),
        None => {}
    }
    plan
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let status = claim.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

fn lost(claim: &PersistentVolumeClaim, plan: &mut ClaimPlan) {
    if phase(claim) != "Lost" {
        plan.status = Some(json!({"phase": "Lost"}));
        let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        plan.event = Some((false, "ClaimLost", why.to_owned()));
    }
}

fn bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut ClaimPlan) {
    let spec = volume.spec.clone().unwrap_or_default();
    let status =
        json!({"phase": "Bound", "accessModes": spec.access_modes, "capacity": spec.capacity});
    let stored = claim
        .status
        .as_ref()
        .and_then(|s| serde_json::to_value(s).ok());
    plan.status = (stored.as_ref() != Some(&status)).then_some(status);
}

fn unbound(claim: &PersistentVolumeClaim, around: &Surroundings<'_>, plan: &mut ClaimPlan) {
    let mut candidates: Vec<&PersistentVolume> =
        around.volumes.iter().filter(|v| fits(v, claim)).collect();
    // Kept for this claim first, then the smallest.
    candidates.sort_by_key(|v| (!is_for(v, claim), capacity(v), name(&v.metadata).to_owned()));
    let waits = around
        .class
        .is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let reserved = candidates.first().is_some_and(|v| is_for(v, claim));
    if waits && !around.used && !reserved {
        let why = "waiting for first consumer to be created before binding";
        plan.event = Some((true, "WaitForFirstConsumer", why.to_owned()));
        return;
    }
    if let Some(volume) = candidates.first() {
        let name = name(&volume.metadata).to_owned();
        plan.bind = (!is_bound_to(volume, claim)).then(|| name.clone());
        plan.volume = Some(name);
        return bound(claim, volume, plan);
    }
    let named = claim
        .spec
        .as_ref()
        .and_then(|s| s.storage_class_name.as_deref())
        .unwrap_or_default();
    match around.class {
        Some(class) if class.provisioner == LOCAL_PATH => {
            plan.provision = Some(Box::new(new_volume(claim, class, around)));
        }
        Some(class) => {
            let why = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
                class.provisioner
            );
            plan.event = Some((true, "ExternalProvisioning", why));
        }
        None if named.is_empty() => {
            let why = "no persistent volumes available for this claim and no storage class is set";
            plan.event = Some((true, "FailedBinding", why.to_owned()));
        }
        None => {
            let why = format!("storageclass.storage.k8s.io \"{named}\" not found");
            plan.event = Some((false, "ProvisioningFailed", why));
        }
    }
}

/// The volume for a claim; the same each time it is asked for.
fn new_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    around: &Surroundings<'_>,
) -> PersistentVolume {
    let volume = format!("pvc-{}", uid(&claim.metadata));
    let spec = claim.spec.clone().unwrap_or_default();
    let hostname = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![around.node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![hostname]),
        match_fields: None,
    };
    let annotation = (PROVISIONED_BY.to_owned(), LOCAL_PATH.to_owned());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume.clone()),
            annotations: Some([annotation].into()),
            finalizers: Some(vec![VOLUME_IN_USE.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|r| r.requests),
            claim_ref: Some(claim_ref(claim)),
            host_path: Some(HostPathVolumeSource {
                path: format!("{}/{volume}", around.root),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![term],
                }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Keeps a finalizer for as long as the object lives or is used.
fn protect(meta: &ObjectMeta, finalizer: &str, used: bool, out: &mut Option<Vec<String>>) {
    let mut all = meta.finalizers.clone().unwrap_or_default();
    let there = all.iter().any(|f| f == finalizer);
    let dying = meta.deletion_timestamp.is_some();
    if !dying && !there {
        all.push(finalizer.to_owned());
        *out = Some(all);
    } else if dying && there && !used {
        all.retain(|f| f != finalizer);
        *out = Some(all);
    }
}

/// What to do about a volume, in this order.
#[derive(Debug, Default)]
pub struct VolumePlan {
    /// Finalizers to set, where they differ.
    pub finalizers: Option<Vec<String>>,
    /// The phase, where it differs.
    pub phase: Option<&'static str>,
    /// Whether the directory is to be emptied and removed, and the volume after it.
    pub reclaim: bool,
    /// What to tell people.
    pub event: Option<(&'static str, String)>,
}

impl VolumePlan {
    /// Whether there is nothing to write.
    pub fn is_quiet(&self) -> bool {
        self.finalizers.is_none() && self.phase.is_none() && !self.reclaim
    }
}

/// Compares a volume with the claim that it names.
pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let mut plan = VolumePlan::default();
    let spec = volume.spec.clone().unwrap_or_default();
    let owner = claim.filter(|c| is_bound_to(volume, c));
    protect(
        &volume.metadata,
        VOLUME_IN_USE,
        owner.is_some(),
        &mut plan.finalizers,
    );
    let reference = spec.claim_ref.as_ref();
    let named = reference.is_some_and(|r| r.uid.as_ref().is_some_and(|u| !u.is_empty()));
    let ours = volume
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(PROVISIONED_BY))
        .is_some_and(|p| p == LOCAL_PATH);
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let phase = match (owner, named) {
        (Some(_), _) => "Bound",
        (None, false) => "Available",
        (None, true) if !deletes => "Released",
        (None, true) if ours => {
            plan.reclaim = true;
            "Released"
        }
        // Nobody here knows how to delete what another made.
        (None, true) => {
            let why = "error getting deleter volume plugin for volume: no deletable volume plugin matched";
            plan.event = Some(("VolumeFailedDelete", why.to_owned()));
            "Failed"
        }
    };
    let stored = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    plan.phase = (stored != Some(phase)).then_some(phase);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "default", "uid": "c-1", "finalizers": [CLAIM_IN_USE]},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"}});
        json_patch::merge(&mut claim, &extra);
        serde_json::from_value(claim).unwrap()
    }

    fn volume(name: &str, size: &str, extra: Value) -> PersistentVolume {
        let mut volume = json!({"metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"], "capacity": {"storage": size}, "hostPath": {"path": "/x"},
                     "persistentVolumeReclaimPolicy": "Retain"}});
        json_patch::merge(&mut volume, &extra);
        serde_json::from_value(volume).unwrap()
    }

    fn class(mode: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "local-path"}, "provisioner": LOCAL_PATH,
            "volumeBindingMode": mode, "reclaimPolicy": "Delete"}),
        )
        .unwrap()
    }

    fn around<'a>(
        volumes: &'a [PersistentVolume],
        class: Option<&'a StorageClass>,
        used: bool,
    ) -> Surroundings<'a> {
        Surroundings {
            volumes,
            class,
            used,
            node: "n1",
            root: "/v",
        }
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken() {
        let volumes = vec![
            volume("big", "10Gi", json!({})),
            volume("small", "1Mi", json!({})),
            volume("right", "2Gi", json!({})),
            volume(
                "other",
                "1Gi",
                json!({"spec": {"storageClassName": "gold"}}),
            ),
            volume(
                "taken",
                "1Gi",
                json!({"spec": {"claimRef": {"name": "x", "namespace": "default", "uid": "u"}}}),
            ),
        ];
        let plan = plan_claim(&claim(json!({})), &around(&volumes, None, false));
        assert_eq!(
            (plan.bind.as_deref(), plan.volume.as_deref()),
            (Some("right"), Some("right"))
        );
        assert_eq!(plan.status.unwrap()["capacity"]["storage"], "2Gi");
        let kept = [
            volume(
                "kept",
                "50Gi",
                json!({"spec": {"claimRef": {"name": "data", "namespace": "default"}}}),
            ),
            volumes[2].clone(),
        ];
        assert_eq!(
            plan_claim(&claim(json!({})), &around(&kept, None, false))
                .volume
                .as_deref(),
            Some("kept")
        );
    }

    #[test]
    fn a_class_that_waits_provisions_for_its_first_pod() {
        let (claim, class) = (
            claim(json!({"spec": {"storageClassName": "local-path"}})),
            class("WaitForFirstConsumer"),
        );
        let waits = plan_claim(&claim, &around(&[], Some(&class), false));
        assert!(waits.is_quiet());
        assert_eq!(waits.event.unwrap().1, "WaitForFirstConsumer");
        let made = plan_claim(&claim, &around(&[], Some(&class), true))
            .provision
            .unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("pvc-c-1"));
        let spec = made.spec.as_ref().unwrap();
        assert_eq!(spec.host_path.as_ref().unwrap().path, "/v/pvc-c-1");
        assert_eq!(
            spec.persistent_volume_reclaim_policy.as_deref(),
            Some("Delete")
        );
        let plan = plan_claim(&claim, &around(&[*made], Some(&class), true));
        assert_eq!((plan.bind, plan.volume.as_deref()), (None, Some("pvc-c-1")));
    }

    #[test]
    fn a_claim_in_use_stays_and_one_without_class_says_why_it_waits() {
        let dying = claim(json!({"metadata": {"deletionTimestamp": "2026-11-21T10:00:00Z"}}));
        assert!(
            plan_claim(&dying, &around(&[], None, true))
                .finalizers
                .is_none()
        );
        assert_eq!(
            plan_claim(&dying, &around(&[], None, false)).finalizers,
            Some(vec![])
        );
        let (_, reason, message) = plan_claim(&claim(json!({})), &around(&[], None, true))
            .event
            .unwrap();
        assert_eq!(
            (reason, message.as_str()),
            (
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set"
            )
        );
    }

    #[test]
    fn a_released_volume_is_reclaimed_by_its_policy() {
        let reference =
            json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c-1"}}});
        let kept = volume("v", "1Gi", reference.clone());
        assert_eq!(
            plan_volume(&kept, Some(&claim(json!({})))).phase,
            Some("Bound")
        );
        let plan = plan_volume(&kept, None);
        assert_eq!((plan.phase, plan.reclaim), (Some("Released"), false));
        let mut ours = volume("v", "1Gi", reference);
        ours.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".into());
        assert_eq!(plan_volume(&ours, None).phase, Some("Failed"));
        ours.metadata.annotations =
            Some([(PROVISIONED_BY.to_owned(), LOCAL_PATH.to_owned())].into());
        assert!(plan_volume(&ours, None).reclaim);
        assert_eq!(
            plan_volume(&volume("v", "1Gi", json!({})), None).phase,
            Some("Available")
        );
    }

    proptest! {
        #[test]
        fn claims_converge_whatever_fails_and_then_write_nothing(
            fails in proptest::collection::vec(any::<u8>(), 0..8), static_volume in any::<bool>()
        ) {
            let class = class("Immediate");
            let mut claim = claim(json!({"metadata": {"finalizers": null}, "spec": {"storageClassName": "local-path"}}));
            let mut volumes = Vec::new();
            if static_volume {
                volumes.push(volume("static", "2Gi", json!({"spec": {"storageClassName": "local-path"}})));
            }
            let mut step = |fails: u8| {
                let plan = plan_claim(&claim, &around(&volumes, Some(&class), false));
                let mut writes = 0;
                let mut write = || { writes += 1; fails >> (writes % 8) & 1 == 0 };
                if let Some(all) = plan.finalizers && write() {
                    claim.metadata.finalizers = Some(all);
                }
                if let Some(volume) = plan.provision && write() {
                    volumes.push(*volume);
                }
                if let Some(name) = plan.bind {
                    if !write() { return writes; }
                    let found = volumes.iter_mut().find(|v| v.metadata.name.as_ref() == Some(&name)).unwrap();
                    found.spec.as_mut().unwrap().claim_ref = Some(claim_ref(&claim));
                }
                if let Some(name) = plan.volume {
                    if !write() { return writes; }
                    claim.spec.as_mut().unwrap().volume_name = Some(name);
                }
                if let Some(status) = plan.status && write() {
                    claim.status = serde_json::from_value(status).unwrap();
                }
                writes
            };
            for f in fails { step(f); }
            for _ in 0..6 { step(0); }
            prop_assert_eq!(step(0), 0);
            prop_assert_eq!(phase(&claim), "Bound");
            prop_assert_eq!(volumes.len(), 1);
        }
    }
}
