//! One stored version of an object: its JSON, serialised once, and the same as a tree.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use serde_json::Value;

use super::packed::{LARGE, Packed, in_head};

/// An immutable version of an API object.
///
/// The JSON is what lists and watches send and what the disk holds; the tree is made on first use.
///
/// A large one (a CustomResourceDefinition, a chart's Secret) is kept packed: readers get handles of
/// their own, and what they unpack goes with them.
#[derive(Debug)]
pub struct Object {
    rv: u64,
    packed: Option<Arc<Packed>>,
    json: OnceLock<Bytes>,
    tree: OnceLock<Value>,
}

impl Object {
    /// From a tree whose `metadata.resourceVersion` is `rv`.
    pub fn from_value(rv: u64, value: Value) -> Arc<Self> {
        let json = Bytes::from(value.to_string());
        Arc::new(Self {
            rv,
            packed: None,
            json: json.into(),
            tree: value.into(),
        })
    }

    /// From JSON that was made by [`Object::json`]; not parsed before it is looked into.
    pub fn from_json(rv: u64, json: Bytes) -> Arc<Self> {
        Arc::new(Self {
            rv,
            packed: None,
            json: json.into(),
            tree: OnceLock::new(),
        })
    }

    /// The same version without its tree, for keeping many.
    pub fn slim(&self) -> Arc<Self> {
        match &self.packed {
            None => Self::from_json(self.rv, self.json().clone()),
            Some(packed) => Self::from_packed(self.rv, packed.clone()),
        }
    }

    fn from_packed(rv: u64, packed: Arc<Packed>) -> Arc<Self> {
        Arc::new(Self {
            rv,
            packed: Some(packed),
            json: OnceLock::new(),
            tree: OnceLock::new(),
        })
    }

    /// As it is kept: packed where it is large.
    pub(super) fn stored(self: Arc<Self>) -> Arc<Self> {
        if self.packed.is_some() || self.json().len() < LARGE {
            return self;
        }
        match Packed::of(self.json()) {
            Some(packed) => Self::from_packed(self.rv, Arc::new(packed)),
            None => self,
        }
    }

    /// What a reader gets of what is kept: of a packed one a handle of its own.
    pub(super) fn given(self: &Arc<Self>) -> Arc<Self> {
        match &self.packed {
            None => self.clone(),
            Some(_) => self.slim(),
        }
    }

    /// Bytes that it takes where it is kept.
    pub(super) fn weight(&self) -> usize {
        let packed = self.packed.as_ref().map(|p| p.bytes.len());
        packed.unwrap_or_else(|| self.json().len())
    }

    /// Whether it is kept packed: looking into more than its head unpacks it.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// The object with nothing but its kind and its metadata, which lacks annotations and managed
    /// fields, where that is cheaper; all of it otherwise.
    pub fn head(&self) -> &Value {
        match &self.packed {
            None => self.value(),
            Some(packed) => &packed.head,
        }
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> u64 {
        self.rv
    }

    /// The object as JSON text.
    pub fn json(&self) -> &Bytes {
        self.json.get_or_init(|| {
            let packed = self.packed.as_ref();
            packed.map_or_else(Bytes::new, |p| p.unpack())
        })
    }

    /// The object as a tree.
    pub fn value(&self) -> &Value {
        self.tree
            .get_or_init(|| serde_json::from_slice(self.json()).unwrap_or(Value::Null))
    }

    /// A field by JSON pointer (`/spec/nodeName`), `Null` if absent.
    pub fn at(&self, pointer: &str) -> &Value {
        let of = if in_head(pointer) {
            self.head()
        } else {
            self.value()
        };
        of.pointer(pointer).unwrap_or(&Value::Null)
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
        self.head()
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
