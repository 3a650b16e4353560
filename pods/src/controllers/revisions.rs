//! Revisions of a template, as StatefulSets and DaemonSets keep them: ControllerRevisions, named by
//! a hash of what they hold.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::objects::{is_controlled_by, short_hash};
use crate::api::{Client, DeleteOptions, Patch, Status, kinds};
use crate::store::Selector;

/// Label of a pod, and of a revision: which template it is of.
pub const HASH: &str = "controller-revision-hash";

/// What is to be written of revisions, and which is the newest.
#[derive(Debug, Default, Clone)]
pub struct Revisions {
    /// The one of the template as it is.
    pub update: String,
    /// To be made, where the template is new.
    pub create: Option<Box<ControllerRevision>>,
    /// To be given the highest number again, after a return to an old template: name, number.
    pub renumber: Option<(String, i64)>,
}

/// The owner of revisions.
pub struct Of<'a> {
    /// Its metadata.
    pub meta: &'a ObjectMeta,
    /// A reference to it.
    pub owner: OwnerReference,
    /// Its template.
    pub template: &'a PodTemplateSpec,
}

fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// What a revision holds: a patch that puts the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0["spec"]["template"].clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// The revisions of the owner, in order.
pub fn mine<'a>(all: &'a [ControllerRevision], meta: &ObjectMeta) -> Vec<&'a ControllerRevision> {
    let uid = meta.uid.as_deref().unwrap_or_default();
    let mut own: Vec<_> = all
        .iter()
        .filter(|r| is_controlled_by(&r.metadata, uid))
        .collect();
    own.sort_by_key(|r| (r.revision, name(r).to_owned()));
    own
}

/// Compares the template with the revisions that there are.
pub fn plan(of: &Of<'_>, all: &[ControllerRevision]) -> Revisions {
    let own = mine(all, of.meta);
    let data = data(of.template);
    let highest = own.last().map_or(0, |r| r.revision);
    let same = own
        .iter()
        .rev()
        .find(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    if let Some(same) = same {
        let renumber = (same.revision < highest).then(|| (name(same).to_owned(), highest + 1));
        let update = name(same).to_owned();
        return Revisions {
            update,
            create: None,
            renumber,
        };
    }
    let hash = short_hash(&data.to_string());
    let mut labels = of
        .template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let owner = of.meta.name.as_deref().unwrap_or_default();
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{owner}-{hash}")),
            namespace: of.meta.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![of.owner.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: highest + 1,
    };
    Revisions {
        update: name(&revision).to_owned(),
        create: Some(Box::new(revision)),
        renumber: None,
    }
}

/// The oldest revisions beyond `limit` that nothing lives by.
pub fn surplus(
    all: &[ControllerRevision],
    meta: &ObjectMeta,
    live: &[&str],
    limit: i32,
) -> Vec<String> {
    let own = mine(all, meta);
    let idle: Vec<_> = own.iter().filter(|r| !live.contains(&name(r))).collect();
    let excess = idle
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.iter()
        .take(excess)
        .map(|r| name(r).to_owned())
        .collect()
}

/// The revisions of a namespace.
pub fn list(client: &Client, namespace: &str) -> Result<Vec<ControllerRevision>, Status> {
    client.list_as(namespace, &Selector::all())
}

/// Writes what the plan says of revisions.
pub async fn execute(
    client: &Client,
    namespace: &str,
    plan: &Revisions,
    surplus: &[String],
) -> Result<(), Status> {
    if let Some(revision) = &plan.create {
        match client.create_as(namespace, &**revision).await {
            Err(s) if !s.is_already_exists() => return Err(s),
            _ => {}
        }
    }
    let res = &kinds::CONTROLLER_REVISION;
    if let Some((name, number)) = &plan.renumber {
        let patch = Patch::Merge(json!({"revision": number}));
        client.patch(res, namespace, name, patch).await?;
    }
    for name in surplus {
        super::pods::ignore_gone(
            client
                .delete(res, namespace, name, &DeleteOptions::default())
                .await,
        )?;
    }
    Ok(())
}
