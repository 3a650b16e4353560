//! DefaultIngressClass: an Ingress that names no class gets the default one.

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::status::Result;
use crate::store::Selector;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultIngressClass",
    mutate,
    ..Plugin::BASE
};

/// The annotation of the default class.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// The annotation that named a class before there was a field.
const OLD: &str = "kubernetes.io/ingress.class";

#[allow(clippy::unnecessary_wraps)] // As every plugin has it.
fn mutate(request: &Request<'_>, ingress: &mut Value) -> Result<()> {
    let named = !ingress["spec"]["ingressClassName"].is_null()
        || !ingress["metadata"]["annotations"][OLD].is_null();
    if *request.res != kinds::INGRESS || request.old.is_some() || named {
        return Ok(());
    }
    let all = request
        .api
        .list(&kinds::INGRESS_CLASS, "", &Selector::all())
        .items;
    let default = all.iter().filter(|c| c.annotation(DEFAULT) == Some("true"));
    // Of several, the newest, then the first by name: as upstream.
    let newest = default.max_by_key(|c| {
        (
            c.str_at("/metadata/creationTimestamp").to_owned(),
            std::cmp::Reverse(c.name().to_owned()),
        )
    });
    if let Some(class) = newest {
        ingress["spec"]["ingressClassName"] = json!(class.name());
    }
    Ok(())
}
