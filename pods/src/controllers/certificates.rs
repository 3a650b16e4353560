//! CertificateSigningRequest: signs what was approved, and removes what is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::drive::{Controller, Key, Mapper, itself};
use crate::api::auth::request::Request;
use crate::api::certificates::{CLIENT, NODE_CLIENT};
use crate::api::http::sign::Wanted;
use crate::api::http::tls::Authority;
use crate::api::kinds::CERTIFICATE_SIGNING_REQUEST as CSR;
use crate::api::validate::{items, text};
use crate::api::{Client, DeleteOptions, Res, Status, now};

/// How long a certificate lasts where nothing is asked for.
const USUAL_LIFE: i64 = 365 * 24 * 3600;
/// How long requests stay: undecided, and after they were decided, as in Kubernetes.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
const DECIDED: SignedDuration = SignedDuration::from_hours(1);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is approved, and one of ours to sign.
    Sign,
    /// It has been there for long enough.
    Remove,
    /// Nothing before this has passed.
    Wait(SignedDuration),
}

/// Plans for a request at an instant.
pub fn plan(request: &Value, now: Timestamp) -> Plan {
    let conditions = || items(&request["status"]["conditions"]).map(|(_, c)| c);
    let of = |kind: &str| conditions().find(|c| c["type"] == kind);
    let signed = !text(&request["status"], "certificate").is_empty();
    let ours = [CLIENT, NODE_CLIENT].contains(&text(&request["spec"], "signerName"));
    if ours && !signed && of("Approved").is_some() && of("Denied").or(of("Failed")).is_none() {
        return Plan::Sign;
    }
    let decided = ["Approved", "Denied", "Failed"].into_iter().find_map(of);
    let (since, stays) = match decided {
        Some(condition) => (text(condition, "lastUpdateTime"), DECIDED),
        None => (text(&request["metadata"], "creationTimestamp"), PENDING),
    };
    let since: Timestamp = since.parse().unwrap_or(now);
    let left = stays - now.duration_since(since);
    if left.is_positive() {
        Plan::Wait(left)
    } else {
        Plan::Remove
    }
}

/// What is to be signed; the error says why it cannot be.
pub fn wanted(request: &Value) -> Result<(Request, Wanted), String> {
    let spec = &request["spec"];
    let parsed = Request::of_object(request)?;
    let usages: Vec<&str> = items(&spec["usages"])
        .filter_map(|(_, u)| u.as_str())
        .collect();
    let known = ["client auth", "digital signature", "key encipherment"];
    let client = usages.contains(&"client auth") && usages.iter().all(|u| known.contains(u));
    if !client {
        return Err(format!("invalid usage for client certificate: {usages:?}"));
    }
    if spec["signerName"] == NODE_CLIENT {
        let node = parsed.name.starts_with("system:node:") && parsed.groups == ["system:nodes"];
        if !node || parsed.alternative_names.is_some() {
            return Err(
                "subject of a node's client certificate must be O=system:nodes, \
                CN=system:node:NAME, without alternative names"
                    .to_owned(),
            );
        }
    }
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(USUAL_LIFE);
    let wanted = Wanted {
        life: SignedDuration::from_secs(seconds.min(USUAL_LIFE)),
        key_encipherment: usages.contains(&"key encipherment"),
    };
    Ok((parsed, wanted))
}

/// See the module.
pub struct Certificates {
    client: Client,
    authority: Arc<Authority>,
}

impl Certificates {
    /// A controller that signs with `authority`.
    pub fn new(client: &Client, authority: &Arc<Authority>) -> Self {
        Self {
            client: client.named("certificate-controller"),
            authority: authority.clone(),
        }
    }

    async fn sign(&self, request: &Value, at: Timestamp) -> Result<(), Status> {
        let signed = wanted(request).and_then(|(parsed, wanted)| {
            let signed = self.authority.sign(&parsed, wanted, at);
            signed.map_err(|why| format!("{why:#}"))
        });
        let mut new = request.clone();
        let status = &mut new["status"];
        match signed {
            Ok(pem) => {
                use base64::Engine as _;
                let text = base64::engine::general_purpose::STANDARD.encode(pem);
                status["certificate"] = json!(text);
            }
            Err(why) => {
                let failed = json!({"type": "Failed", "status": "True", "message": why,
                    "reason": "SignerValidationFailure",
                    "lastUpdateTime": now(), "lastTransitionTime": now()});
                if let Some(conditions) = status["conditions"].as_array_mut() {
                    conditions.push(failed);
                }
            }
        }
        // With its version: a decision that was taken back in between counts.
        self.client.update_status(&CSR, "", new).await.map(drop)
    }
}

impl Controller for Certificates {
    const NAME: &'static str = "certificate-signing-requests";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&CSR, itself)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(request) = self.client.find(&CSR, "", &key.1) else {
            return Ok(None);
        };
        let at = Timestamp::now();
        match plan(request.value(), at) {
            Plan::Sign => self.sign(request.value(), at).await?,
            Plan::Wait(left) => return Ok(Some(left.unsigned_abs())),
            Plan::Remove => {
                let options = DeleteOptions::now(request.uid());
                let done = self.client.delete(&CSR, "", &key.1, &options).await;
                if let Err(status) = done
                    && !status.is_not_found()
                {
                    return Err(status);
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn request(signer: &str, condition: &str) -> Value {
        let mut request = json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"signerName": signer}, "status": {"conditions": []}});
        if !condition.is_empty() {
            request["status"]["conditions"] = json!([{"type": condition, "status": "True",
                "lastUpdateTime": "2030-01-01T00:10:00Z"}]);
        }
        request
    }

    #[test]
    fn only_what_is_approved_and_ours_is_signed_once() {
        let now = at("2030-01-01T00:10:00Z");
        assert_eq!(plan(&request(CLIENT, "Approved"), now), Plan::Sign);
        let mut signed = request(CLIENT, "Approved");
        signed["status"]["certificate"] = json!("x");
        let mut denied = request(CLIENT, "Approved");
        denied["status"]["conditions"] = json!([{"type": "Approved"}, {"type": "Denied"}]);
        for other in [
            signed,
            denied,
            request(CLIENT, ""),
            request(CLIENT, "Denied"),
            request("example.com/own", "Approved"),
        ] {
            assert!(matches!(plan(&other, now), Plan::Wait(_)), "{other}");
        }
    }

    #[test]
    fn what_is_over_goes() {
        let open = request("example.com/own", "");
        let wait = |left| Plan::Wait(SignedDuration::from_secs(left));
        assert_eq!(plan(&open, at("2030-01-01T23:59:00Z")), wait(60));
        assert_eq!(plan(&open, at("2030-01-02T00:00:00Z")), Plan::Remove);
        let decided = request("example.com/own", "Approved");
        assert_eq!(plan(&decided, at("2030-01-01T01:09:59Z")), wait(1));
        assert_eq!(plan(&decided, at("2030-01-01T01:10:00Z")), Plan::Remove);
    }
}
