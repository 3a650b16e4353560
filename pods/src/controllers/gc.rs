//! What becomes of an object whose owners go: the plan of the garbage collector.
//!
//! A dependent goes when none of the owners it names exists any more; while one does, references to
//! the others are taken away. An owner that is deleted in the foreground waits, by a finalizer, for
//! the dependents that block it; one whose dependents are orphaned waits for them to be let go.

use serde_json::Value;

use crate::api::Propagation;
use crate::api::delete::{FOREGROUND, ORPHAN};

/// How an owner that a reference names is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It exists.
    Solid,
    /// It is being deleted in the foreground: it waits for its dependents.
    Waiting,
    /// It does not exist, or another object has its name now.
    Absent,
    /// Its kind is not served here: nothing can be said of it.
    Unknown,
}

/// What to do with an object.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Nothing.
    Keep,
    /// Take away references to owners with these uids.
    Unlink(Vec<String>),
    /// Delete it.
    Delete(Propagation),
}

/// The plan for a dependent; `owners` are the states of its ownerReferences, in their order.
pub fn dependent(object: &Value, owners: &[Owner], has_dependents: bool) -> Plan {
    let references = object["metadata"]["ownerReferences"].as_array();
    let references = references.map_or(&[][..], Vec::as_slice);
    if references.is_empty() || object["metadata"]["deletionTimestamp"].is_string() {
        return Plan::Keep;
    }
    let with = |state: Owner| owners.iter().filter(|o| **o == state).count();
    if with(Owner::Solid) + with(Owner::Unknown) > 0 {
        let gone = references.iter().zip(owners);
        let gone = gone.filter(|(_, o)| matches!(o, Owner::Absent | Owner::Waiting));
        let uids: Vec<String> = gone
            .map(|(r, _)| r["uid"].as_str().unwrap_or_default().to_owned())
            .collect();
        return if uids.is_empty() {
            Plan::Keep
        } else {
            Plan::Unlink(uids)
        };
    }
    if with(Owner::Waiting) > 0 && has_dependents {
        return Plan::Delete(Propagation::Foreground);
    }
    // A user's own wish for the object is kept.
    let holds = |name: &str| finalizers(object).any(|f| f == name);
    Plan::Delete(match (holds(ORPHAN), holds(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    })
}

/// Finalizers of an object.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let all = object["metadata"]["finalizers"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str)
}

/// Which of the collector's finalizers an object that is being deleted has.
pub fn waits_for(object: &Value) -> Option<&'static str> {
    if !object["metadata"]["deletionTimestamp"].is_string() {
        return None;
    }
    let found = |name: &str| finalizers(object).any(|f| f == name);
    [ORPHAN, FOREGROUND].into_iter().find(|f| found(f))
}

/// Whether a dependent keeps an owner that is deleted in the foreground.
pub fn blocks(dependent: &Value, owner: &str) -> bool {
    let all = dependent["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten();
    all.clone()
        .any(|r| r["uid"] == owner && r["blockOwnerDeletion"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(owners: usize) -> Value {
        let all: Vec<Value> = (0..owners).map(|i| json!({"uid": i.to_string()})).collect();
        json!({"metadata": {"ownerReferences": all}})
    }

    #[test]
    fn the_last_owner_takes_it_along() {
        use Owner::{Absent, Solid, Unknown, Waiting};
        let of = |owners: &[Owner], deps| dependent(&with(owners.len()), owners, deps);
        assert_eq!(of(&[], false), Plan::Keep);
        assert_eq!(of(&[Solid], false), Plan::Keep);
        assert_eq!(of(&[Unknown], false), Plan::Keep);
        assert_eq!(of(&[Absent], false), Plan::Delete(Propagation::Background));
        assert_eq!(of(&[Absent, Solid], false), Plan::Unlink(vec!["0".into()]));
        assert_eq!(of(&[Waiting], true), Plan::Delete(Propagation::Foreground));
        assert_eq!(of(&[Waiting], false), Plan::Delete(Propagation::Background));
    }

    #[test]
    fn what_goes_already_is_left_alone() {
        let mut o = with(1);
        o["metadata"]["deletionTimestamp"] = json!("x");
        assert_eq!(dependent(&o, &[Owner::Absent], false), Plan::Keep);
        o["metadata"]["finalizers"] = json!(["a/b", "foregroundDeletion"]);
        assert_eq!(waits_for(&o), Some(FOREGROUND));
    }
}
