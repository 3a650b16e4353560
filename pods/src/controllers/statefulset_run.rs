//! Carries out the StatefulSet's plan.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use serde_json::json;

use super::drive::{Controller, Key, Mapper, itself, owner};
use super::pods::{Hands, candidates, ignore_gone};
use super::revisions;
use super::statefulset::{Plan, plan, pod};
use crate::api::{Client, Patch, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::Object;

/// See [`super::statefulset`].
pub struct StatefulSets {
    client: Client,
    events: Recorder,
}

impl StatefulSets {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            client: client.named("statefulset-controller"),
            events: events.of("statefulset-controller"),
        }
    }

    /// Makes the claims of an ordinal that are not there.
    async fn claims(&self, set: &StatefulSet, object: &Object, ordinal: i32) -> Result<(), Status> {
        for (_, claim) in pod::claims(set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            let res = &kinds::PERSISTENT_VOLUME_CLAIM;
            if self.client.find(res, object.namespace(), &name).is_some() {
                continue;
            }
            let about = reference(object.value());
            match self.client.create_as(object.namespace(), &claim).await {
                Ok(_) => {
                    let message = format!(
                        "create Claim {name} Pod {}-{ordinal} in StatefulSet {} success",
                        object.name(),
                        object.name()
                    );
                    self.events.normal(&about, "SuccessfulCreate", message);
                }
                Err(status) if status.is_already_exists() => {}
                Err(status) => {
                    let message = format!(
                        "create Claim {name} for Pod {}-{ordinal} in StatefulSet {} failed error: {}",
                        object.name(),
                        object.name(),
                        status.message
                    );
                    self.events.warning(&about, "FailedCreate", message);
                    return Err(status);
                }
            }
        }
        Ok(())
    }

    /// Lets the claims of a pod that is removed for good go after it.
    async fn bequeath(
        &self,
        set: &StatefulSet,
        object: &Object,
        ordinal: i32,
    ) -> Result<(), Status> {
        let ns = object.namespace();
        let name = format!("{}-{ordinal}", object.name());
        let Some(pod) = self.client.find(&kinds::POD, ns, &name) else {
            return Ok(());
        };
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.uid()}]);
        for (_, claim) in pod::claims(set, ordinal) {
            let claim = claim.metadata.name.unwrap_or_default();
            let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owner}}));
            let res = &kinds::PERSISTENT_VOLUME_CLAIM;
            ignore_gone(self.client.patch(res, ns, &claim, patch).await)?;
        }
        Ok(())
    }

    async fn execute(
        &self,
        set: &StatefulSet,
        object: &Object,
        plan: Plan,
        mut all: Vec<ControllerRevision>,
    ) -> Result<(), Status> {
        let (ns, name) = (object.namespace(), object.name());
        revisions::execute(&self.client, ns, &plan.revisions, &plan.surplus).await?;
        all.extend(plan.revisions.create.map(|r| *r));
        let hands = Hands {
            client: &self.client,
            events: &self.events,
            owner: object,
        };
        for (ordinal, revision) in &plan.create {
            self.claims(set, object, *ordinal).await?;
            let pod = pod::new_pod(set, *ordinal, revision, &all);
            hands.create(vec![pod]).await?;
        }
        if pod::deletes(set, false) {
            for ordinal in &plan.scaled {
                self.bequeath(set, object, *ordinal).await?;
            }
        }
        hands.delete(&plan.delete).await?;
        if let Some(status) = plan.status {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            self.client
                .set_status(&kinds::STATEFUL_SET, ns, name, status)
                .await?;
        }
        Ok(())
    }
}

fn of_owned(_: &Client, object: &Object) -> Vec<Key> {
    owner(object, "StatefulSet").into_iter().collect()
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (&kinds::STATEFUL_SET, itself),
            (&kinds::POD, of_owned),
            (&kinds::CONTROLLER_REVISION, of_owned),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::STATEFUL_SET, &key.0, &key.1) else {
            return Ok(None);
        };
        let set: StatefulSet = object.typed().map_err(Status::internal)?;
        let pods = candidates(&self.client, &key.0, object.uid())?;
        let all = revisions::list(&self.client, &key.0)?;
        let plan = plan(&set, &pods, &all, crate::node::now());
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        self.execute(&set, &object, plan, all).await?;
        Ok(again.map(Duration::from_secs))
    }
}
