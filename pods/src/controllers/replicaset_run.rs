//! Carries out the ReplicaSet's plan, which is the ReplicationController's too.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize as _;
use serde_json::json;

use super::drive::{Controller, Key, Mapper, all_in_namespace, itself, owner};
use super::objects::owner_reference;
use super::pods::{Hands, candidates};
use super::replicaset::{Plan, new_pod, plan};
use crate::api::{Client, Res, Status, kinds};
use crate::events::Recorder;
use crate::store::Object;

/// What tells the two kinds apart.
pub trait Flavour: Send + Sync + 'static {
    /// As in managedFields and events.
    const NAME: &'static str;
    /// The kind.
    const RES: Res;
    /// The object as a ReplicaSet.
    fn read(object: &Object) -> Result<ReplicaSet, Status>;
}

/// `apps/v1` `ReplicaSet`.
pub enum OfSets {}

impl Flavour for OfSets {
    const NAME: &'static str = "replicaset-controller";
    const RES: Res = &kinds::REPLICA_SET;

    fn read(object: &Object) -> Result<ReplicaSet, Status> {
        object.typed().map_err(Status::internal)
    }
}

/// `v1` `ReplicationController`: the same but for a selector of plain pairs.
pub enum OfControllers {}

impl Flavour for OfControllers {
    const NAME: &'static str = "replication-controller";
    const RES: Res = &kinds::REPLICATION_CONTROLLER;

    fn read(object: &Object) -> Result<ReplicaSet, Status> {
        let mut value = object.value().clone();
        let pairs = value["spec"]["selector"].take();
        value["spec"]["selector"] = json!({"matchLabels": pairs});
        ReplicaSet::deserialize(value).map_err(Status::internal)
    }
}

/// See [`super::replicaset`].
pub struct ReplicaSets<F> {
    flavour: PhantomData<F>,
    client: Client,
    events: Recorder,
    /// Why pods could not be made or removed the last time.
    failures: Mutex<HashMap<Key, String>>,
}

impl<F: Flavour> ReplicaSets<F> {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            flavour: PhantomData,
            client: client.named(F::NAME),
            events: events.of(F::NAME),
            failures: Mutex::default(),
        }
    }

    fn failure(&self, key: &Key) -> Option<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(key).cloned()
    }

    fn remember(&self, key: &Key, failure: Option<&Status>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(status) => failures.insert(key.clone(), status.message.clone()),
            None => failures.remove(key),
        };
    }

    async fn execute(&self, set: &ReplicaSet, object: &Object, plan: &Plan) -> Result<(), Status> {
        let hands = Hands {
            client: &self.client,
            events: &self.events,
            owner: object,
        };
        let owner = owner_of(F::RES, set);
        hands.adopt(&plan.adopt, &owner, None).await?;
        hands.release(&plan.release).await?;
        hands.create(vec![new_pod(set, owner); plan.create]).await?;
        hands.delete(&plan.delete).await
    }
}

fn owner_of(res: Res, set: &ReplicaSet) -> OwnerReference {
    owner_reference(&res.api_version(), res.kind, &set.metadata)
}

fn sets_of_pod<F: Flavour>(client: &Client, pod: &Object) -> Vec<Key> {
    match pod.controller() {
        Some(_) => owner(pod, F::RES.kind).into_iter().collect(),
        // It may be adopted.
        None => all_in_namespace(client, F::RES, pod),
    }
}

impl<F: Flavour> Controller for ReplicaSets<F> {
    const NAME: &'static str = F::NAME;

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(F::RES, itself), (&kinds::POD, sets_of_pod::<F>)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(F::RES, &key.0, &key.1) else {
            self.remember(key, None);
            return Ok(None);
        };
        let set = F::read(&object)?;
        let pods = candidates(&self.client, &key.0, object.uid())?;
        let plan = plan(
            &set,
            &pods,
            self.failure(key).as_deref(),
            crate::node::now(),
        );
        let done = self.execute(&set, &object, &plan).await;
        self.remember(key, done.as_ref().err());
        if let Some(status) = &plan.status {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            self.client
                .set_status(F::RES, &key.0, &key.1, status)
                .await?;
        }
        done?;
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        Ok(again.map(Duration::from_secs))
    }
}
