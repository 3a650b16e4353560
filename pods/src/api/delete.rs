//! Deleting: what becomes of an object is decided as data, and then written.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::client::{DeleteOptions, Propagation};
use super::kinds;
use super::pipeline::{Api, RETRIES};
use super::resource::Res;
use super::status::{Result, Status};
use crate::store::{Expect, Object};

/// Finalizer of an owner that waits for its dependents to be gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner that waits for its dependents to be let go.
pub const ORPHAN: &str = "orphan";
/// Namespaces that stay.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// What a deletion does at once.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It is being deleted already, and no sooner by this.
    Unchanged,
    /// It stays until the node agent, or whoever holds a finalizer, is done.
    Marked(Value),
    /// It goes.
    Gone,
}

/// Decides.
pub(super) fn fate(res: Res, old: &Value, options: &DeleteOptions, now: Timestamp) -> Fate {
    let mut new = old.clone();
    set_finalizers(&mut new, options.propagation);
    let meta = &old["metadata"];
    let already = meta["deletionTimestamp"].is_string();
    let given = meta["deletionGracePeriodSeconds"].as_i64();
    // Who deletes again without a word of grace changes none.
    let grace = match (given, options.grace_period_seconds) {
        (Some(given), None) => given,
        _ => grace(res, old, options),
    };
    let shorter = given.is_none_or(|g| grace < g);
    let waits = grace > 0 && (!already || shorter);
    if !waits && finalized(res, &new) && (!already || grace == 0) {
        return Fate::Gone;
    }
    if !already || shorter {
        let at = end(meta, grace, now);
        new["metadata"]["deletionTimestamp"] = json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        if let Some(generation) = meta["generation"].as_i64() {
            new["metadata"]["generation"] = json!(generation + 1);
        }
    }
    if *res == kinds::NAMESPACE {
        new["status"]["phase"] = json!("Terminating");
    }
    if new == *old {
        Fate::Unchanged
    } else {
        Fate::Marked(new)
    }
}

/// When the object may go: counted from the first deletion, but not in the past.
fn end(meta: &Value, grace: i64, now: Timestamp) -> Timestamp {
    let given = meta["deletionGracePeriodSeconds"].as_i64();
    let before = meta["deletionTimestamp"].as_str();
    let before = before.and_then(|at| at.parse::<Timestamp>().ok());
    let first = match (before, given) {
        (Some(at), Some(given)) => at.checked_sub(SignedDuration::from_secs(given)),
        _ => Ok(now),
    };
    let end = first.and_then(|at| at.checked_add(SignedDuration::from_secs(grace)));
    end.map_or(Timestamp::MAX, |at| at.max(now))
}

/// Seconds until the object may go; only pods that run have any.
fn grace(res: Res, old: &Value, options: &DeleteOptions) -> i64 {
    if *res != kinds::POD {
        return 0;
    }
    let bound = old["spec"]["nodeName"]
        .as_str()
        .is_some_and(|n| !n.is_empty());
    let over = matches!(
        old["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if !bound || over {
        return 0;
    }
    let own = old["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    let asked = options.grace_period_seconds.unwrap_or(own);
    // As Kubernetes: less than nothing is a second.
    if asked < 0 { 1 } else { asked }
}

fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let wanted = match propagation {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let had = object["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut all: Vec<Value> = had
        .into_iter()
        .filter(|f| f != ORPHAN && f != FOREGROUND)
        .collect();
    all.extend(wanted.map(|f| json!(f)));
    if let Some(meta) = object["metadata"].as_object_mut() {
        if all.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), Value::Array(all));
        }
    }
}

/// Whether nobody holds the object any more.
pub(super) fn finalized(res: Res, object: &Value) -> bool {
    let none = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
    let spec = *res != kinds::NAMESPACE || none(&object["spec"]["finalizers"]);
    spec && none(&object["metadata"]["finalizers"])
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn done(res: Res, object: &Value) -> bool {
    let meta = &object["metadata"];
    // A pod waits for the node agent, which confirms by deleting with no grace.
    let stopped = *res != kinds::POD || meta["deletionGracePeriodSeconds"] == 0;
    meta["deletionTimestamp"].is_string() && stopped && finalized(res, object)
}

impl Api {
    /// Deletes an object, or marks it; returns its last state.
    pub async fn delete(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Object>> {
        if *res == kinds::NAMESPACE && IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                res,
                name,
                "this namespace may not be deleted",
            ));
        }
        for _ in 0..RETRIES {
            let old = self.get(res, ns, name)?;
            preconditions(res, name, &old, options)?;
            let fate = fate(res, old.value(), options, Timestamp::now());
            if options.dry_run || fate == Fate::Unchanged {
                return Ok(old);
            }
            let new = match fate {
                Fate::Marked(v) => Some(v),
                _ => None,
            };
            let expect = Expect::Version(old.resource_version());
            match self.put(res, ns, name, expect, new).await {
                Err(s) if s.is_conflict() => {}
                other => return other,
            }
        }
        Err(Status::stale(res, name))
    }
}

fn preconditions(res: Res, name: &str, old: &Object, options: &DeleteOptions) -> Result<()> {
    let check = |asked: &Option<String>, what: &str, at: &str, own: String| match asked {
        Some(v) if *v != own => {
            let why =
                format!("Precondition failed: {what} in precondition: {v}, {what} in {at}: {own}");
            Err(Status::conflict(res, name, &why))
        }
        _ => Ok(()),
    };
    check(&options.uid, "UID", "object meta", old.uid().to_owned())?;
    let version = old.resource_version().to_string();
    check(
        &options.resource_version,
        "ResourceVersion",
        "object meta",
        version,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(res: Res, old: &Value, options: &DeleteOptions) -> Fate {
        fate(res, old, options, Timestamp::UNIX_EPOCH)
    }

    fn pod(node: &str, phase: &str) -> Value {
        json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": node,
            "terminationGracePeriodSeconds": 7}, "status": {"phase": phase}})
    }

    #[test]
    fn a_running_pod_waits_for_its_node() {
        let options = DeleteOptions::default();
        let Fate::Marked(marked) = of(&kinds::POD, &pod("n", "Running"), &options) else {
            panic!()
        };
        let meta = &marked["metadata"];
        assert_eq!(meta["deletionGracePeriodSeconds"], 7);
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:07Z");
        assert_eq!(meta["generation"], 2);
        assert_eq!(of(&kinds::POD, &marked, &options), Fate::Unchanged);
        let sooner = DeleteOptions {
            grace_period_seconds: Some(2),
            ..DeleteOptions::default()
        };
        assert!(matches!(of(&kinds::POD, &marked, &sooner), Fate::Marked(_)));
        let later = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1);
        let Fate::Marked(sooner) = fate(&kinds::POD, &marked, &sooner, later) else {
            panic!()
        };
        let meta = &sooner["metadata"];
        assert_eq!(meta["deletionGracePeriodSeconds"], 2);
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:02Z");
        assert_eq!(of(&kinds::POD, &sooner, &options), Fate::Unchanged);
        let now = DeleteOptions {
            grace_period_seconds: Some(0),
            ..DeleteOptions::default()
        };
        assert_eq!(of(&kinds::POD, &marked, &now), Fate::Gone);
        assert!(!done(&kinds::POD, &marked));
    }

    #[test]
    fn pods_that_do_not_run_go_at_once() {
        for p in [pod("", "Pending"), pod("n", "Succeeded")] {
            assert_eq!(of(&kinds::POD, &p, &DeleteOptions::default()), Fate::Gone);
        }
    }

    #[test]
    fn finalizers_hold() {
        let held = json!({"metadata": {"finalizers": ["a/b"]}});
        let Fate::Marked(m) = of(&kinds::SECRET, &held, &DeleteOptions::default()) else {
            panic!()
        };
        assert_eq!(
            of(&kinds::SECRET, &m, &DeleteOptions::default()),
            Fate::Unchanged
        );
        assert!(!done(&kinds::SECRET, &m));
        let plain = json!({"metadata": {}});
        let orphan = DeleteOptions {
            propagation: Some(Propagation::Orphan),
            ..DeleteOptions::default()
        };
        let Fate::Marked(m) = of(&kinds::DEPLOYMENT, &plain, &orphan) else {
            panic!()
        };
        assert_eq!(m["metadata"]["finalizers"], json!(["orphan"]));
        let back = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        assert_eq!(of(&kinds::DEPLOYMENT, &m, &back), Fate::Gone);
        let ns = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let Fate::Marked(m) = of(&kinds::NAMESPACE, &ns, &DeleteOptions::default()) else {
            panic!()
        };
        assert_eq!(m["status"]["phase"], "Terminating");
    }
}
