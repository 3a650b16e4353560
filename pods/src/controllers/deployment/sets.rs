//! The replica sets of a Deployment: which is new, which are old, their revisions.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Plan, Step, rolling};
use crate::controllers::objects::{owner_reference, short_hash};

/// Label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Annotation with the number of the revision.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that belong to one object and are not handed from the Deployment to its sets.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The hash of a template: of its JSON, and of how often that hash was found taken.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // The keys of typed objects and maps come in a fixed order, so equal templates hash equally.
    let json = serde_json::to_string(template).expect("a template is plain data");
    short_hash(&format!("{json}{}", collisions.unwrap_or(0)))
}

/// The sets of one Deployment.
pub struct Family<'a> {
    /// The set of the current template.
    pub new: Option<&'a ReplicaSet>,
    /// The others, oldest first.
    pub old: Vec<&'a ReplicaSet>,
    /// All of them.
    pub all: Vec<&'a ReplicaSet>,
}

impl<'a> Family<'a> {
    pub fn new(deployment: &Deployment, sets: &'a [ReplicaSet]) -> Self {
        let template = deployment.spec.as_ref().map(|s| &s.template);
        let mut all: Vec<&ReplicaSet> = sets.iter().collect();
        let age = |s: &ReplicaSet| {
            let created = s.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (created, s.metadata.name.clone())
        };
        all.sort_by_key(|set| age(set));
        let new = all.iter().copied().find(|set| {
            let own = set.spec.as_ref().and_then(|s| s.template.as_ref());
            own.map(without_hash).as_ref() == template.map(without_hash).as_ref()
        });
        let old = all
            .iter()
            .copied()
            .filter(|set| new.is_none_or(|n| !std::ptr::eq(n, *set)))
            .collect();
        Self { new, old, all }
    }

    /// Whether the number of replicas was changed since the sets were last scaled, so that a
    /// rollout in flight is scaled in proportion.
    pub fn rescaled(&self, deployment: &Deployment) -> bool {
        let wanted = rolling::desired(deployment);
        self.all.iter().filter(|set| replicas(set) > 0).any(|set| {
            annotation(&set.metadata, DESIRED)
                .and_then(|text| text.parse::<i32>().ok())
                .is_some_and(|then| then != wanted)
        })
    }
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0)
}

pub fn name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().unwrap_or_default()
}

pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    // Absent and empty mean the same.
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    meta.creation_timestamp = None;
    template
}

/// What a set remembers of the Deployment it was scaled for.
pub fn scale_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let wanted = rolling::desired(deployment);
    let (surge, _) = rolling::fence(deployment);
    BTreeMap::from([
        (DESIRED.to_owned(), wanted.to_string()),
        (MAX.to_owned(), (wanted + surge).to_string()),
    ])
}

fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let own = deployment.metadata.annotations.iter().flatten();
    own.filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Sees to it that the set of the current template exists with the right revision. False where it
/// had to be made: the rest waits for it.
pub fn ensure_new(deployment: &Deployment, family: &Family, plan: &mut Plan) -> bool {
    let last = family.old.iter().map(|s| revision(&s.metadata)).max();
    let next = last.unwrap_or(0) + 1;
    let Some(new) = family.new else {
        create(deployment, family, next, plan);
        return false;
    };
    let mut changes: BTreeMap<String, String> = inherited(deployment)
        .into_iter()
        .filter(|(key, value)| annotation(&new.metadata, key) != Some(value))
        .collect();
    let current = revision(&new.metadata);
    if current < next {
        changes.insert(REVISION.to_owned(), next.to_string());
        if current > 0 {
            let history = annotation(&new.metadata, HISTORY).unwrap_or_default();
            let comma = if history.is_empty() { "" } else { "," };
            changes.insert(HISTORY.to_owned(), format!("{history}{comma}{current}"));
        }
    }
    if !changes.is_empty() {
        plan.steps.push(Step::AnnotateSet {
            name: name(new),
            annotations: changes,
        });
    }
    let number = current.max(next);
    if revision(&deployment.metadata) != number {
        let annotation = BTreeMap::from([(REVISION.to_owned(), number.to_string())]);
        plan.steps.push(Step::Annotate(annotation));
    }
    true
}

fn create(deployment: &Deployment, family: &Family, number: i64, plan: &mut Plan) {
    let Some(spec) = &deployment.spec else { return };
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let set_name = format!(
        "{}-{hash}",
        deployment.metadata.name.as_deref().unwrap_or_default()
    );
    // A set of ours by this name has another template, else it would have been found.
    if family.all.iter().any(|set| name(set) == set_name) {
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(collisions.unwrap_or(0) + 1);
        plan.steps.push(Step::Collision(status));
        return;
    }
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default();
    let pair = (HASH_LABEL.to_owned(), hash.clone());
    labels.labels.get_or_insert_default().extend([pair.clone()]);
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().extend([pair]);
    let replicas = rolling::first_size(deployment, family);
    let mut annotations = inherited(deployment);
    annotations.extend(scale_annotations(deployment));
    annotations.insert(REVISION.to_owned(), number.to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name.clone()),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(
                "apps/v1",
                "Deployment",
                &deployment.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    plan.steps.push(Step::Create(Box::new(set)));
    if revision(&deployment.metadata) != number {
        let annotation = BTreeMap::from([(REVISION.to_owned(), number.to_string())]);
        plan.steps.push(Step::Annotate(annotation));
    }
    plan.events.push((
        "ScalingReplicaSet",
        format!("Scaled up replica set {set_name} from 0 to {replicas}"),
    ));
}

/// Removes the oldest empty sets beyond the history that is kept.
pub fn clean_up(deployment: &Deployment, family: &Family, plan: &mut Plan) {
    let spec = deployment.spec.as_ref();
    let keep = spec.and_then(|s| s.revision_history_limit).unwrap_or(10);
    let mut old: Vec<&ReplicaSet> = family
        .old
        .iter()
        .copied()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    old.sort_by_key(|set| revision(&set.metadata));
    let excess = old.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
    for set in old.into_iter().take(excess) {
        let empty = set.status.as_ref().is_none_or(|s| s.replicas == 0);
        if empty && replicas(set) == 0 && !behind(set) {
            plan.steps.push(Step::Remove(name(set)));
        }
    }
}

/// Whether the set's own controller has yet to look at its newest spec.
fn behind(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|s| s.observed_generation);
    set.metadata.generation > observed
}
