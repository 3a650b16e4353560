//! `rrun.io/v1` capsules: what containers that failed left.

use std::sync::Arc;

use serde_json::Value;

use super::Context;
use super::accept::{self, Form};
use super::body::{Answer, json_text};
use super::query::Query;
use super::read::{include, one};
use super::route::Target;
use crate::api::status::{Result, Status};
use crate::api::table;
use crate::store::Object;

/// GET of one, or of a list, the newest first.
pub(super) async fn get(cx: &Context, t: &Target, query: &Query, accept: &str) -> Result<Answer> {
    if t.watch || query.flag("watch") {
        let why = "capsules cannot be watched";
        return Err(Status::new(405, "MethodNotAllowed", why));
    }
    let form = accept::form(accept)?;
    let agent = cx.node.as_deref().ok_or_else(|| {
        let why = "the node agent does not run in this process";
        Status::new(503, "ServiceUnavailable", why)
    })?;
    let all = agent.capsules().await?;
    let selector = query.selector()?;
    let wanted = |c: &Value| {
        let own = c["metadata"]["namespace"].as_str().unwrap_or_default();
        (t.ns.is_empty() || t.ns == own) && selector.matches(c)
    };
    let all: Vec<Arc<Object>> = all
        .into_iter()
        .filter(wanted)
        .map(|c| Object::from_value(0, c))
        .collect();
    if !t.name.is_empty() {
        let found = all.iter().find(|c| c.name() == t.name);
        let found = found.ok_or_else(|| Status::not_found(t.res, &t.name))?;
        return Ok(one(200, t.res, found, form, query));
    }
    let objects: Vec<&Object> = all.iter().map(AsRef::as_ref).collect();
    let meta = table::list_meta(cx.client.api().resource_version(), None);
    Ok(json_text(
        200,
        match form {
            Form::Table => table::table(t.res, &objects, &meta, include(query)),
            Form::Partial | Form::PartialList => table::partial_list(&objects, &meta),
            Form::Object => return Ok(json_text(200, super::read::full(t.res, &objects, &meta))),
        },
    ))
}
