//! What the API knows of a kind: its names and its rules. One `static` per kind, in a file of its
//! own under `kinds/`.

use serde_json::Value;

use super::status::Cause;

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
    /// Whether `status` is a subresource, and `metadata.generation` counts changes of the rest.
    pub has_status: bool,
    /// Fills in what the user left out.
    pub defaults: fn(&mut Value),
    /// Finds the faults of a new object, after defaulting.
    pub validate: fn(&Value, &mut Vec<Cause>),
    /// Finds the faults of a change (old, new), beside those of [`Resource::validate`].
    pub validate_update: fn(&Value, &Value, &mut Vec<Cause>),
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
