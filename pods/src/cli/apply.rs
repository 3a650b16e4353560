//! `apply`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};

use super::http::{Api, json as body, patch};
use super::output::{self, print};
use super::{custom, kinds, manifest};
use crate::api::Res;

/// Remembers what was applied last, so that what is taken out of a manifest is taken out of the
/// object; kubectl's own annotation, so that both can be used on one object.
const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `rrun-pods apply -f web.yaml`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods apply -f web.yaml -f service.yaml
  rrun-pods apply -f manifests/ --recursive
  cat web.yaml | rrun-pods apply -f -
  rrun-pods apply -f web.yaml --dry-run -o yaml")]
pub struct Options {
    /// File, directory or `-` for standard input; may be repeated.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    /// Directories below directories too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Everything but the write itself.
    #[arg(long)]
    dry_run: bool,
    /// Let the server merge, with a manager for each field.
    #[arg(long)]
    server_side: bool,
    /// With --server-side: take over fields that another manager set.
    #[arg(long, requires = "server_side")]
    force_conflicts: bool,
    /// json, yaml or name: show the objects instead of a line each.
    #[arg(short, long)]
    output: Option<String>,
}

/// Runs it. Every document is understood before the first is applied; the first refusal ends it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let documents = manifest::read(&options.filename, options.recursive)?;
    let mut planned = Vec::new();
    for document in &documents {
        let target = kinds::path_of(api, &document.object, namespace).await;
        let target = target.with_context(|| document.origin.clone())?;
        planned.push((document, target));
    }
    for (document, (res, path)) in planned {
        one(api, &document.object, res, &path, options)
            .await
            .with_context(|| document.origin.clone())?;
    }
    Ok(())
}

async fn one(
    api: &Api,
    object: &Value,
    res: Res,
    path: &str,
    options: &Options,
) -> anyhow::Result<()> {
    let before = api.find(path).await?;
    let mut query = "?fieldManager=rrun-pods&fieldValidation=Strict".to_owned();
    if options.dry_run {
        query.push_str("&dryRun=All");
    }
    let after = if options.server_side {
        let url = format!("{path}{query}&force={}", options.force_conflicts);
        api.call("PATCH", &url, patch("apply", object)).await?
    } else {
        merge(api, object, res, path, &query, before.as_ref()).await?
    };
    let name = after["metadata"]["name"].as_str().unwrap_or_default();
    let label = kinds::label(res, name);
    match options.output.as_deref() {
        Some("json") => print(&output::json(&after)),
        Some("yaml") => print(&format!("---\n{}", output::yaml(&after)?)),
        Some("name") => print(&format!("{label}\n")),
        _ => {
            let dry = if options.dry_run {
                " (server dry run)"
            } else {
                ""
            };
            print(&format!("{label} {}{dry}\n", word(before.as_ref(), &after)));
        }
    }
    Ok(())
}

/// Creates the object, or merges it with what is there: three ways, as kubectl does.
async fn merge(
    api: &Api,
    object: &Value,
    res: Res,
    path: &str,
    query: &str,
    before: Option<&Value>,
) -> anyhow::Result<Value> {
    let mut wanted = object.clone();
    let text = format!("{object}\n");
    wanted["metadata"]["annotations"][LAST] = text.into();
    let Some(before) = before else {
        let (all, _) = path.rsplit_once('/').unwrap_or((path, ""));
        return api
            .call("POST", &format!("{all}{query}"), body(&wanted))
            .await;
    };
    let last = before["metadata"]["annotations"][LAST].as_str();
    let last: Value = last
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    // Of a kind that is not built in nothing is known that its lists could be merged by.
    let (how, lists): (_, Lists) = if custom::is_built_in(res) {
        ("strategic", elements)
    } else {
        ("merge", |wanted, _| wanted.to_vec())
    };
    let change = with_removals(&wanted, &last, lists);
    let url = format!("{path}{query}");
    api.call("PATCH", &url, patch(how, &change)).await
}

/// How lists are merged: what is wanted now, and what was wanted the last time.
type Lists = fn(&[Value], &[Value]) -> Vec<Value>;

/// What is wanted, and nulls for what was wanted the last time and is no more.
fn with_removals(wanted: &Value, last: &Value, lists: Lists) -> Value {
    match (wanted, last) {
        (Value::Object(wanted), Value::Object(last)) => {
            let mut out: Map<String, Value> = wanted
                .iter()
                .map(|(key, value)| {
                    let before = last.get(key).unwrap_or(&Value::Null);
                    (key.clone(), with_removals(value, before, lists))
                })
                .collect();
            for key in last.keys().filter(|key| !wanted.contains_key(*key)) {
                // What the server or others annotate is not ours to remove.
                out.insert(key.clone(), Value::Null);
            }
            Value::Object(out)
        }
        (Value::Array(wanted), Value::Array(last)) => Value::Array(lists(wanted, last)),
        (wanted, _) => wanted.clone(),
    }
}

/// Elements of lists that are merged by name: those that are gone are deleted by their name.
fn elements(wanted: &[Value], last: &[Value]) -> Vec<Value> {
    let named = |list: &[Value]| list.iter().all(|e| e["name"].is_string());
    if !named(wanted) || !named(last) {
        return wanted.to_vec();
    }
    let find = |list: &[Value], name: &Value| list.iter().find(|e| e["name"] == *name).cloned();
    let kept = wanted.iter().map(|element| {
        let before = find(last, &element["name"]).unwrap_or_default();
        with_removals(element, &before, elements)
    });
    let gone = last
        .iter()
        .filter(|element| find(wanted, &element["name"]).is_none())
        .map(|element| json!({"$patch": "delete", "name": element["name"]}));
    kept.chain(gone).collect()
}

fn word(before: Option<&Value>, after: &Value) -> &'static str {
    match before {
        None => "created",
        Some(before) if changed(before, after) => "configured",
        Some(_) => "unchanged",
    }
}

/// Whether anything but the bookkeeping differs.
fn changed(before: &Value, after: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        if let Some(meta) = value["metadata"].as_object_mut() {
            meta.remove("managedFields");
            meta.remove("resourceVersion");
            meta.remove("generation");
        }
        value
    };
    plain(before) != plain(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_of_a_manifest_is_taken_out_of_the_object() {
        let last = json!({"spec": {"a": 1, "b": {"c": 1, "d": 2}, "list": [{"name": "x", "v": 1}, {"name": "y"}]}});
        let wanted = json!({"spec": {"b": {"c": 1}, "list": [{"name": "x"}]}});
        let expected = json!({"spec": {"a": null, "b": {"c": 1, "d": null},
            "list": [{"name": "x", "v": null}, {"$patch": "delete", "name": "y"}]}});
        assert_eq!(with_removals(&wanted, &last, elements), expected);
    }
}
