//! Carries out the Job's plan.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use super::drive::{Controller, Key, Mapper, all_in_namespace, itself, owner};
use super::job::{Plan, TRACKING, new_pod, plan};
use super::objects::owner_reference;
use super::pods::{Hands, candidates, ignore_gone};
use crate::api::{Client, DeleteOptions, Patch, Propagation, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// See [`super::job`].
pub struct Jobs {
    client: Client,
    events: Recorder,
}

impl Jobs {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            client: client.named("job-controller"),
            events: events.of("job-controller"),
        }
    }

    /// A job that is gone holds no pods.
    async fn abandon(&self, key: &Key) -> Result<(), Status> {
        let list = self
            .client
            .list(&kinds::POD, &key.0, &Selector::all())
            .items;
        for pod in list
            .iter()
            .filter(|p| owner(p, "Job").as_ref() == Some(key))
        {
            let all = pod
                .at("/metadata/finalizers")
                .as_array()
                .into_iter()
                .flatten();
            let (held, left): (Vec<_>, Vec<_>) = all.partition(|f| *f == TRACKING);
            if held.is_empty() {
                continue;
            }
            let left = if left.is_empty() {
                json!(null)
            } else {
                json!(left)
            };
            let version = pod.resource_version().to_string();
            let patch = json!({"metadata": {"finalizers": left, "resourceVersion": version}});
            let done = self
                .client
                .patch(&kinds::POD, &key.0, pod.name(), Patch::Merge(patch));
            ignore_gone(done.await)?;
        }
        Ok(())
    }

    async fn execute(&self, job: &Job, object: &Object, plan: &Plan) -> Result<(), Status> {
        if let Some(status) = &plan.status {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            let (ns, name) = (object.namespace(), object.name());
            self.client
                .set_status(&kinds::JOB, ns, name, status)
                .await?;
        }
        let about = reference(object.value());
        for (good, reason, message) in &plan.events {
            if *good {
                self.events.normal(&about, reason, message.clone());
            } else {
                self.events.warning(&about, reason, message.clone());
            }
        }
        let hands = Hands {
            client: &self.client,
            events: &self.events,
            owner: object,
        };
        let reference = owner_reference("batch/v1", "Job", &job.metadata);
        hands.adopt(&plan.adopt, &reference, Some(TRACKING)).await?;
        hands.unhold(&plan.let_go, TRACKING).await?;
        hands.unhold(&plan.delete, TRACKING).await?;
        hands.delete(&plan.delete).await?;
        let pods = plan.create.iter().map(|wanted| new_pod(job, wanted));
        hands.create(pods.collect()).await?;
        if plan.remove {
            let options = DeleteOptions {
                propagation: Some(Propagation::Foreground),
                uid: Some(object.uid().to_owned()),
                ..DeleteOptions::default()
            };
            let (ns, name) = (object.namespace(), object.name());
            ignore_gone(self.client.delete(&kinds::JOB, ns, name, &options).await)?;
        }
        Ok(())
    }
}

fn jobs_of_pod(client: &Client, pod: &Object) -> Vec<Key> {
    match pod.controller() {
        Some(_) => owner(pod, "Job").into_iter().collect(),
        // It may be adopted.
        None => all_in_namespace(client, &kinds::JOB, pod),
    }
}

impl Controller for Jobs {
    const NAME: &'static str = "job";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&kinds::JOB, itself), (&kinds::POD, jobs_of_pod)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::JOB, &key.0, &key.1) else {
            self.abandon(key).await?;
            return Ok(None);
        };
        let job: Job = object.typed().map_err(Status::internal)?;
        // managedBy names another controller: this one keeps its hands off.
        let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if manager.is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        let pods = candidates(&self.client, &key.0, object.uid())?;
        let plan = plan(&job, &pods, crate::node::now());
        self.execute(&job, &object, &plan).await?;
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        Ok(again.map(Duration::from_secs))
    }
}
