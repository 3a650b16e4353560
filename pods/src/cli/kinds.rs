//! Kinds and objects as people name them: `pods`, `deploy/web`, `pods,services`.

use anyhow::{anyhow, bail};
use serde_json::Value;

use super::custom;
use super::http::Api;
use crate::api::{Res, kinds};

/// The kind of a name: plural, singular, short or `deployments.apps`.
pub async fn find(api: &Api, name: &str) -> anyhow::Result<Res> {
    // Of what is measured, only capsules have a name of their own.
    let own: Res = &kinds::CAPSULE;
    let built_in = kinds::ALL.iter().copied().chain([own]);
    if let Some(found) = named(name, built_in) {
        return Ok(found);
    }
    let found = named(name, custom::all(api).await.iter().copied());
    found.ok_or_else(|| anyhow!("the server doesn't have a resource type \"{name}\""))
}

fn named(name: &str, mut kinds: impl Iterator<Item = Res>) -> Option<Res> {
    let lower = name.to_lowercase();
    let plain = lower.split('.').next().unwrap_or_default();
    let group = lower.split_once('.').map(|(_, rest)| rest);
    kinds.find(|res| {
        let named = res.plural == plain
            || res.singular == plain
            || res.kind.to_lowercase() == plain
            || res.short_names.contains(&plain);
        let grouped =
            group.is_none_or(|g| g == res.group || g == format!("{}.{}", res.version, res.group));
        named && grouped
    })
}

/// The kinds of a list like `pods,services`, or those of a category like `all`.
pub async fn list(api: &Api, names: &str) -> anyhow::Result<Vec<Res>> {
    let mut all = Vec::new();
    for name in names.split(',').filter(|n| !n.is_empty()) {
        let in_it = |res: &&Res| res.categories.contains(&name);
        let mut category: Vec<Res> = kinds::ALL.iter().filter(in_it).copied().collect();
        if category.is_empty() {
            all.push(find(api, name).await?);
        } else {
            category.extend(custom::all(api).await.iter().filter(in_it));
            all.extend(category);
        }
    }
    Ok(all)
}

/// The path of a kind's objects, or of one.
pub fn path(res: Res, namespace: &str, name: Option<&str>) -> String {
    let mut path = if res.group.is_empty() {
        format!("/api/{}", res.version)
    } else {
        format!("/apis/{}/{}", res.group, res.version)
    };
    if res.namespaced && !namespace.is_empty() {
        path.push_str(&format!("/namespaces/{namespace}"));
    }
    path.push('/');
    path.push_str(res.plural);
    if let Some(name) = name {
        path.push('/');
        path.push_str(name);
    }
    path
}

/// The path of an object of a manifest, and its kind. Its namespace is its own or the given one.
pub async fn path_of(api: &Api, object: &Value, namespace: &str) -> anyhow::Result<(Res, String)> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version.is_empty() || kind.is_empty() {
        let field = if version.is_empty() {
            "apiVersion"
        } else {
            "kind"
        };
        bail!("{field}: is required");
    }
    let Some(res) = of_kind(api, version, kind).await else {
        bail!("apiVersion, kind: no matches for kind \"{kind}\" in version \"{version}\"");
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        bail!("metadata.name: is required");
    }
    let own = object["metadata"]["namespace"].as_str();
    Ok((res, path(res, own.unwrap_or(namespace), Some(name))))
}

async fn of_kind(api: &Api, version: &str, kind: &str) -> Option<Res> {
    if let Some(res) = kinds::find_kind(version, kind) {
        return Some(res);
    }
    let mut all = custom::all(api).await.iter().copied();
    all.find(|r| r.kind == kind && r.api_version() == version)
}

/// `pod/web`, as commands say what they did; with a group `deployment.apps/web`.
pub fn label(res: Res, name: &str) -> String {
    if res.group.is_empty() {
        format!("{}/{name}", res.singular)
    } else {
        format!("{}.{}/{name}", res.singular, res.group)
    }
}

/// What arguments like `pods`, `pod web`, `deploy/web svc/web` mean: a kind and names each; no
/// names stands for all.
pub async fn targets(api: &Api, args: &[String]) -> anyhow::Result<Vec<(Res, Vec<String>)>> {
    let Some(first) = args.first() else {
        bail!("say what: a kind, as in `pods`, or objects, as in `deployment/web`");
    };
    if args.iter().any(|a| a.contains('/')) {
        let mut all = Vec::new();
        for arg in args {
            let (kind, name) = arg
                .split_once('/')
                .ok_or_else(|| anyhow!("{arg}: when one argument is KIND/NAME, all must be"))?;
            all.push((find(api, kind).await?, vec![name.to_owned()]));
        }
        return Ok(all);
    }
    let kinds = list(api, first).await?;
    let names = args[1..].to_vec();
    Ok(kinds.into_iter().map(|res| (res, names.clone())).collect())
}

/// One object, as `web` with a kind that is understood, or `deployment/web`.
pub async fn one(api: &Api, arg: &str, default: &str) -> anyhow::Result<(Res, String)> {
    match arg.split_once('/') {
        Some((kind, name)) => Ok((find(api, kind).await?, name.to_owned())),
        None => Ok((find(api, default).await?, arg.to_owned())),
    }
}
