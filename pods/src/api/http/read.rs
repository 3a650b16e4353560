//! get, list and watch.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::accept::{self, Form};
use super::body::{Answer, json_text};
use super::query::Query;
use super::route::Target;
use super::{Context, watch};
use crate::api::resource::Res;
use crate::api::status::{Result, Status};
use crate::api::subresources;
use crate::api::table::{self, Include};
use crate::api::validate::Faults;
use crate::store::{List, Object};

/// One object, in the form asked for.
pub(super) fn one(code: u16, res: Res, object: &Object, form: Form, query: &Query) -> Answer {
    match form {
        Form::Table => {
            let meta = table::list_meta(object.resource_version(), None);
            json_text(code, table::table(res, &[object], &meta, include(query)))
        }
        Form::Partial => json_text(code, table::partial(object)),
        _ => json_text(code, object.json().clone()),
    }
}

pub(super) fn include(query: &Query) -> Include {
    match query.get("includeObject") {
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    }
}

pub(super) fn get(cx: &Context, t: &Target, query: &Query, accept: &str) -> Result<Answer> {
    let form = accept::form(accept)?;
    let object = cx.client.get(t.res, &t.ns, &t.name)?;
    Ok(one(200, t.res, &object, form, query))
}

/// `GET …/scale`.
pub(super) fn scale(cx: &Context, t: &Target, query: &Query, accept: &str) -> Result<Answer> {
    let form = accept::form(accept)?;
    let object = cx.client.get(t.res, &t.ns, &t.name)?;
    let scale = subresources::scale(t.res, &object);
    let scale = Object::from_value(object.resource_version(), scale);
    Ok(one(200, &subresources::SCALE, &scale, form, query))
}

pub(super) fn list(cx: &Context, t: &Target, query: &Query, accept: &str) -> Result<Answer> {
    let form = accept::form(accept)?;
    if t.watch || query.flag("watch") {
        return watch::start(cx, t, query, form);
    }
    let selector = query.selector()?;
    check_fields(t.res, selector.field_paths())?;
    check_version(query, cx.client.api().resource_version())?;
    let all = cx.client.list(t.res, &t.ns, &selector);
    let (all, more) = page(all, query)?;
    let meta = table::list_meta(
        all.resource_version,
        more.as_ref().map(|(t, n)| (t.as_str(), *n)),
    );
    let objects: Vec<&Object> = all.items.iter().map(AsRef::as_ref).collect();
    Ok(json_text(
        200,
        match form {
            Form::Table => table::table(t.res, &objects, &meta, include(query)),
            Form::Partial | Form::PartialList => table::partial_list(&objects, &meta),
            Form::Object => return Ok(json_text(200, full(t.res, &objects, &meta))),
        },
    ))
}

/// Whether a list of the version that is asked for can be given: there is the newest alone.
fn check_version(query: &Query, newest: u64) -> Result<()> {
    let asked = query.get("resourceVersion").filter(|v| !v.is_empty());
    let exact = match query.get("resourceVersionMatch").unwrap_or_default() {
        "" => false,
        _ if asked.is_none() => {
            return Err(wrong_match(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        _ if query.get("continue").is_some() => {
            return Err(wrong_match(
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        "NotOlderThan" => false,
        "Exact" if asked == Some("0") => {
            return Err(wrong_match(
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        "Exact" => true,
        _ => {
            return Err(wrong_match(
                "resourceVersionMatch must be one of Exact, NotOlderThan",
            ));
        }
    };
    let Some(asked) = asked.filter(|v| *v != "0") else {
        return Ok(());
    };
    let asked: u64 = asked.parse().map_err(|_| bad_version(asked))?;
    if asked > newest {
        return Err(too_large(asked, newest));
    }
    if exact && asked < newest {
        let why = "The resourceVersion for the provided list is too old.";
        return Err(Status::new(410, "Expired", why));
    }
    Ok(())
}

/// `resourceVersionMatch` does not go with the rest of the options.
pub(super) fn wrong_match(why: &str) -> Status {
    let mut faults = Faults::default();
    faults.forbidden("resourceVersionMatch", why);
    Status::invalid_kind("meta.k8s.io", "ListOptions", "", faults.into_causes())
}

pub(super) fn full(res: Res, objects: &[&Object], meta: &str) -> Vec<u8> {
    let size: usize = objects.iter().map(|o| o.json().len() + 1).sum();
    let mut out = Vec::with_capacity(size + 160);
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{{{meta}}},"items":["#,
        res.kind,
        res.api_version()
    );
    out.extend_from_slice(head.as_bytes());
    for (i, o) in objects.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(o.json());
    }
    out.extend_from_slice(b"]}");
    out
}

/// Cuts a list at `limit`, after where `continue` says the last page ended.
///
/// Later pages are read from the newest state but carry the version of the first page, so that a
/// watch from there tells whatever changed between the pages.
fn page(mut all: List, query: &Query) -> Result<(List, Option<(String, usize)>)> {
    let path = |o: &Object| format!("{}/{}", o.namespace(), o.name());
    if let Some(token) = query.get("continue") {
        let bad = || Status::bad_request("continue key is not valid: it is not one of this server");
        let text = BASE64
            .decode(token)
            .ok()
            .and_then(|b| String::from_utf8(b).ok())
            .ok_or_else(bad)?;
        let (rv, after) = text.split_once(' ').ok_or_else(bad)?;
        all.resource_version = rv.parse().map_err(|_| bad())?;
        let start = all.items.partition_point(|o| path(o).as_str() <= after);
        all.items.drain(..start);
    }
    let limit = query.int("limit")?.unwrap_or(0);
    if limit <= 0 || all.items.len() <= limit as usize {
        return Ok((all, None));
    }
    let rest = all.items.len() - limit as usize;
    all.items.truncate(limit as usize);
    let last = all.items.last().map(|o| path(o)).unwrap_or_default();
    let token = BASE64.encode(format!("{} {last}", all.resource_version));
    Ok((all, Some((token, rest))))
}

/// Selecting by a field that is not indexed is refused, as Kubernetes does: a typo must not mean
/// "nothing".
pub(super) fn check_fields<'a>(res: Res, paths: impl Iterator<Item = &'a str>) -> Result<()> {
    for path in paths {
        let known = path == "metadata.name"
            || (res.namespaced && path == "metadata.namespace")
            || res.fields.contains(&path);
        if !known {
            return Err(Status::bad_request(format!(
                "field label not supported: {path}"
            )));
        }
    }
    Ok(())
}

pub(super) fn bad_version(text: &str) -> Status {
    Status::bad_request(format!(
        "resourceVersion: Invalid value: \"{text}\": must be a number"
    ))
}

fn too_large(asked: u64, newest: u64) -> Status {
    Status::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {newest}"),
    )
}

/// The resource that an error about a path names.
pub(super) fn unknown_path() -> Status {
    Status::new(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}
