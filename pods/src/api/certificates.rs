//! The ways of a CertificateSigningRequest that other kinds have not: who asks is written into it,
//! and a decision has a path and a right of its own.

use serde_json::{Value, json};

use super::auth::request::Request;
use super::auth::{Access, MASTERS, User, rbac};
use super::client::Client;
use super::kinds::{CERTIFICATE_SIGNING_REQUEST as CSR, request_is as is};
use super::status::{Result, Status};

/// Signs clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs nodes as clients of the API.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// Writes into a new request who made it, and refuses one for the group that may do everything.
pub(super) fn stamp(object: &mut Value, user: &User) -> Result<()> {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if object["spec"]["signerName"] == CLIENT
        && let Ok(request) = Request::of_object(object)
        && request.groups.iter().any(|group| group == MASTERS)
    {
        let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
        return Err(Status::forbidden(&CSR, &name, &why));
    }
    let spec = &mut object["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("extra");
        spec.remove("uid");
    }
    spec["username"] = json!(user.name);
    spec["groups"] = json!(user.groups);
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    Ok(())
}

/// The old object with the conditions of the new one, which is all that a decision changes.
pub(super) fn decide(was: &Value, new: &Value) -> Value {
    let mut out = was.clone();
    for (part, field) in [("status", "conditions"), ("metadata", "managedFields")] {
        let value = &new[part][field];
        if !value.is_null() {
            out[part][field] = value.clone();
        } else if let Some(map) = out.get_mut(part).and_then(Value::as_object_mut) {
            map.remove(field);
        }
    }
    let now = super::meta::now();
    for condition in out["status"]["conditions"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if condition[field].is_null() {
                condition[field] = json!(now);
            }
        }
    }
    out
}

/// Who signs does not decide.
pub(super) fn check_status(was: &Value, new: &Value) -> Result<()> {
    for kind in ["Approved", "Denied"] {
        if is(was, kind) != is(new, kind) {
            let name = was["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("updates may not add or remove a condition of type {kind:?} here");
            return Err(Status::forbidden(&CSR, name, &why));
        }
    }
    Ok(())
}

/// Who decides, or writes the certificate, needs a right to the signer beside that to the object.
pub(super) fn authorize(client: &Client, user: &User, name: &str, sub: &str) -> Result<()> {
    let verb = match sub {
        "approval" => "approve",
        "status" => "sign",
        _ => return Ok(()),
    };
    let stored = client.get(&CSR, "", name)?;
    let signer = stored.str_at("/spec/signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    let may = [signer.to_owned(), format!("{domain}/*")]
        .iter()
        .any(|name| {
            let access = Access {
                verb: verb.to_owned(),
                group: CSR.group.to_owned(),
                resource: "signers".to_owned(),
                name: name.clone(),
                ..Access::default()
            };
            rbac::allowed(client, user, &access).0
        });
    if may {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(&CSR, name, &why))
}
