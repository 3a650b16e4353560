//! What the API knows of a kind: its names and its rules. One `static` per kind, in a file of its
//! own under `kinds/`.

use serde_json::Value;

use super::auth::User;
use super::client::Client;
use super::custom::Custom;
use super::status::Result;
use super::table::{self, Column};
use super::validate::{
    Faults,
    names::{self, Wrong},
};
use super::versions::{self, Version};
use crate::store::Object;

/// A part of an object with a path of its own.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// Last part of the path.
    pub name: &'static str,
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// Kind of what is sent, where it is not the object's.
    pub kind: Option<&'static str>,
    /// Group of that kind.
    pub group: Option<&'static str>,
    /// Version of that kind.
    pub version: Option<&'static str>,
}

impl Subresource {
    /// Of the object's own kind.
    pub const fn own(name: &'static str, verbs: &'static [&'static str]) -> Self {
        Self {
            name,
            verbs,
            kind: None,
            group: None,
            version: None,
        }
    }

    /// Of another kind.
    pub const fn of(
        name: &'static str,
        verbs: &'static [&'static str],
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            name,
            verbs,
            kind: Some(kind),
            group: Some(group),
            version: Some(version),
        }
    }
}

const STATUS: Subresource = Subresource::own("status", &["get", "patch", "update"]);
const SCALE: Subresource = Subresource::of(
    "scale",
    &["get", "patch", "update"],
    "autoscaling",
    "v1",
    "Scale",
);
const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Who asks a question, and where.
pub struct Asker<'a> {
    /// The API.
    pub client: &'a Client,
    /// Who.
    pub user: &'a User,
    /// The namespace of the path, or empty.
    pub namespace: &'a str,
}

/// Fills in the answer to a question.
pub type Answer = fn(&Asker<'_>, &mut Value) -> Result<()>;

/// A kind that the API serves.
pub struct Resource {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Whether objects survive a restart.
    pub durable: bool,
    /// Whether `status` is a subresource.
    pub has_status: bool,
    /// Whether `scale` is a subresource (`spec.replicas`, `status.replicas`, `spec.selector`).
    pub has_scale: bool,
    /// Whether a deletion that is done at once answers with the object, not with a `Status`.
    pub returns_deleted: bool,
    /// Subresources beside `status` and `scale`.
    pub extra: &'static [Subresource],
    /// Fields that may be selected by, beside name and namespace.
    pub fields: &'static [&'static str],
    /// Columns of `kubectl get`.
    pub columns: &'static [Column],
    /// Cells of a row, one for each column.
    pub row: fn(&Object) -> Vec<Value>,
    /// For a kind that is asked and not kept: fills in the answer.
    pub answer: Option<Answer>,
    /// For a kind that a CustomResourceDefinition declares: what it says.
    pub custom: Option<&'static Custom>,
    /// For a kind whose objects are another kind's: how they are shown here.
    pub version_of: Option<&'static Version>,
    /// Measured when asked for: there is nothing to write or to watch.
    pub measured: bool,
    /// Whether `metadata.generation` counts the changes of what is wanted.
    pub generation: bool,
    /// Rule of names.
    pub name_rule: fn(&str) -> Wrong,
    /// Sets what a user may not choose at creation: the status, above all.
    pub prepare: fn(&mut Value),
    /// Fills in what the user left out; doing it twice is as once.
    pub defaults: fn(&mut Value),
    /// Finds the faults of an object, after defaulting, beside those of its metadata.
    pub validate: fn(&Value, &mut Faults),
    /// Finds the faults of a change (old, new), beside those of [`Resource::validate`].
    pub validate_update: fn(&Value, &Value, &mut Faults),
}

/// A reference to a kind, as every call takes it.
pub type Res = &'static Resource;

impl Resource {
    /// A durable, namespaced kind without rules; a kind's file overrides what differs.
    pub const BASE: Self = Self {
        group: "",
        version: "v1",
        plural: "",
        singular: "",
        kind: "",
        namespaced: true,
        short_names: &[],
        categories: &[],
        durable: true,
        has_status: false,
        has_scale: false,
        returns_deleted: false,
        extra: &[],
        fields: &[],
        columns: table::NAME_AGE,
        row: table::name_age,
        answer: None,
        custom: None,
        version_of: None,
        measured: false,
        generation: false,
        name_rule: names::subdomain,
        prepare: |o| drop(o.as_object_mut().map(|m| m.remove("status"))),
        defaults: |_| {},
        validate: |_, _| {},
        validate_update: |_, _, _| {},
    };

    /// `deployments.apps`, or `pods` for the core group: the name in messages, and the store's key.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.into()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The kind that keeps the objects: itself, but for another version of one.
    pub fn kept_as(&'static self) -> Res {
        self.version_of.map_or(self, |version| version.of)
    }

    /// Fills in what the user left out.
    pub(super) fn fill(&self, object: &mut Value) {
        match self.custom {
            Some(custom) => custom.default(object),
            None => (self.defaults)(object),
        }
    }

    /// Finds the faults of an object.
    pub(super) fn check(&'static self, object: &Value, faults: &mut Faults) {
        if let Some(custom) = self.custom {
            return custom.validate(object, faults);
        }
        (self.validate)(object, faults);
        if let Some(version) = self.version_of {
            let mut kept = versions::kept(self, object.clone());
            version.of.fill(&mut kept);
            version.of.check(&kept, faults);
        }
    }

    /// Cells of a row of `kubectl get`.
    pub fn cells(&'static self, object: &Object) -> Vec<Value> {
        if let Some(custom) = self.custom {
            return custom.row(object);
        }
        if let Some(version) = self.version_of {
            let kept = versions::kept(self, object.value().clone());
            return version
                .of
                .cells(&Object::from_value(object.resource_version(), kept));
        }
        (self.row)(object)
    }

    /// Verbs on the objects themselves.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.answer.is_some() {
            &["create"]
        } else if self.measured {
            &["get", "list"]
        } else {
            VERBS
        }
    }

    /// All subresources.
    pub fn subresources(&self) -> impl Iterator<Item = Subresource> {
        let status = self.has_status.then_some(STATUS);
        let scale = self.has_scale.then_some(SCALE);
        self.extra.iter().copied().chain(scale).chain(status)
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.into()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.plural)
    }
}
