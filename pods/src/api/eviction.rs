//! `eviction`: a deletion that the pod's disruption budget allows.

use serde_json::{Value, json};

use super::client::{DeleteOptions, WriteOptions};
use super::kinds;
use super::meta;
use super::pipeline::Api;
use super::status::{Cause, Details, Result, Status};
use crate::store::{Object, Selector};

/// Seconds after which a refused eviction is worth another try.
const RETRY: u32 = 10;

/// What a budget says of an eviction.
#[derive(Debug, PartialEq)]
enum Word {
    /// Go on; nothing is counted.
    Free,
    /// Go on, and count.
    Counted,
    /// Not now: the budget needs so many healthy pods, and has so many.
    Refused(i64, i64),
    /// The budget was not looked at since it changed.
    Unknown,
}

fn ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn ask(budget: &Value, pod: &Value) -> Word {
    let (spec, status) = (&budget["spec"], &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (has, needs) = (number("currentHealthy"), number("desiredHealthy"));
    if !ready(pod)
        && (spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (needs > 0 && has >= needs))
    {
        return Word::Free;
    }
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Word::Unknown;
    }
    if number("disruptionsAllowed") > 0 {
        Word::Counted
    } else {
        Word::Refused(needs, has)
    }
}

fn too_many(message: &str, cause: String) -> Status {
    let mut status = Status::new(429, "TooManyRequests", message);
    status.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "DisruptionBudget",
            message: cause,
            field: String::new(),
        }],
        retry_after_seconds: RETRY,
        ..Details::default()
    }));
    status
}

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Api {
    /// Deletes a pod by its `eviction`.
    pub async fn evict(&self, ns: &str, name: &str, eviction: &Value, dry_run: bool) -> Result<()> {
        let body = &eviction["deleteOptions"];
        // `kubectl drain --dry-run=server` says so here, and not in the query.
        let dry_run = dry_run || body["dryRun"].as_array().is_some_and(|a| !a.is_empty());
        let options = DeleteOptions {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            uid: body["preconditions"]["uid"].as_str().map(str::to_owned),
            resource_version: body["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_owned),
            dry_run,
            ..DeleteOptions::default()
        };
        let pod = self.get(&kinds::POD, ns, name)?;
        let over = matches!(
            pod.str_at("/status/phase"),
            "Succeeded" | "Failed" | "Pending"
        );
        if !over && !pod.is_deleting() {
            self.ask_budget(&pod, dry_run).await?;
        }
        self.delete(&kinds::POD, ns, name, &options).await.map(drop)
    }

    async fn ask_budget(&self, pod: &Object, dry_run: bool) -> Result<()> {
        let res = &kinds::POD_DISRUPTION_BUDGET;
        let list = self.list(res, pod.namespace(), &Selector::all()).items;
        let concerned = list.iter().filter(|b| {
            let selector = Selector::from_label_selector(b.at("/spec/selector"));
            let selector = selector.ok().flatten();
            selector.is_some_and(|s| s.matches_labels(Some(pod.at("/metadata/labels"))))
        });
        let concerned: Vec<_> = concerned.collect();
        let budget = match concerned.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "InternalError", why));
            }
        };
        let options = WriteOptions {
            dry_run,
            field_manager: Some("eviction".into()),
            ..WriteOptions::default()
        };
        // Asked again of the newest version: two evictions never both take the last place.
        self.change(res, pod.namespace(), budget.name(), "status", &options, |budget| {
            let mut new = budget.value().clone();
            match ask(&new, pod.value()) {
                Word::Free => {}
                Word::Counted => {
                    let left = budget.int_at("/status/disruptionsAllowed").unwrap_or(0) - 1;
                    new["status"]["disruptionsAllowed"] = json!(left);
                    new["status"]["disruptedPods"][pod.name()] = json!(meta::now());
                }
                Word::Refused(needs, has) => {
                    let cause = format!(
                        "The disruption budget {} needs {needs} healthy pods and has {has} currently",
                        budget.name()
                    );
                    return Err(too_many(REFUSED, cause));
                }
                Word::Unknown => {
                    let cause = format!("The disruption budget {} is still being processed by the server.", budget.name());
                    return Err(too_many(REFUSED, cause));
                }
            }
            Ok(new)
        })
        .await
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_healthy_pods_only() {
        let pod =
            |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let budget = |allowed: i64| {
            json!({"metadata": {"generation": 2}, "spec": {}, "status": {"observedGeneration": 2,
                "disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 3}})
        };
        assert_eq!(ask(&budget(1), &pod("True")), Word::Counted);
        assert_eq!(ask(&budget(0), &pod("True")), Word::Refused(3, 3));
        assert_eq!(ask(&budget(0), &pod("False")), Word::Free);
        let mut stale = budget(1);
        stale["metadata"]["generation"] = json!(3);
        assert_eq!(ask(&stale, &pod("True")), Word::Unknown);
    }
}
