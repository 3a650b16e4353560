//! `CertificateSigningRequest`.

use serde_json::{Value, json};

use crate::api::auth::request::Request;
use crate::api::resource::{Resource, Subresource};
use crate::api::table::{Column, age, human_duration};
use crate::api::validate::{Faults, items, text};
use crate::store::Object;

/// `certificates.k8s.io/v1` `CertificateSigningRequest`.
pub static CERTIFICATE_SIGNING_REQUEST: Resource = Resource {
    group: "certificates.k8s.io",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    kind: "CertificateSigningRequest",
    namespaced: false,
    short_names: &["csr"],
    has_status: true,
    extra: &[Subresource::own("approval", &["get", "patch", "update"])],
    fields: &["spec.signerName"],
    columns: &[
        Column::text("Name"),
        Column::text("Age"),
        Column::text("SignerName"),
        Column::text("Requestor"),
        Column::text("RequestedDuration"),
        Column::text("Condition"),
    ],
    row,
    validate,
    validate_update,
    ..Resource::BASE
};

/// What a certificate may be for.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The shortest life that may be asked for, in seconds.
const SHORTEST: i64 = 600;

/// Whether a condition of this type holds.
pub fn is(request: &Value, kind: &str) -> bool {
    items(&request["status"]["conditions"]).any(|(_, c)| c["type"] == kind)
}

fn validate(request: &Value, faults: &mut Faults) {
    let spec = &request["spec"];
    if let Err(why) = Request::of_object(request) {
        faults.invalid_str("spec.request", text(spec, "request"), why);
    }
    let signer = text(spec, "signerName");
    let named = signer
        .split_once('/')
        .is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty());
    if signer.is_empty() {
        faults.required("spec.signerName", "");
    } else if !named || signer.len() > 571 {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        faults.invalid_str("spec.signerName", signer, why);
    }
    let mut seen = Vec::new();
    for (i, usage) in items(&spec["usages"]) {
        let name = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&name) {
            faults.unsupported(format!("spec.usages[{i}]"), name, USAGES);
        } else if seen.contains(&name) {
            faults.invalid(format!("spec.usages[{i}]"), usage, "duplicate value");
        }
        seen.push(name);
    }
    if seen.is_empty() {
        faults.required("spec.usages", "");
    }
    if spec["expirationSeconds"]
        .as_i64()
        .is_some_and(|s| s < SHORTEST)
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        faults.invalid("spec.expirationSeconds", &spec["expirationSeconds"], why);
    }
    check_conditions(request, faults);
}

fn check_conditions(request: &Value, faults: &mut Faults) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in items(&request["status"]["conditions"]) {
        let at = format!("status.conditions[{i}]");
        let kind = text(condition, "type");
        if kind.is_empty() {
            faults.required(format!("{at}.type"), "");
        }
        let final_one = ["Approved", "Denied", "Failed"].contains(&kind);
        if final_one && condition["status"] != "True" {
            let found = text(condition, "status");
            faults.unsupported(format!("{at}.status"), found, &["True"]);
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(&kind) {
            faults.invalid_str(format!("{at}.type"), kind, "duplicate value");
        } else if seen.contains(&other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            faults.invalid_str(format!("{at}.type"), kind, why);
        }
        seen.push(kind);
    }
}

/// What was asked for, and a decision, stay as they are.
fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    for kind in ["Approved", "Denied", "Failed"] {
        if is(old, kind) && !is(new, kind) {
            let why = format!("updates may not remove a condition of type \"{kind}\"");
            faults.forbidden("status.conditions", why);
        }
    }
}

fn row(o: &Object) -> Vec<Value> {
    let conditions = o.at("/status/conditions");
    let has = |kind: &str| items(conditions).any(|(_, c)| c["type"] == kind);
    let mut state: Vec<&str> = ["Approved", "Denied", "Failed"]
        .into_iter()
        .filter(|kind| has(kind))
        .collect();
    if state.is_empty() {
        state.push("Pending");
    }
    if !o.str_at("/status/certificate").is_empty() {
        state.push("Issued");
    }
    let life = o.int_at("/spec/expirationSeconds");
    vec![
        json!(o.name()),
        json!(age(o.at("/metadata/creationTimestamp"))),
        json!(o.str_at("/spec/signerName")),
        json!(o.str_at("/spec/username")),
        json!(life.map_or_else(|| "<none>".to_owned(), human_duration)),
        json!(state.join(",")),
    ]
}
