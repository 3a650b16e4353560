//! Who asks, and what they may do.
//!
//! ```text
//! unix socket (root) ─────────┐
//! certificate of the authority├─▶ User ─▶ impersonation ─▶ rbac ─▶ the verb
//! token of a ServiceAccount ──┘
//! ```

pub mod certificate;
pub mod rbac;
pub mod request;
pub mod roles;
pub mod token;

use serde_json::{Value, json};

pub use token::Tokens;

/// The group that may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `kubernetes-admin`, `system:serviceaccount:default:web`.
    pub name: String,
    /// Of a ServiceAccount, its uid; else empty.
    pub uid: String,
    /// Every group, `system:authenticated` among them.
    pub groups: Vec<String>,
}

impl User {
    /// A user of these groups, and of that of everybody who is known.
    pub fn new(name: &str, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: name.to_owned(),
            uid: String::new(),
            groups,
        }
    }

    /// Nobody who is known.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".to_owned()],
        }
    }

    /// The administrator: root on the unix socket.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", vec![MASTERS.to_owned()])
    }

    /// A ServiceAccount.
    pub fn account(ns: &str, name: &str) -> Self {
        let groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{ns}"),
        ];
        Self::new(&format!("system:serviceaccount:{ns}:{name}"), groups)
    }

    /// Whether no role is asked.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }

    /// As `userInfo` of reviews.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        info
    }
}

/// Namespace and name of a ServiceAccount's user name.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `get`, `list`, …; of a path the HTTP method in lower case.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural; empty where a path is asked for.
    pub resource: String,
    /// Part of the object, or empty.
    pub subresource: String,
    /// Empty for all.
    pub namespace: String,
    /// Empty for all.
    pub name: String,
    /// A path that is no object's, such as `/metrics`.
    pub path: String,
}

impl Access {
    /// `pods`, `pods/log`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal, in Kubernetes' words.
    pub fn refusal(&self, user: &User) -> String {
        if self.resource.is_empty() {
            return format!(
                "User \"{}\" cannot {} path \"{}\"",
                user.name, self.verb, self.path
            );
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group
        )
    }
}
