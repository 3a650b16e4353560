//! Who owns which field: the sets of server-side apply, in the form of `managedFields`.
//!
//! A set is a tree. Steps are `f:name` (a field, or a key of a map), `k:{…}` (an element of a list
//! with keys) and `v:…` (an element of a list that is a set).
//!
//! As in Kubernetes, nothing is tracked before an object is applied for the first time; what it has
//! then belongs to the manager `before-first-apply`.

mod apply;
mod managers;
mod walk;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(super) use apply::{Applied, apply};
pub(super) use managers::track;

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Whether the path that leads here is itself a member.
    own: bool,
    kids: BTreeMap<String, Set>,
}

impl Set {
    /// A path alone.
    fn leaf() -> Self {
        Self {
            own: true,
            kids: BTreeMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        !self.own && self.kids.is_empty()
    }

    fn add(&mut self, step: String, set: Self) {
        if !set.is_empty() {
            self.kids.entry(step).or_default().join(set);
        }
    }

    /// Everything of both.
    fn join(&mut self, other: Self) {
        self.own |= other.own;
        for (step, set) in other.kids {
            self.kids.entry(step).or_default().join(set);
        }
    }

    /// What both have.
    fn common(&self, other: &Self) -> Self {
        let kids = self.kids.iter().filter_map(|(step, a)| {
            let set = a.common(other.kids.get(step)?);
            (!set.is_empty()).then(|| (step.clone(), set))
        });
        Self {
            own: self.own && other.own,
            kids: kids.collect(),
        }
    }

    /// What the other has not.
    fn without(&self, other: &Self) -> Self {
        let kids = self.kids.iter().filter_map(|(step, a)| {
            let set = other
                .kids
                .get(step)
                .map_or_else(|| a.clone(), |b| a.without(b));
            (!set.is_empty()).then(|| (step.clone(), set))
        });
        Self {
            own: self.own && !other.own,
            kids: kids.collect(),
        }
    }

    /// Every path, as people read it: `.spec.ports[containerPort=80].name`.
    fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.write_paths("", &mut out);
        out
    }

    fn write_paths(&self, prefix: &str, out: &mut Vec<String>) {
        if self.own {
            out.push(prefix.to_owned());
        }
        for (step, set) in &self.kids {
            let shown = match step.split_at(2) {
                ("f:", name) => format!("{prefix}.{name}"),
                ("k:", keys) => format!("{prefix}[{}]", keys_for_people(keys)),
                (_, value) => format!("{prefix}[={value}]"),
            };
            set.write_paths(&shown, out);
        }
    }

    /// `fieldsV1`.
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.kids.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (step, set) in &self.kids {
            map.insert(step.clone(), set.to_value());
        }
        Value::Object(map)
    }

    fn from_value(value: &Value) -> Self {
        fn inner(value: &Value) -> Set {
            let mut set = Set::default();
            for (step, v) in value.as_object().into_iter().flatten() {
                if step == "." {
                    set.own = true;
                } else if matches!(step.get(..2), Some("f:" | "k:" | "v:")) {
                    set.kids.insert(step.clone(), inner(v));
                }
            }
            set.own |= set.kids.is_empty();
            set
        }
        let mut set = inner(value);
        // The root is no field.
        set.own = false;
        set
    }
}

fn keys_for_people(keys: &str) -> String {
    let parsed: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
    let all = parsed.iter().map(|(k, v)| format!("{k}={v}"));
    all.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_are_what_managed_fields_say() {
        let v = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:x": {}}});
        let set = Set::from_value(&v);
        assert_eq!(set.to_value(), v);
        assert_eq!(
            set.paths(),
            [
                ".spec.containers[name=\"a\"]",
                ".spec.containers[name=\"a\"].image",
                ".spec.x"
            ]
        );
        let x = Set::from_value(&json!({"f:spec": {"f:x": {}, "f:y": {}}}));
        assert_eq!(set.common(&x).paths(), [".spec.x"]);
        assert_eq!(x.without(&set).paths(), [".spec.y"]);
        let mut both = set.clone();
        both.join(x);
        assert_eq!(both.paths().len(), 4);
        assert!(set.without(&set).is_empty());
    }
}
