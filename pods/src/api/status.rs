//! The error of every API call: Kubernetes' `Status` object with its HTTP code, reason and causes.

use serde_json::{Value, json};

use super::resource::Resource;

/// A failure as a client of the Kubernetes API sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound` (metav1.StatusReason).
    pub reason: &'static str,
    /// One line for people.
    pub message: String,
    /// What the failure is about.
    pub details: Option<Box<Details>>,
}

/// `Status.details`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// API group of the object.
    pub group: String,
    /// Kind (for `Invalid`) or plural (for all others) of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object, for conflicts on preconditions.
    pub uid: String,
    /// Each single fault.
    pub causes: Vec<Cause>,
    /// After how many seconds a retry makes sense; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// One fault of a refused object.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// For people, without the field's path.
    pub message: String,
    /// Path, such as `spec.containers[0].image`.
    pub field: String,
}

/// Result of an API call.
pub type Result<T> = std::result::Result<T, Status>;

impl Status {
    /// A failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, res: &Resource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            group: res.group.into(),
            kind: res.plural.into(),
            name: name.into(),
            ..Details::default()
        }));
        self
    }

    /// 404 for an object.
    pub fn not_found(res: &Resource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", res.qualified()),
        )
        .about(res, name)
    }

    /// 409 because the name is taken.
    pub fn already_exists(res: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", res.qualified()),
        )
        .about(res, name)
    }

    /// 409 because the object is not at the version (or uid) that the caller saw.
    pub fn conflict(res: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                res.qualified()
            ),
        )
        .about(res, name)
    }

    /// 409 with Kubernetes' words for a stale resource version.
    pub fn stale(res: &Resource, name: &str) -> Self {
        Self::conflict(
            res,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with every fault of the object.
    pub fn invalid(res: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_kind(res.group, res.kind, name, causes)
    }

    /// 422 with every fault of something that is no object of its own: options, a review.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let all: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let all = if all.len() == 1 {
            all[0].clone()
        } else {
            format!("[{}]", all.join(", "))
        };
        let dot = if group.is_empty() { "" } else { "." };
        let mut status = Self::new(
            422,
            "Invalid",
            format!("{kind}{dot}{group} \"{name}\" is invalid: {all}"),
        );
        status.details = Some(Box::new(Details {
            group: group.into(),
            kind: kind.into(),
            name: name.into(),
            causes,
            ..Details::default()
        }));
        status
    }

    /// 403 for an object.
    pub fn forbidden(res: &Resource, name: &str, why: &str) -> Self {
        Self::new(
            403,
            "Forbidden",
            format!("{} \"{name}\" is forbidden: {why}", res.qualified()),
        )
        .about(res, name)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410: the resource version is older than the history kept.
    pub fn expired(rv: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {rv} ({oldest})"),
        )
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether the caller acted on an old version of the object.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The JSON that goes over the wire.
    pub fn to_value(&self) -> Value {
        let mut out = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(d) = &self.details {
            out["details"] = d.to_value();
        }
        out
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            out.insert(
                "causes".into(),
                causes
                    .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                    .collect(),
            );
        }
        if self.retry_after_seconds > 0 {
            out.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
