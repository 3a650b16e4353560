//! Carries out the DaemonSet's plan.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;

use super::daemonset::{Plan, new_pod, plan};
use super::drive::{Controller, Key, Mapper, all_in_namespace, itself, owner};
use super::objects::owner_reference;
use super::pods::{Hands, candidates};
use super::revisions;
use crate::api::{Client, Res, Status, kinds};
use crate::events::Recorder;
use crate::store::{Object, Selector};

/// See [`super::daemonset`].
pub struct DaemonSets {
    client: Client,
    events: Recorder,
}

impl DaemonSets {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            client: client.named("daemonset-controller"),
            events: events.of("daemonset-controller"),
        }
    }

    async fn execute(&self, set: &DaemonSet, object: &Object, plan: Plan) -> Result<(), Status> {
        let (ns, name) = (object.namespace(), object.name());
        revisions::execute(&self.client, ns, &plan.revisions, &plan.surplus).await?;
        let hands = Hands {
            client: &self.client,
            events: &self.events,
            owner: object,
        };
        let owner = owner_reference("apps/v1", "DaemonSet", &set.metadata);
        hands.adopt(&plan.adopt, &owner, None).await?;
        hands.release(&plan.release).await?;
        let pods = plan
            .create
            .iter()
            .map(|node| new_pod(set, node, &plan.revisions.update));
        hands.create(pods.collect()).await?;
        hands.delete(&plan.delete).await?;
        if let Some(status) = plan.status {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            self.client
                .set_status(&kinds::DAEMON_SET, ns, name, status)
                .await?;
        }
        Ok(())
    }
}

fn of_pod(client: &Client, pod: &Object) -> Vec<Key> {
    match pod.controller() {
        Some(_) => owner(pod, "DaemonSet").into_iter().collect(),
        // It may be adopted.
        None => all_in_namespace(client, &kinds::DAEMON_SET, pod),
    }
}

/// A node's labels and taints say where pods go.
fn of_node(client: &Client, _: &Object) -> Vec<Key> {
    let list = client.list(&kinds::DAEMON_SET, "", &Selector::all()).items;
    list.iter()
        .map(|o| (o.namespace().to_owned(), o.name().to_owned()))
        .collect()
}

fn of_revision(_: &Client, object: &Object) -> Vec<Key> {
    owner(object, "DaemonSet").into_iter().collect()
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (&kinds::DAEMON_SET, itself),
            (&kinds::POD, of_pod),
            (&kinds::NODE, of_node),
            (&kinds::CONTROLLER_REVISION, of_revision),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::DAEMON_SET, &key.0, &key.1) else {
            return Ok(None);
        };
        let set: DaemonSet = object.typed().map_err(Status::internal)?;
        let pods = candidates(&self.client, &key.0, object.uid())?;
        let nodes: Vec<Node> = self.client.list_as("", &Selector::all())?;
        let all = revisions::list(&self.client, &key.0)?;
        let plan = plan(&set, &nodes, &pods, &all, crate::node::now());
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        self.execute(&set, &object, plan).await?;
        Ok(again.map(Duration::from_secs))
    }
}
