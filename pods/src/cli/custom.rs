//! Kinds that only the server knows: what its CustomResourceDefinitions declare.

use serde_json::Value;
use tokio::sync::OnceCell;

use super::http::Api;
use crate::api::{Res, Resource, Subresource, kinds};

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Every kind of the server's that is not built in, asked for once. A server without any, or one
/// that cannot be asked, has none: the command itself says what is wrong with the server.
pub async fn all(api: &Api) -> &'static [Res] {
    static KNOWN: OnceCell<Vec<Res>> = OnceCell::const_new();
    let ask = || async {
        let groups = api.call_for("GET", "/apis", DISCOVERY, None).await;
        groups.map(|groups| of_groups(&groups)).unwrap_or_default()
    };
    KNOWN.get_or_init(ask).await
}

/// Whether the program has the kind built in, with its rules for merging.
pub fn is_built_in(res: Res) -> bool {
    kinds::find_kind(&res.api_version(), res.kind).is_some()
}

fn of_groups(groups: &Value) -> Vec<Res> {
    let mut all = Vec::new();
    for group in items(&groups["items"]) {
        let name = text(&group["metadata"]["name"]);
        for version in items(&group["versions"]) {
            for resource in items(&version["resources"]) {
                all.extend(of_resource(&name, &text(&version["version"]), resource));
            }
        }
    }
    all
}

/// What the rest of the program needs to know of a kind. It is kept for the life of the program,
/// which is that of one command.
fn of_resource(group: &str, version: &str, said: &Value) -> Option<Res> {
    let kind = text(&said["responseKind"]["kind"]);
    let api_version = format!("{group}/{version}");
    if kind.is_empty() || kinds::find_kind(&api_version, &kind).is_some() {
        return None;
    }
    let has = |name: &str| items(&said["subresources"]).any(|s| s["subresource"] == name);
    Some(Box::leak(Box::new(Resource {
        group: keep(group),
        version: keep(version),
        plural: keep(&text(&said["resource"])),
        singular: keep(&text(&said["singularResource"])),
        kind: keep(&kind),
        namespaced: said["scope"] == "Namespaced",
        short_names: keep_all(&said["shortNames"]),
        categories: keep_all(&said["categories"]),
        has_status: has("status"),
        has_scale: has("scale"),
        extra: &[] as &[Subresource],
        ..Resource::BASE
    })))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn keep(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn keep_all(list: &Value) -> &'static [&'static str] {
    let all: Vec<&'static str> = items(list).map(|v| keep(&text(v))).collect();
    Box::leak(all.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_declared_kind_is_found_beside_the_built_in_ones() {
        let resource = |plural: &str, kind: &str| {
            json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced",
                "singularResource": kind.to_lowercase(), "shortNames": ["wd"], "categories": ["all"],
                "subresources": [{"subresource": "status"}]})
        };
        let groups = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [resource("deployments", "Deployment")]}]},
            {"metadata": {"name": "a.test"}, "versions": [{"version": "v1", "resources": [resource("widgets", "Widget")]}]},
        ]});
        let all = of_groups(&groups);
        assert_eq!(all.len(), 1, "a Deployment is built in");
        let widget = all[0];
        assert_eq!(widget.api_version(), "a.test/v1");
        assert_eq!((widget.plural, widget.singular), ("widgets", "widget"));
        assert!(widget.namespaced && widget.has_status && !widget.has_scale);
        assert!(!is_built_in(widget));
        assert!(of_groups(&json!({})).is_empty());
    }
}
