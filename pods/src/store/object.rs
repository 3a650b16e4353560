//! One stored version of an object: its JSON, serialised once, and the same as a tree.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An immutable version of an API object.
///
/// The JSON is what lists and watches send and what the disk holds; the tree is made on first use.
#[derive(Debug)]
pub struct Object {
    rv: u64,
    json: Bytes,
    tree: OnceLock<Value>,
}

impl Object {
    /// From a tree whose `metadata.resourceVersion` is `rv`.
    pub fn from_value(rv: u64, value: Value) -> Arc<Self> {
        let json = Bytes::from(value.to_string());
        let tree = OnceLock::from(value);
        Arc::new(Self { rv, json, tree })
    }

    /// From JSON that was made by [`Object::json`]; not parsed before it is looked into.
    pub fn from_json(rv: u64, json: Bytes) -> Arc<Self> {
        Arc::new(Self {
            rv,
            json,
            tree: OnceLock::new(),
        })
    }

    /// The same version without its tree, for keeping many.
    pub fn slim(&self) -> Arc<Self> {
        Self::from_json(self.rv, self.json.clone())
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> u64 {
        self.rv
    }

    /// The object as JSON text.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The object as a tree.
    pub fn value(&self) -> &Value {
        self.tree
            .get_or_init(|| serde_json::from_slice(&self.json).unwrap_or(Value::Null))
    }

    /// A field by JSON pointer (`/spec/nodeName`), `Null` if absent.
    pub fn at(&self, pointer: &str) -> &Value {
        self.value().pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A text field by JSON pointer, empty if absent.
    pub fn str_at(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    /// An integer field by JSON pointer.
    pub fn int_at(&self, pointer: &str) -> Option<i64> {
        self.at(pointer).as_i64()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.str_at("/metadata/name")
    }

    /// `metadata.namespace`, empty for cluster-wide objects.
    pub fn namespace(&self) -> &str {
        self.str_at("/metadata/namespace")
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.str_at("/metadata/uid")
    }

    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.value()
            .get("metadata")?
            .get("labels")?
            .get(key)?
            .as_str()
    }

    /// Value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.value()
            .get("metadata")?
            .get("annotations")?
            .get(key)?
            .as_str()
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        !self.at("/metadata/deletionTimestamp").is_null()
    }

    /// The owner with `controller: true`, as an ownerReference.
    pub fn controller(&self) -> Option<&Value> {
        let owners = self.at("/metadata/ownerReferences").as_array()?;
        owners.iter().find(|o| o["controller"] == true)
    }

    /// A copy as one of k8s-openapi's types. These drop fields they do not know: read by them, but
    /// write [`Object::value`] with changes.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(self.value())
    }
}
