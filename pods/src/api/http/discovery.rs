//! What there is: `/api`, `/apis`, their versions, and both at once (aggregated discovery v2).

use serde_json::{Value, json};

use super::Context;
use super::body::{Answer, Body, answer, json as json_answer, json_text};
use super::read::unknown_path;
use crate::api::openapi;
use crate::api::resource::Res;
use crate::api::status::Result;

/// Version of Kubernetes whose API this is.
pub(crate) const KUBERNETES: (&str, &str) = ("1", "36");

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Groups other than the core one, each with its versions, in order.
fn groups(cx: &Context) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = Vec::new();
    for r in cx
        .client
        .served()
        .into_iter()
        .filter(|r| !r.group.is_empty())
    {
        match out.iter_mut().find(|(g, _)| *g == r.group) {
            Some((_, versions)) if versions.contains(&r.version) => {}
            Some((_, versions)) => versions.push(r.version),
            None => out.push((r.group, vec![r.version])),
        }
    }
    out
}

/// Whether the client understands aggregated discovery.
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|p| {
        p.contains("as=APIGroupDiscoveryList") && p.contains("v=v2") && !p.contains("v=v2beta1")
    })
}

fn aggregated(items: &[Value]) -> Answer {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                      "metadata": {}, "items": items});
    answer(200, AGGREGATED, Body::Full(list.to_string().into()))
}

/// `/api`.
pub(super) fn core(cx: &Context, accept: &str) -> Answer {
    if wants_aggregated(accept) {
        return aggregated(&[group_discovery(cx, "", &["v1"])]);
    }
    json_answer(
        200,
        &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
    )
}

/// `/apis`.
pub(super) fn all_groups(cx: &Context, accept: &str) -> Answer {
    let groups = groups(cx);
    if wants_aggregated(accept) {
        let items: Vec<Value> = groups
            .iter()
            .map(|(g, v)| group_discovery(cx, g, v))
            .collect();
        return aggregated(&items);
    }
    let groups: Vec<Value> = groups.iter().map(|(g, v)| group_value(g, v)).collect();
    json_answer(
        200,
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
    )
}

/// `/apis/{group}`.
pub(super) fn group(cx: &Context, name: &str) -> Result<Answer> {
    let groups = groups(cx);
    let (g, versions) = groups
        .iter()
        .find(|(g, _)| *g == name)
        .ok_or_else(unknown_path)?;
    let mut value = group_value(g, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Ok(json_answer(200, &value))
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    json!({"name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(),
           "preferredVersion": versions.first().map(version)})
}

fn of_version(cx: &Context, group: &str, version: &str) -> Vec<Res> {
    let mut all = cx.client.served();
    all.retain(|r| r.group == group && r.version == version);
    all
}

fn group_discovery(cx: &Context, group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| {
        let resources: Vec<Value> = {
            let all = of_version(cx, group, v).into_iter();
            all.map(resource_discovery).collect()
        };
        json!({"version": v, "freshness": "Current", "resources": resources})
    };
    let mut meta = json!({"creationTimestamp": null});
    if !group.is_empty() {
        meta["name"] = json!(group);
    }
    json!({"metadata": meta, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn resource_discovery(r: Res) -> Value {
    let scope = if r.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut out = json!({
        "resource": r.plural, "scope": scope, "singularResource": r.singular, "verbs": r.verbs(),
        "responseKind": {"group": "", "version": "", "kind": r.kind},
    });
    if !r.short_names.is_empty() {
        out["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        out["categories"] = json!(r.categories);
    }
    let subs: Vec<Value> = r
        .subresources()
        .map(|s| {
            json!({"subresource": s.name, "verbs": s.verbs, "responseKind":
                   {"group": s.group.unwrap_or(""), "version": s.version.unwrap_or(""),
                    "kind": s.kind.unwrap_or(r.kind)}})
        })
        .collect();
    if !subs.is_empty() {
        out["subresources"] = Value::Array(subs);
    }
    out
}

/// `/api/v1`, `/apis/{group}/{version}`.
pub(super) fn resources(cx: &Context, group: &str, version: &str) -> Result<Answer> {
    let mut all = Vec::new();
    for r in of_version(cx, group, version) {
        let mut entry = json!({"name": r.plural, "singularName": r.singular, "kind": r.kind,
                               "namespaced": r.namespaced, "verbs": r.verbs()});
        if !r.short_names.is_empty() {
            entry["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            entry["categories"] = json!(r.categories);
        }
        all.push(entry);
        for s in r.subresources() {
            let mut entry = json!({"name": format!("{}/{}", r.plural, s.name), "singularName": "",
                "kind": s.kind.unwrap_or(r.kind), "namespaced": r.namespaced, "verbs": s.verbs});
            if let Some(v) = s.version {
                entry["group"] = json!(s.group.unwrap_or(""));
                entry["version"] = json!(v);
            }
            all.push(entry);
        }
    }
    if all.is_empty() {
        return Err(unknown_path());
    }
    let gv = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Ok(json_answer(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": all}),
    ))
}

/// `/version`.
pub(super) fn version() -> Answer {
    let (major, minor) = KUBERNETES;
    let own = env!("CARGO_PKG_VERSION");
    json_answer(
        200,
        &json!({"major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+rrun-{own}"),
                "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
                "compiler": "rustc", "platform": format!("linux/{}", arch())}),
    )
}

/// What clients ask for has an `@` in place of the last dot, which is no media type to Go's parser.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`.
pub(super) fn openapi2(cx: &Context, accept: &str) -> Answer {
    let doc = openapi::v2(&cx.client.custom_kinds());
    if accept.contains("proto-openapi.spec.v2") {
        let bytes = openapi::to_protobuf(&doc);
        crate::rest::answered(bytes.len());
        return answer(200, GNOSTIC, Body::Full(bytes.into()));
    }
    json_answer(200, &doc)
}

/// `/openapi/v3` and what is below it.
pub(super) fn openapi3(cx: &Context, path: &str) -> Result<Answer> {
    let customs = cx.client.custom_kinds();
    if path.is_empty() {
        return Ok(json_answer(200, &openapi::v3_index(&customs)));
    }
    let doc = openapi::v3(path, &customs).ok_or_else(unknown_path)?;
    Ok(json_text(200, doc))
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
