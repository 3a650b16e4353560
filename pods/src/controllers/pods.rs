//! What executors do with pods, for every kind that makes them.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::api::{Client, DeleteOptions, Patch, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// Writes that are under way at once, so that they share a commit.
const AT_ONCE: usize = 16;

/// The hands of a controller: writes pods for an owner, and says so in events.
pub struct Hands<'a> {
    /// Under the controller's name.
    pub client: &'a Client,
    /// Of the controller.
    pub events: &'a Recorder,
    /// The owner.
    pub owner: &'a Object,
}

/// The pods of the namespace that an owner may have to do with: its own, and those of nobody.
pub fn candidates(client: &Client, namespace: &str, uid: &str) -> Result<Vec<Pod>, Status> {
    let list = client.list(&kinds::POD, namespace, &Selector::all());
    let concerned = |object: &Object| match object.controller() {
        Some(owner) => owner["uid"] == uid,
        None => true,
    };
    let pods = list.items.iter().filter(|o| concerned(o));
    pods.map(|o| o.typed().map_err(Status::internal)).collect()
}

/// What is gone needs no more work.
pub fn ignore_gone<T>(done: Result<T, Status>) -> Result<(), Status> {
    match done {
        Err(s) if !s.is_not_found() => Err(s),
        _ => Ok(()),
    }
}

impl Hands<'_> {
    /// Makes pods. The last failure, if there is one, is an event and the answer.
    pub async fn create(&self, pods: Vec<Pod>) -> Result<(), Status> {
        let about = reference(self.owner.value());
        let namespace = self.owner.namespace();
        let calls = pods.iter().map(|pod| self.client.create_as(namespace, pod));
        let calls: Vec<_> = calls.collect();
        let made = futures_util::stream::iter(calls).buffer_unordered(AT_ONCE);
        let results: Vec<_> = made.collect().await;
        let mut failed = None;
        for result in results {
            match result {
                Ok(pod) => {
                    let message = format!("Created pod: {}", pod.name());
                    self.events.normal(&about, "SuccessfulCreate", message);
                }
                // Made by the last look, which did not live to see it.
                Err(status) if status.is_already_exists() => {}
                Err(status) => failed = Some(status),
            }
        }
        let Some(status) = failed else { return Ok(()) };
        let message = format!("Error creating: {}", status.message);
        self.events.warning(&about, "FailedCreate", message);
        Err(status)
    }

    /// Removes pods by name.
    pub async fn delete(&self, names: &[String]) -> Result<(), Status> {
        let about = reference(self.owner.value());
        let (options, namespace) = (DeleteOptions::default(), self.owner.namespace());
        let mut calls = Vec::with_capacity(names.len());
        for name in names {
            let deleted = self.client.delete(&kinds::POD, namespace, name, &options);
            calls.push(async move { (name, deleted.await) });
        }
        let gone = futures_util::stream::iter(calls).buffer_unordered(AT_ONCE);
        let results: Vec<_> = gone.collect().await;
        for (name, result) in results {
            match result {
                Ok(_) => {
                    let message = format!("Deleted pod: {name}");
                    self.events.normal(&about, "SuccessfulDelete", message);
                }
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    /// Makes strangers the owner's own; with a finalizer, where the kind holds its pods by one.
    pub async fn adopt(
        &self,
        names: &[String],
        owner: &OwnerReference,
        finalizer: Option<&str>,
    ) -> Result<(), Status> {
        for name in names {
            let mut meta = json!({"ownerReferences": [owner]});
            if let Some(finalizer) = finalizer {
                meta["finalizers"] = json!([finalizer]);
            }
            self.patch(name, Patch::Strategic(json!({"metadata": meta})))
                .await?;
        }
        Ok(())
    }

    /// Lets pods go that the owner no longer selects.
    pub async fn release(&self, names: &[String]) -> Result<(), Status> {
        for name in names {
            self.without(name, "ownerReferences", |o| o["uid"] == self.owner.uid())
                .await?;
        }
        Ok(())
    }

    /// Takes a finalizer from pods.
    pub async fn unhold(&self, names: &[String], finalizer: &str) -> Result<(), Status> {
        for name in names {
            self.without(name, "finalizers", |f| f == finalizer).await?;
        }
        Ok(())
    }

    async fn without(
        &self,
        name: &str,
        list: &str,
        drop: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<(), Status> {
        let Some(pod) = self.client.find(&kinds::POD, self.owner.namespace(), name) else {
            return Ok(());
        };
        let all = pod
            .at(&format!("/metadata/{list}"))
            .as_array()
            .cloned()
            .unwrap_or_default();
        let left: Vec<_> = all.iter().filter(|x| !drop(x)).collect();
        if left.len() == all.len() {
            return Ok(());
        }
        let left = if left.is_empty() {
            json!(null)
        } else {
            json!(left)
        };
        // At this version only: another may have changed the list.
        let version = pod.resource_version().to_string();
        let patch = json!({"metadata": {list: left, "resourceVersion": version}});
        self.patch(name, Patch::Merge(patch)).await
    }

    async fn patch(&self, name: &str, patch: Patch) -> Result<(), Status> {
        let namespace = self.owner.namespace();
        ignore_gone(self.client.patch(&kinds::POD, namespace, name, patch).await)
    }
}
