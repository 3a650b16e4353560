//! `metrics.k8s.io`: what pods and the node use, for `kubectl top` and autoscalers.

use serde_json::{Value, json};

use super::Context;
use super::body::{Answer, json as json_answer};
use super::query::Query;
use super::route::Target;
use crate::api::kinds;
use crate::api::meta;
use crate::api::node::{Usage, Used};
use crate::api::status::{Result, Status};
use crate::store::{Object, Selector};

/// GET of one, or of a list.
pub(super) async fn get(cx: &Context, t: &Target, query: &Query) -> Result<Answer> {
    if query.flag("watch") || t.watch {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "what is measured cannot be watched",
        ));
    }
    let agent = cx.node.as_deref().ok_or_else(unavailable)?;
    let usage = agent.usage().await?;
    let selector = query.selector()?;
    let items = if t.res.namespaced {
        pods(cx, t, &selector, &usage)
    } else {
        nodes(cx, &selector, &usage)
    };
    if t.name.is_empty() {
        let kind = format!("{}List", t.res.kind);
        return Ok(json_answer(
            200,
            &json!({"kind": kind, "apiVersion": t.res.api_version(), "metadata": {}, "items": items}),
        ));
    }
    let mut items = items.into_iter();
    let found = items.find(|i| i["metadata"]["name"] == *t.name);
    found
        .map(|item| json_answer(200, &item))
        .ok_or_else(|| Status::not_found(t.res, &t.name))
}

fn unavailable() -> Status {
    Status::new(
        503,
        "ServiceUnavailable",
        "the node agent does not run in this process",
    )
}

fn item(kind: &str, o: &Object, usage: &Usage) -> Value {
    let mut meta = json!({"name": o.name(), "creationTimestamp": meta::now()});
    if !o.namespace().is_empty() {
        meta["namespace"] = json!(o.namespace());
    }
    if o.at("/metadata/labels").is_object() {
        meta["labels"] = o.at("/metadata/labels").clone();
    }
    json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": meta,
           "timestamp": meta::now(), "window": format!("{:.3}s", usage.window.as_secs_f64())})
}

fn amounts(used: Used) -> Value {
    json!({"cpu": format!("{}n", used.nano_cores), "memory": format!("{}Ki", used.memory / 1024)})
}

fn pods(cx: &Context, t: &Target, selector: &Selector, usage: &Usage) -> Vec<Value> {
    let list = cx.client.list(&kinds::POD, &t.ns, selector).items;
    let of = |pod: &Object| {
        let mut item = item("PodMetrics", pod, usage);
        let own = usage.containers.iter().filter(|c| c.uid == pod.uid());
        let containers: Vec<Value> = own
            .map(|c| json!({"name": c.name, "usage": amounts(c.used)}))
            .collect();
        // A pod that does not run uses nothing that could be told.
        (!containers.is_empty()).then(|| {
            item["containers"] = json!(containers);
            item
        })
    };
    list.iter().filter_map(|pod| of(pod)).collect()
}

fn nodes(cx: &Context, selector: &Selector, usage: &Usage) -> Vec<Value> {
    let list = cx.client.list(&kinds::NODE, "", selector).items;
    let of = |node: &Object| {
        let mut item = item("NodeMetrics", node, usage);
        item["usage"] = amounts(usage.node);
        item
    };
    list.iter().map(|node| of(node)).collect()
}
