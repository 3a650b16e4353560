//! Carries out the Deployment's plan.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use super::deployment::{Plan, Step, plan};
use super::drive::{Controller, Key, Mapper, all_in_namespace, itself, owner};
use super::objects::{owner_reference, selects};
use crate::api::{Client, DeleteOptions, Patch, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// See [`super::deployment`].
pub struct Deployments {
    client: Client,
    events: Recorder,
}

impl Deployments {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            client: client.named("deployment-controller"),
            events: events.of("deployment-controller"),
        }
    }

    /// The sets that are the Deployment's; matching ones without an owner become so.
    async fn sets(&self, object: &Object, wanted: &Deployment) -> Result<Vec<ReplicaSet>, Status> {
        let namespace = object.namespace();
        let list = self
            .client
            .list(&kinds::REPLICA_SET, namespace, &Selector::all());
        let mut sets = Vec::new();
        for stored in &list.items {
            let set: ReplicaSet = stored.typed().map_err(Status::internal)?;
            match stored.controller() {
                Some(owner) if owner["uid"] == object.uid() => sets.push(set),
                Some(_) => {}
                None => {
                    let selector = wanted.spec.as_ref().map(|s| &s.selector);
                    let matches =
                        selector.is_some_and(|s| selects(s, set.metadata.labels.as_ref()));
                    if matches && !object.is_deleting() && !stored.is_deleting() {
                        let owner = owner_reference("apps/v1", "Deployment", &wanted.metadata);
                        let patch = json!({"metadata": {"ownerReferences": [owner]}});
                        let res = &kinds::REPLICA_SET;
                        let patch = Patch::Strategic(patch);
                        self.client
                            .patch(res, namespace, stored.name(), patch)
                            .await?;
                        sets.push(set);
                    }
                }
            }
        }
        Ok(sets)
    }

    /// Whether pods of sets of other templates exist, running or on their way out.
    fn old_pods_left(&self, namespace: &str, sets: &[ReplicaSet], new: &Deployment) -> bool {
        let template = new.spec.as_ref().map(|s| &s.template.spec);
        let uid_of_old = |uid: &str| {
            sets.iter().any(|set| {
                let own = set
                    .spec
                    .as_ref()
                    .and_then(|s| s.template.as_ref())
                    .map(|t| &t.spec);
                set.metadata.uid.as_deref() == Some(uid) && own != template
            })
        };
        let pods = self.client.list(&kinds::POD, namespace, &Selector::all());
        pods.items.iter().any(|pod| {
            let ended = matches!(pod.str_at("/status/phase"), "Succeeded" | "Failed");
            let owner = pod.controller().and_then(|o| o["uid"].as_str());
            !ended && owner.is_some_and(uid_of_old)
        })
    }

    async fn execute(&self, object: &Object, plan: Plan) -> Result<(), Status> {
        let (namespace, name) = (object.namespace(), object.name());
        let sets = &kinds::REPLICA_SET;
        for step in plan.steps {
            match step {
                Step::Create(set) => match self.client.create_as(namespace, &*set).await {
                    Ok(_) => {}
                    // The next look finds it, as ours or as a collision.
                    Err(status) if status.reason == "AlreadyExists" => {
                        self.collide(object, &set).await?;
                    }
                    Err(status) => return Err(status),
                },
                Step::Scale {
                    name,
                    replicas,
                    annotations,
                } => {
                    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}});
                    self.client
                        .patch(sets, namespace, &name, Patch::Merge(patch))
                        .await?;
                }
                Step::AnnotateSet { name, annotations } => {
                    self.client
                        .patch(sets, namespace, &name, annotate(&annotations))
                        .await?;
                }
                Step::Annotate(annotations) => {
                    let patch = annotate(&annotations);
                    self.client
                        .patch(&kinds::DEPLOYMENT, namespace, name, patch)
                        .await?;
                }
                Step::Remove(set) => {
                    let options = DeleteOptions::default();
                    match self.client.delete(sets, namespace, &set, &options).await {
                        Err(status) if status.code != 404 => return Err(status),
                        _ => {}
                    }
                }
                Step::Collision(status) | Step::Status(status) => {
                    let status = serde_json::to_value(status).map_err(Status::internal)?;
                    self.client
                        .set_status(&kinds::DEPLOYMENT, namespace, name, status)
                        .await?;
                }
            }
        }
        let about = reference(object.value());
        for (reason, message) in plan.events {
            self.events.normal(&about, reason, message);
        }
        Ok(())
    }

    /// The name of the new set belongs to somebody else: another name is tried the next time.
    async fn collide(&self, object: &Object, set: &ReplicaSet) -> Result<(), Status> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let Some(there) = self
            .client
            .find(&kinds::REPLICA_SET, object.namespace(), name)
        else {
            return Ok(());
        };
        let ours = there
            .controller()
            .is_some_and(|owner| owner["uid"] == object.uid());
        if ours {
            return Ok(());
        }
        let count = object.int_at("/status/collisionCount").unwrap_or(0) + 1;
        let patch = Patch::Merge(json!({"status": {"collisionCount": count}}));
        let (namespace, name) = (object.namespace(), object.name());
        self.client
            .patch_status(&kinds::DEPLOYMENT, namespace, name, patch)
            .await?;
        Ok(())
    }
}

fn annotate(annotations: &BTreeMap<String, String>) -> Patch {
    Patch::Merge(json!({"metadata": {"annotations": annotations}}))
}

fn deployments_of_set(client: &Client, set: &Object) -> Vec<Key> {
    match set.controller() {
        Some(_) => owner(set, "Deployment").into_iter().collect(),
        None => all_in_namespace(client, &kinds::DEPLOYMENT, set),
    }
}

/// A pod that goes lets a Recreate go on.
fn deployments_of_pod(client: &Client, pod: &Object) -> Vec<Key> {
    let Some((namespace, name)) = owner(pod, "ReplicaSet") else {
        return vec![];
    };
    let set = client.find(&kinds::REPLICA_SET, &namespace, &name);
    let key = set.and_then(|set| owner(&set, "Deployment"));
    let recreate = |key: &Key| {
        let found = client.find(&kinds::DEPLOYMENT, &key.0, &key.1);
        found.is_some_and(|d| d.str_at("/spec/strategy/type") == "Recreate")
    };
    key.filter(recreate).into_iter().collect()
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (&kinds::DEPLOYMENT, itself),
            (&kinds::REPLICA_SET, deployments_of_set),
            (&kinds::POD, deployments_of_pod),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::DEPLOYMENT, &key.0, &key.1) else {
            return Ok(None);
        };
        let deployment: Deployment = object.typed().map_err(Status::internal)?;
        let sets = self.sets(&object, &deployment).await?;
        let left = self.old_pods_left(&key.0, &sets, &deployment);
        let plan = plan(&deployment, &sets, left, crate::node::now());
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        self.execute(&object, plan).await?;
        Ok(again.map(Duration::from_secs))
    }
}
