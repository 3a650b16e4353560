//! The pod of an ordinal, and its claims.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::controllers::objects::owner_reference;
use crate::controllers::replicaset::pod_of;
use crate::controllers::revisions::{self, HASH};

fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The ordinal in the pod's name.
pub fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let rest = pod
        .metadata
        .name
        .as_deref()?
        .strip_prefix(set)?
        .strip_prefix('-')?;
    let number: i32 = rest.parse().ok()?;
    (number >= 0 && number.to_string() == rest).then_some(number)
}

/// The pod of an ordinal, of a revision.
pub fn new_pod(set: &StatefulSet, ordinal: i32, revision: &str, all: &[ControllerRevision]) -> Pod {
    let owner = owner_reference("apps/v1", "StatefulSet", &set.metadata);
    let stored = all
        .iter()
        .find(|r| r.metadata.name.as_deref() == Some(revision));
    let own = || {
        set.spec
            .as_ref()
            .map(|s| s.template.clone())
            .unwrap_or_default()
    };
    let template = stored.and_then(revisions::template).unwrap_or_else(own);
    let mut pod = pod_of(template, &set.metadata, owner);
    let pod_name = format!("{}-{ordinal}", name(set));
    pod.metadata.generate_name = Some(format!("{}-", name(set)));
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), revision.to_owned());
    labels.insert(
        "statefulset.kubernetes.io/pod-name".to_owned(),
        pod_name.clone(),
    );
    labels.insert(
        "apps.kubernetes.io/pod-index".to_owned(),
        ordinal.to_string(),
    );
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    let service = set.spec.as_ref().and_then(|s| s.service_name.clone());
    spec.subdomain = service.filter(|s| !s.is_empty());
    let claims = claims(set, ordinal);
    let volumes = spec.volumes.get_or_insert_default();
    for (volume, claim) in claims {
        volumes.retain(|v| v.name != volume);
        volumes.push(Volume {
            name: volume,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.metadata.name.unwrap_or_default(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    pod
}

/// The claims of an ordinal: the name of the volume, and the claim.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.as_ref();
    let templates = spec
        .and_then(|s| s.volume_claim_templates.clone())
        .unwrap_or_default();
    let labels = spec.and_then(|s| s.selector.match_labels.clone());
    let one = |template: PersistentVolumeClaim| {
        let volume = template.metadata.name.clone().unwrap_or_default();
        let mut own = labels.clone().unwrap_or_default();
        own.extend(template.metadata.labels.unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{volume}-{}-{ordinal}", name(set))),
                namespace: set.metadata.namespace.clone(),
                labels: Some(own),
                annotations: template.metadata.annotations,
                owner_references: claim_owner(set).map(|o| vec![o]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        (volume, claim)
    };
    templates.into_iter().map(one).collect()
}

/// The owner of claims that go with the set.
fn claim_owner(set: &StatefulSet) -> Option<OwnerReference> {
    deletes(set, true).then(|| OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..owner_reference("apps/v1", "StatefulSet", &set.metadata)
    })
}

/// Whether claims are to go when the set does (`deleted`), or when it has fewer replicas.
pub fn deletes(set: &StatefulSet, deleted: bool) -> bool {
    let policy = set
        .spec
        .as_ref()
        .and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let field = policy.and_then(|p| {
        if deleted {
            p.when_deleted.as_deref()
        } else {
            p.when_scaled.as_deref()
        }
    });
    field == Some("Delete")
}
