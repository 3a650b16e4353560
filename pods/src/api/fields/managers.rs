//! `metadata.managedFields`: who owns what, and since when.

use serde_json::{Value, json};

use super::Set;
use super::walk::{self, Shape};
use crate::api::meta::now;
use crate::api::resource::Res;
use crate::api::schema::{Schema, Type};

/// Fields that nobody owns.
const UNOWNED: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
];

/// How somebody owns fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub name: String,
    /// By applying, or by any other write.
    pub applies: bool,
    pub subresource: String,
    pub version: String,
}

/// An entry of `managedFields`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub manager: Manager,
    pub set: Set,
    pub time: String,
}

/// The type of a kind, if its shape is known.
pub(super) fn type_of(res: Res) -> Option<Type> {
    if let Some(custom) = res.custom {
        return Some(custom.ty());
    }
    Schema::get()
        .kind(res.group, res.version, res.kind)
        .map(Type::Struct)
}

/// A set without the fields that nobody owns.
pub(super) fn owned(mut set: Set) -> Set {
    for path in UNOWNED {
        drop_path(&mut set, path);
    }
    set
}

fn drop_path(set: &mut Set, path: &[&str]) {
    match path {
        [] => {}
        [last] => drop(set.kids.remove(*last)),
        [first, rest @ ..] => {
            if let Some(kid) = set.kids.get_mut(*first) {
                drop_path(kid, rest);
                if kid.kids.is_empty() {
                    set.kids.remove(*first);
                }
            }
        }
    }
}

/// Reads an object's entries.
pub(super) fn read(object: &Value) -> Vec<Entry> {
    let all = object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.map(|e| Entry {
        manager: Manager {
            name: text(&e["manager"]),
            applies: e["operation"] == "Apply",
            subresource: text(&e["subresource"]),
            version: text(&e["apiVersion"]),
        },
        set: Set::from_value(&e["fieldsV1"]),
        time: text(&e["time"]),
    })
    .collect()
}

/// Writes entries into an object; those without fields are left out.
pub(super) fn write(object: &mut Value, entries: &[Entry]) {
    let all: Vec<Value> = entries
        .iter()
        .filter(|e| !e.set.is_empty())
        .map(|e| {
            let operation = if e.manager.applies { "Apply" } else { "Update" };
            let mut out = json!({"manager": e.manager.name, "operation": operation,
                "apiVersion": e.manager.version, "time": e.time, "fieldsType": "FieldsV1",
                "fieldsV1": e.set.to_value()});
            if !e.manager.subresource.is_empty() {
                out["subresource"] = json!(e.manager.subresource);
            }
            out
        })
        .collect();
    if let Some(meta) = object["metadata"].as_object_mut() {
        if all.is_empty() {
            meta.remove("managedFields");
        } else {
            meta.insert("managedFields".into(), Value::Array(all));
        }
    }
}

/// The entry of a manager, made when there is none.
pub(super) fn entry<'a>(all: &'a mut Vec<Entry>, manager: &Manager) -> &'a mut Entry {
    let found = all.iter().position(|e| e.manager == *manager);
    let at = found.unwrap_or_else(|| {
        all.push(Entry {
            manager: manager.clone(),
            set: Set::default(),
            time: now(),
        });
        all.len() - 1
    });
    &mut all[at]
}

/// After a write that is not an apply: what it changed belongs to the writer. An object that was
/// never applied is not tracked.
pub(in crate::api) fn track(res: Res, sub: &str, name: &str, old: &Value, new: &mut Value) {
    let untouched = old["metadata"]["managedFields"].clone();
    let cleared = new["metadata"]["managedFields"].as_array();
    if untouched.is_null() || cleared.is_some_and(|a| a.is_empty() || *a == [json!({})]) {
        // A user may end the tracking by writing an empty list.
        write(new, &[]);
        return;
    }
    new["metadata"]["managedFields"] = untouched;
    let Some(ty) = type_of(res) else { return };
    let (changed, removed) = walk::compare(old, new, Shape::of(&ty));
    let (changed, removed) = (owned(changed), owned(removed));
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    let manager = Manager {
        name: if name.is_empty() {
            "unknown".into()
        } else {
            name.into()
        },
        applies: false,
        subresource: sub.into(),
        version: res.api_version(),
    };
    let mut all = read(old);
    for e in &mut all {
        e.set = e.set.without(&removed);
        if e.manager != manager {
            e.set = e.set.without(&changed);
        }
    }
    if !changed.is_empty() {
        let own = entry(&mut all, &manager);
        own.set.join(changed);
        own.time = now();
    }
    write(new, &all);
}
