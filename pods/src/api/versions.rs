//! Kinds that show the objects of another kind in a version of their own: `autoscaling/v1` beside
//! `autoscaling/v2`, `events.k8s.io` beside the core group's events. There is one set of objects,
//! kept in the shape of the other kind; what is read and written under this one's path is converted.

use std::sync::Arc;

use serde_json::{Value, json};

use super::custom;
use super::resource::Res;
use crate::store::{Object, Selector};

/// How the objects of a kind are shown as another version.
pub struct Version {
    /// The kind that is kept.
    pub of: Res,
    /// From the kept shape, but for `apiVersion` and `kind`.
    pub show: fn(&mut Value),
    /// Into the kept shape. Nothing is lost on the way there and back.
    pub keep: fn(&mut Value),
    /// Fields that may be selected by: the name here, and that of the kept shape.
    pub fields: &'static [(&'static str, &'static str)],
    /// Annotations that stand for what the kept shape has in its status: no user writes them.
    pub own_annotations: &'static [&'static str],
}

/// An object in the shape of a kind.
pub(super) fn shown(res: Res, object: Arc<Object>) -> Arc<Object> {
    let Some(version) = res.version_of else {
        return custom::shown(res, object);
    };
    let mut value = object.value().clone();
    (version.show)(&mut value);
    name(res, &mut value);
    Object::from_value(object.resource_version(), value)
}

/// An object as it is kept.
pub(super) fn kept(res: Res, mut value: Value) -> Value {
    let Some(version) = res.version_of else {
        return custom::kept(res, value);
    };
    (version.keep)(&mut value);
    name(version.of, &mut value);
    value
}

fn name(res: Res, value: &mut Value) {
    value["apiVersion"] = json!(res.api_version());
    value["kind"] = json!(res.kind);
}

/// A selector of a version's fields as one of the kept shape's.
pub(super) fn selector(res: Res, selector: Selector) -> Selector {
    match res.version_of {
        None => selector,
        Some(version) => selector.with_renamed_fields(version.fields),
    }
}

/// An update changes no annotation that stands for the status.
pub(super) fn keep_own_annotations(res: Res, old: &Value, new: &mut Value) {
    let own = res.version_of.map_or(&[][..], |v| v.own_annotations);
    for key in own {
        match old["metadata"]["annotations"].get(*key) {
            Some(value) => annotate(new, key, value.clone()),
            None => drop(take_annotation(new, key)),
        }
    }
}

/// Sets an annotation.
pub(super) fn annotate(object: &mut Value, key: &str, value: Value) {
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[key] = value;
}

/// Takes an annotation away, and the map with it where it was the last.
pub(super) fn take_annotation(object: &mut Value, key: &str) -> Option<String> {
    let meta = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = meta.get_mut("annotations")?.as_object_mut()?;
    let taken = annotations.remove(key)?;
    if annotations.is_empty() {
        meta.remove("annotations");
    }
    taken.as_str().map(str::to_owned)
}

/// Moves a field; nothing where it is absent.
pub(super) fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(map) = object.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}
