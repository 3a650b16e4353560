//! Pods and pod templates: what all kinds that make pods share.

mod containers;
mod defaults;
mod probes;
mod validate;
mod volumes;

use serde_json::{Map, Value};

pub use defaults::{pod, template};
pub use validate::{spec, template_faults, template_with, toleration};

/// Sets a field that is absent.
pub fn default(map: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = map.as_object_mut() {
        map.entry(key).or_insert_with(|| value.into());
    }
}

/// An object at a key, made when absent.
pub fn object<'a>(map: &'a mut Value, key: &str) -> &'a mut Value {
    default(map, key, Map::new());
    &mut map[key]
}

/// The elements of a list that may be absent.
pub fn each<'a>(map: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}
