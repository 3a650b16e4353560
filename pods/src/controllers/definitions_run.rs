//! Carries out the plan of [`super::definitions`], and removes the objects of what is being deleted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::definitions;
use super::drive::{Controller, Key, Mapper};
use crate::api::custom;
use crate::api::kinds::{CLEANUP, CUSTOM_RESOURCE_DEFINITION as DEFINITION};
use crate::api::{Client, DeleteOptions, Patch, Res, Status, now};
use crate::store::{Object, Selector};

/// See the module.
pub struct Definitions {
    client: Client,
}

impl Definitions {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("crd-controller"),
        }
    }

    async fn tell(&self, own: &Object) -> Result<(), Status> {
        let all = self.client.definitions();
        let group = own.at("/spec/group");
        let others = all.iter().map(Arc::as_ref).filter(|o| {
            o["metadata"]["uid"] != own.uid()
                && o["spec"]["group"] == *group
                && custom::is(o, "NamesAccepted")
        });
        let others: Vec<&Value> = others.collect();
        let status = definitions::status(own.value(), &others, &now());
        if *own.at("/status") == status {
            return Ok(());
        }
        let done = self.client.set_status(&DEFINITION, "", own.name(), status);
        ignore_gone(done.await.map(drop))
    }

    /// Deletes every object of the kind; how many are left.
    async fn empty(&self, res: Res) -> Result<usize, Status> {
        let options = DeleteOptions::default();
        for o in self.client.list(res, "", &Selector::all()).items {
            if !o.is_deleting() {
                let done = self.client.delete(res, o.namespace(), o.name(), &options);
                ignore_gone(done.await.map(drop))?;
            }
        }
        Ok(self.client.list(res, "", &Selector::all()).items.len())
    }

    async fn let_go(&self, own: &Object) -> Result<(), Status> {
        let all = own
            .at("/metadata/finalizers")
            .as_array()
            .into_iter()
            .flatten();
        let kept: Vec<&Value> = all.filter(|f| **f != CLEANUP).collect();
        let kept = if kept.is_empty() {
            Value::Null
        } else {
            json!(kept)
        };
        let version = own.resource_version().to_string();
        let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": version}});
        let done = self
            .client
            .patch(&DEFINITION, "", own.name(), Patch::Merge(patch));
        ignore_gone(done.await.map(drop))
    }
}

fn ignore_gone(done: Result<(), Status>) -> Result<(), Status> {
    match done {
        Err(s) if !s.is_not_found() => Err(s),
        _ => Ok(()),
    }
}

/// A definition that goes or changes may leave its names to another one, which has none yet.
fn of_group(client: &Client, object: &Object) -> Vec<Key> {
    let name = |n: &str| (String::new(), n.to_owned());
    let all = client.definitions();
    // Its name ends with its group: `crontabs.stable.example.com`.
    let group = object.name().split_once('.').map_or("", |(_, group)| group);
    let waiting = all.iter().filter(|o| {
        o["spec"]["group"] == group
            && o["metadata"]["name"] != object.name()
            && !custom::is(o, "NamesAccepted")
    });
    let waiting = waiting.filter_map(|o| o["metadata"]["name"].as_str());
    std::iter::once(name(object.name()))
        .chain(waiting.map(name))
        .collect()
}

impl Controller for Definitions {
    const NAME: &'static str = "custom-resource-definitions";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&DEFINITION, of_group)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(own) = self.client.find(&DEFINITION, "", &key.1) else {
            return Ok(None);
        };
        self.tell(&own).await?;
        if !own.is_deleting() {
            return Ok(None);
        }
        let customs = self.client.custom_kinds();
        if let Some(res) = customs.iter().find(|r| r.qualified() == own.name())
            && self.empty(res).await? > 0
        {
            // Finalizers of others hold what is left.
            return Ok(Some(Duration::from_secs(1)));
        }
        self.let_go(&own).await?;
        Ok(None)
    }
}
