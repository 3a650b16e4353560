//! DefaultStorageClass: a claim that names no class gets the default one.

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::status::Result;
use crate::store::Selector;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultStorageClass",
    mutate,
    ..Plugin::BASE
};

/// The annotation of the default class.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

#[allow(clippy::unnecessary_wraps)] // As every plugin has it.
fn mutate(request: &Request<'_>, claim: &mut Value) -> Result<()> {
    let named = claim["spec"].get("storageClassName").is_some();
    if *request.res != kinds::PERSISTENT_VOLUME_CLAIM || request.old.is_some() || named {
        return Ok(());
    }
    let all = request
        .api
        .list(&kinds::STORAGE_CLASS, "", &Selector::all())
        .items;
    // Of several, the newest: as upstream since 1.26.
    let default = all
        .iter()
        .filter(|c| c.annotation(DEFAULT) == Some("true"))
        .max_by_key(|c| {
            (
                c.str_at("/metadata/creationTimestamp").to_owned(),
                c.name().to_owned(),
            )
        });
    if let Some(class) = default {
        claim["spec"]["storageClassName"] = json!(class.name());
    }
    Ok(())
}
