//! scale and binding: parts of objects that look like objects of their own.

use serde_json::{Value, json};

use super::client::{Patch, WriteOptions};
use super::custom;
use super::kinds;
use super::meta;
use super::patch;
use super::pipeline::Api;
use super::resource::{Res, Resource};
use super::schema::Schema;
use super::status::{Cause, Result, Status};
use super::table::{self, Column};
use crate::store::{Object, Selector};

/// How a Scale is shown; it has no path of its own.
pub(super) static SCALE: Resource = Resource {
    group: "autoscaling",
    kind: "Scale",
    columns: &[
        Column::text("Name"),
        Column::int("Desired"),
        Column::int("Available"),
        Column::text("Age"),
    ],
    row: |o| {
        let number = |path| json!(o.int_at(path).unwrap_or(0));
        vec![
            json!(o.name()),
            number("/spec/replicas"),
            number("/status/replicas"),
            json!(table::age(o.at("/metadata/creationTimestamp"))),
        ]
    },
    ..Resource::BASE
};

/// The `autoscaling/v1` Scale of a workload.
pub(super) fn scale(res: Res, o: &Object) -> Value {
    if let Some(paths) = res.custom.and_then(|c| c.scale()) {
        return custom_scale(paths, o);
    }
    let pairs = *res == kinds::REPLICATION_CONTROLLER;
    let selector = match o.at("/spec/selector") {
        map if pairs => Selector::from_map(map),
        other => Selector::from_label_selector(other).ok().flatten(),
    };
    let mut meta = json!({"name": o.name(), "namespace": o.namespace(), "uid": o.uid(),
        "resourceVersion": o.resource_version().to_string()});
    meta["creationTimestamp"] = o.at("/metadata/creationTimestamp").clone();
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": o.int_at("/spec/replicas").unwrap_or(0)},
        "status": {"replicas": o.int_at("/status/replicas").unwrap_or(0),
                   "selector": selector.map_or_else(String::new, |s| s.label_string())}})
}

fn custom_scale(paths: &custom::Scale, o: &Object) -> Value {
    let mut meta = json!({"name": o.name(), "uid": o.uid(),
        "resourceVersion": o.resource_version().to_string()});
    if !o.namespace().is_empty() {
        meta["namespace"] = json!(o.namespace());
    }
    meta["creationTimestamp"] = o.at("/metadata/creationTimestamp").clone();
    let mut status = json!({"replicas": o.int_at(&paths.status).unwrap_or(0)});
    if let Some(selector) = paths.selector.as_ref().map(|p| o.str_at(p)) {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": o.int_at(&paths.spec).unwrap_or(0)}, "status": status})
}

/// Sets the number that a kind's Scale is about.
fn set_replicas(res: Res, object: &mut Value, replicas: i64) {
    let Some(paths) = res.custom.and_then(|c| c.scale()) else {
        object["spec"]["replicas"] = json!(replicas);
        return;
    };
    let mut at = object;
    for step in paths.spec.split('/').filter(|s| !s.is_empty()) {
        if !at[step].is_object() && !at[step].is_number() {
            at[step] = json!({});
        }
        at = &mut at[step];
    }
    *at = json!(replicas);
}

impl Api {
    /// Replaces or patches a Scale; returns the new one.
    pub async fn set_scale(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        change: &ScaleChange,
        options: &WriteOptions,
    ) -> Result<Value> {
        let done = self
            .change(res, ns, name, "scale", options, |old| {
                let view = scale(res, old);
                let new = match change {
                    ScaleChange::Replace(v) => v.clone(),
                    ScaleChange::Patch(p) => {
                        patch::of_type(Schema::get().named("autoscaling/v1.Scale"), &view, p)?
                    }
                };
                let asked = new["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap_or_default();
                if !asked.is_empty() && *asked != old.resource_version().to_string() {
                    return Err(Status::stale(res, name));
                }
                let replicas = replicas(res, name, &new)?;
                let mut object = old.value().clone();
                set_replicas(res, &mut object, replicas);
                Ok(object)
            })
            .await?;
        Ok(scale(res, &done))
    }

    /// Binds a pod to a node.
    pub async fn bind(
        &self,
        ns: &str,
        pod: &str,
        uid: &str,
        node: &str,
        options: &WriteOptions,
    ) -> Result<()> {
        let res = &kinds::POD;
        self.change(res, ns, pod, "binding", options, |old| {
            if !uid.is_empty() && old.uid() != uid {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old.uid()
                );
                return Err(Status::conflict(res, pod, &why));
            }
            if old.is_deleting() {
                let why = format!("pod {pod} is being deleted, cannot be assigned to a host");
                return Err(Status::conflict(res, pod, &why));
            }
            let bound = old.str_at("/spec/nodeName");
            if !bound.is_empty() {
                let why = format!("pod {pod} is already assigned to node \"{bound}\"");
                return Err(Status::conflict(res, pod, &why));
            }
            let mut new = old.value().clone();
            new["spec"]["nodeName"] = json!(node);
            set_condition(&mut new, "PodScheduled", "True");
            // Room was made for it, perhaps elsewhere: that is over (since Kubernetes 1.35).
            if let Some(status) = new["status"].as_object_mut() {
                status.remove("nominatedNodeName");
            }
            Ok(new)
        })
        .await
        .map(drop)
    }
}

/// How a Scale is changed.
pub(super) enum ScaleChange {
    /// By a whole Scale.
    Replace(Value),
    /// By a patch of one.
    Patch(Patch),
}

fn replicas(res: Res, name: &str, scale: &Value) -> Result<i64> {
    let replicas = &scale["spec"]["replicas"];
    if replicas.is_null() {
        return Ok(0);
    }
    let number = replicas.as_i64().filter(|n| i32::try_from(*n).is_ok());
    let number = number.ok_or_else(|| {
        Status::bad_request(format!(
            "spec.replicas: Invalid value: {replicas}: must be a number of 32 bits"
        ))
    })?;
    if number < 0 {
        let message = format!("Invalid value: {number}: must be greater than or equal to 0");
        let cause = Cause {
            reason: "FieldValueInvalid",
            message,
            field: "spec.replicas".into(),
        };
        return Err(Status::invalid(res, name, vec![cause]));
    }
    Ok(number)
}

fn set_condition(object: &mut Value, kind: &str, status: &str) {
    let condition = json!({"type": kind, "status": status, "lastTransitionTime": meta::now()});
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    if let Some(all) = object["status"]["conditions"].as_array_mut() {
        all.retain(|c| c["type"] != kind);
        all.push(condition);
    }
}
