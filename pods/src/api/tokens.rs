//! `TokenRequest`: tokens of ServiceAccounts on request.

use serde_json::{Value, json};

use super::auth::token::{Bound, DEFAULT_SECONDS, Wanted};
use super::client::Client;
use super::kinds;
use super::meta;
use super::status::{Cause, Result, Status};
use super::validate::text;

/// The shortest life of a token in seconds.
const SHORTEST: i64 = 600;
/// The longest.
const LONGEST: i64 = 1 << 32;

/// Fills in the answer to a TokenRequest for an account.
pub(super) fn request(client: &Client, ns: &str, account: &str, asked: &Value) -> Result<Value> {
    let spec = &asked["spec"];
    let seconds = spec["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    let fault = match seconds {
        ..SHORTEST => "may not specify a duration less than 10 minutes",
        LONGEST.. => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !fault.is_empty() {
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {seconds}: {fault}"),
            field: "spec.expirationSeconds".into(),
        };
        let (group, kind) = ("authentication.k8s.io", "TokenRequest");
        return Err(Status::invalid_kind(group, kind, "", vec![cause]));
    }
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences = audiences.filter_map(|a| a.as_str().map(str::to_owned));
    let bound = &spec["boundObjectRef"];
    let bound = if bound.is_object() {
        Some(bound_to(client, ns, bound)?)
    } else {
        None
    };
    let (token, end) = client.token(ns, account, audiences.collect(), seconds, bound)?;
    let mut answer = asked.clone();
    answer["apiVersion"] = json!("authentication.k8s.io/v1");
    answer["kind"] = json!("TokenRequest");
    answer["metadata"] =
        json!({"name": account, "namespace": ns, "creationTimestamp": meta::now()});
    answer["spec"]["expirationSeconds"] = json!(seconds);
    let end = jiff::Timestamp::from_second(end).map_err(Status::internal)?;
    answer["status"] = json!({"token": token, "expirationTimestamp": end.to_string()});
    Ok(answer)
}

fn bound_to(client: &Client, ns: &str, reference: &Value) -> Result<Bound> {
    let (res, ns) = match text(reference, "kind") {
        "Pod" => (&kinds::POD, ns),
        "Secret" => (&kinds::SECRET, ns),
        "Node" => (&kinds::NODE, ""),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to object of kind \"{other}\""
            )));
        }
    };
    let found = client.get(res, ns, text(reference, "name"))?;
    let uid = text(reference, "uid");
    if !uid.is_empty() && uid != found.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({})",
            found.uid()
        );
        return Err(Status::conflict(res, found.name(), &why));
    }
    Ok(Bound {
        kind: res.singular.to_owned(),
        name: found.name().to_owned(),
        uid: found.uid().to_owned(),
    })
}

impl Client {
    /// A token of a ServiceAccount, and the second that it ends at.
    pub fn token(
        &self,
        ns: &str,
        account: &str,
        audiences: Vec<String>,
        seconds: i64,
        bound: Option<Bound>,
    ) -> Result<(String, i64)> {
        let Some(tokens) = self.tokens() else {
            return Err(Status::new(503, "ServiceUnavailable", "no key of tokens"));
        };
        let found = self.get(&kinds::SERVICE_ACCOUNT, ns, account)?;
        let wanted = Wanted {
            namespace: ns.to_owned(),
            account: account.to_owned(),
            uid: found.uid().to_owned(),
            audiences,
            seconds,
            bound,
        };
        tokens
            .issue(&wanted, jiff::Timestamp::now().as_second())
            .map_err(Status::internal)
    }
}
