//! Carries out the CronJob's plan.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job};

use super::cronjob::{Plan, plan};
use super::drive::{Controller, Key, Mapper, itself, owner};
use super::pods::ignore_gone;
use crate::api::{Client, DeleteOptions, Propagation, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// See [`super::cronjob`].
pub struct CronJobs {
    client: Client,
    events: Recorder,
}

impl CronJobs {
    /// A controller that writes through `client`.
    pub fn new(client: &Client, events: &Recorder) -> Self {
        Self {
            client: client.named("cronjob-controller"),
            events: events.of("cronjob-controller"),
        }
    }

    async fn execute(&self, object: &Object, plan: Plan) -> Result<(), Status> {
        let (ns, name) = (object.namespace(), object.name());
        let about = reference(object.value());
        for (good, reason, message) in plan.events {
            if good {
                self.events.normal(&about, reason, message);
            } else {
                self.events.warning(&about, reason, message);
            }
        }
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        for job in &plan.delete {
            ignore_gone(self.client.delete(&kinds::JOB, ns, job, &options).await)?;
            let message = format!("Deleted job {job}");
            self.events.normal(&about, "SuccessfulDelete", message);
        }
        if let Some((_, job)) = &plan.start {
            match self.client.create_as(ns, &**job).await {
                Ok(made) => {
                    let message = format!("Created job {}", made.name());
                    self.events.normal(&about, "SuccessfulCreate", message);
                }
                Err(status) if status.is_already_exists() => {}
                Err(status) => {
                    let message = format!("Error creating job: {}", status.message);
                    self.events.warning(&about, "FailedCreate", message);
                    return Err(status);
                }
            }
        }
        if let Some(status) = plan.status {
            let status = serde_json::to_value(status).map_err(Status::internal)?;
            self.client
                .set_status(&kinds::CRON_JOB, ns, name, status)
                .await?;
        }
        Ok(())
    }
}

fn of_job(_: &Client, job: &Object) -> Vec<Key> {
    owner(job, "CronJob").into_iter().collect()
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&kinds::CRON_JOB, itself), (&kinds::JOB, of_job)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::CRON_JOB, &key.0, &key.1) else {
            return Ok(None);
        };
        let cron: CronJob = object.typed().map_err(Status::internal)?;
        let list = self
            .client
            .list(&kinds::JOB, &key.0, &Selector::all())
            .items;
        let mine = list
            .iter()
            .filter(|j| owner(j, "CronJob").as_ref() == Some(key));
        let jobs: Result<Vec<Job>, _> = mine.map(|j| j.typed().map_err(Status::internal)).collect();
        let plan = plan(&cron, &jobs?, crate::node::now());
        let again = plan.again_after.and_then(|s| u64::try_from(s).ok());
        self.execute(&object, plan).await?;
        Ok(again.map(Duration::from_secs))
    }
}
