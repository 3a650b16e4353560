//! create, update, patch, delete and deletecollection.

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::accept;
use super::body::{self, Answer, json as json_answer};
use super::query::Query;
use super::route::Target;
use super::{Context, read};
use crate::api::auth::{User, rbac};
use crate::api::certificates;
use crate::api::client::{DeleteOptions, Patch, Propagation, Validation, WriteOptions};
use crate::api::kinds;
use crate::api::resource::{self, Asker};
use crate::api::status::{Result, Status};
use crate::api::subresources::ScaleChange;
use crate::api::tokens;
use crate::store::Object;

/// The parts of a request that writes look at.
pub(super) struct Input<'a> {
    pub query: &'a Query,
    pub accept: &'a str,
    pub content_type: &'a str,
    pub user_agent: &'a str,
    pub body: Bytes,
}

impl Input<'_> {
    pub fn object(&self) -> Result<Value> {
        body::object(self.content_type, &self.body)
    }

    pub fn options(&self) -> Result<WriteOptions> {
        // As Kubernetes: the program's name is the manager when none is given.
        let agent = self.user_agent.split(['/', ' ']).next().unwrap_or_default();
        let manager = self.query.get("fieldManager").unwrap_or(agent);
        let validation = match self.query.get("fieldValidation") {
            // Kubernetes' default.
            None | Some("Warn") => Validation::Warn,
            Some("Ignore") => Validation::Ignore,
            Some("Strict") => Validation::Strict,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"\", \
                     \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        let field_manager = Some(manager.to_owned());
        Ok(WriteOptions {
            dry_run: self.query.dry_run()?,
            validation,
            field_manager,
            ..Default::default()
        })
    }
}

/// Adds what was noticed as `Warning` headers (RFC 7234), which kubectl shows; to a refusal too.
fn warned(done: Result<Answer>, options: &WriteOptions) -> Answer {
    let mut answer = done.unwrap_or_else(|refusal| body::failure(&refusal));
    for text in options.warnings() {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{text}\"").parse() {
            answer.headers_mut().append("warning", value);
        }
    }
    answer
}

pub(super) async fn create(
    cx: &Context,
    t: &Target,
    input: &Input<'_>,
    user: &User,
) -> Result<Answer> {
    let form = accept::form(input.accept)?;
    let options = input.options()?;
    let mut object = input.object()?;
    if *t.res == kinds::CERTIFICATE_SIGNING_REQUEST {
        certificates::stamp(&mut object, user)?;
    }
    let api = cx.client.api();
    let done = api.create(t.res, &t.ns, object, &options).await;
    let done = done.map(|o| read::one(201, t.res, &o, form, input.query));
    Ok(warned(done, &options))
}

/// A question, with its answer filled in.
pub(super) fn answer(
    t: &Target,
    input: &Input<'_>,
    asker: &Asker<'_>,
    fill: resource::Answer,
) -> Result<Answer> {
    let mut review = input.object()?;
    if !review.is_object() {
        return Err(Status::bad_request("the object is not a JSON object"));
    }
    review["apiVersion"] = json!(t.res.api_version());
    review["kind"] = json!(t.res.kind);
    fill(asker, &mut review)?;
    Ok(json_answer(201, &review))
}

pub(super) async fn update(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let form = accept::form(input.accept)?;
    let mut object = input.object()?;
    if t.sub == "scale" {
        return set_scale(cx, t, input, ScaleChange::Replace(object)).await;
    }
    let named = object["metadata"]["name"].as_str().unwrap_or_default();
    if named.is_empty() {
        object["metadata"]["name"] = json!(t.name);
    } else if named != t.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            t.name
        )));
    }
    let options = input.options()?;
    let api = cx.client.api();
    let done = api.update(t.res, &t.ns, &t.sub, object, &options).await;
    let done = done.map(|o| read::one(200, t.res, &o, form, input.query));
    Ok(warned(done, &options))
}

pub(super) async fn patch(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let form = accept::form(input.accept)?;
    let patch = patch_of(input)?;
    if t.sub == "scale" {
        return set_scale(cx, t, input, ScaleChange::Patch(patch)).await;
    }
    let options = input.options()?;
    if matches!(patch, Patch::Apply { .. }) && input.query.get("fieldManager").is_none() {
        return Err(Status::new(
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let api = cx.client.api();
    let before = cx.client.find(t.res, &t.ns, &t.name).is_some();
    let done = api
        .patch(t.res, &t.ns, &t.name, &t.sub, &patch, &options)
        .await;
    let code = if before { 200 } else { 201 };
    let done = done.map(|o| read::one(code, t.res, &o, form, input.query));
    Ok(warned(done, &options))
}

fn patch_of(input: &Input<'_>) -> Result<Patch> {
    let media = input
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let content = |kind| body::object(kind, &input.body);
    let force = input.query.flag("force");
    Ok(match media {
        "application/json-patch+json" => Patch::Json(content(media)?),
        "application/merge-patch+json" => Patch::Merge(content(media)?),
        "application/strategic-merge-patch+json" => Patch::Strategic(content(media)?),
        "application/apply-patch+yaml" => Patch::Apply {
            object: content(media)?,
            force,
        },
        other => {
            return Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "the body of the request was in an unknown format - accepted media types \
                     include: application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml \
                     (found {other})"
                ),
            ));
        }
    })
}

/// `PUT …/scale`, and patches of it.
pub(super) async fn set_scale(
    cx: &Context,
    t: &Target,
    input: &Input<'_>,
    change: ScaleChange,
) -> Result<Answer> {
    let options = input.options()?;
    let done = cx
        .client
        .api()
        .set_scale(t.res, &t.ns, &t.name, &change, &options)
        .await?;
    Ok(json_answer(200, &done))
}

/// `POST …/serviceaccounts/{name}/token`.
pub(super) fn token(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let answer = tokens::request(&cx.client, &t.ns, &t.name, &input.object()?)?;
    Ok(json_answer(201, &answer))
}

/// Nobody gives others more than they have: a write of a role or binding is tried without writing,
/// and what would come of it is looked at.
pub(super) async fn check_grant(
    cx: &Context,
    t: &Target,
    input: &Input<'_>,
    user: &User,
    method: &Method,
) -> Result<()> {
    let granting = t.res.group == "rbac.authorization.k8s.io" && t.sub.is_empty();
    if !granting || user.is_master() || *method == Method::DELETE {
        return Ok(());
    }
    let options = WriteOptions {
        dry_run: true,
        ..input.options()?
    };
    let api = cx.client.api();
    let object = match method.as_str() {
        "POST" => api.create(t.res, &t.ns, input.object()?, &options).await?,
        "PUT" => {
            api.update(t.res, &t.ns, "", input.object()?, &options)
                .await?
        }
        _ => {
            let patch = patch_of(input)?;
            api.patch(t.res, &t.ns, &t.name, "", &patch, &options)
                .await?
        }
    };
    rbac::check_write(&cx.client, user, t.res, &t.ns, object.value())
}

fn done() -> Answer {
    json_answer(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

/// `POST …/pods/{name}/binding`.
pub(super) async fn bind(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let binding = input.object()?;
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    let options = input.options()?;
    cx.client
        .api()
        .bind(&t.ns, &t.name, uid, node, &options)
        .await?;
    Ok(done())
}

/// `POST …/pods/{name}/eviction`.
pub(super) async fn evict(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let eviction = input.object()?;
    cx.client
        .api()
        .evict(&t.ns, &t.name, &eviction, input.query.dry_run()?)
        .await?;
    Ok(done())
}

pub(super) async fn delete(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let options = delete_options(input)?;
    let last = cx.client.delete(t.res, &t.ns, &t.name, &options).await?;
    let gone = cx
        .client
        .find(t.res, &t.ns, &t.name)
        .is_none_or(|o| o.uid() != last.uid());
    if gone && !t.res.returns_deleted {
        return Ok(json_answer(200, &success(t, &last)));
    }
    Ok(read::one(
        200,
        t.res,
        &last,
        accept::form(input.accept)?,
        input.query,
    ))
}

fn success(t: &Target, last: &Object) -> Value {
    let mut details = json!({"name": t.name, "kind": t.res.plural, "uid": last.uid()});
    if !t.res.group.is_empty() {
        details["group"] = json!(t.res.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

pub(super) async fn delete_all(cx: &Context, t: &Target, input: &Input<'_>) -> Result<Answer> {
    let options = delete_options(input)?;
    let selector = input.query.selector()?;
    read::check_fields(t.res, selector.field_paths())?;
    let list = cx.client.list(t.res, &t.ns, &selector);
    let mut items = Vec::new();
    for o in &list.items {
        match cx
            .client
            .delete(t.res, o.namespace(), o.name(), &options)
            .await
        {
            Ok(last) => items.push(last.value().clone()),
            Err(s) if s.is_not_found() => {}
            Err(s) => return Err(s),
        }
    }
    let rv = cx.client.api().resource_version().to_string();
    let kind = format!("{}List", t.res.kind);
    Ok(json_answer(
        200,
        &json!({"kind": kind, "apiVersion": t.res.api_version(), "metadata": {"resourceVersion": rv},
                "items": items}),
    ))
}

/// From the body (a DeleteOptions) or, for what it leaves out, from the query.
fn delete_options(input: &Input<'_>) -> Result<DeleteOptions> {
    let body = if input.body.is_empty() {
        json!({})
    } else {
        input.object()?
    };
    let query = input.query;
    let policy = body["propagationPolicy"]
        .as_str()
        .or(query.get("propagationPolicy"));
    let orphan = body["orphanDependents"].as_bool();
    let propagation = match (policy, orphan) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some(other), _) => {
            return Err(Status::bad_request(format!(
                "propagationPolicy: Unsupported value: \"{other}\": supported values: \
                 \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
        (None, None) => None,
    };
    let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_period_seconds: body["gracePeriodSeconds"]
            .as_i64()
            .or(query.int("gracePeriodSeconds")?),
        propagation,
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        dry_run: query.dry_run()? || body["dryRun"].as_array().is_some_and(|a| !a.is_empty()),
    })
}
