//! The shape of every type of the API, from `pods/schema/types.txt`.
//!
//! One line names a type (`core/v1.Container`), and each indented line after it is a field: name,
//! type, flags. Types are `string bool int32 int64 number bytes quantity intstr time microtime any`,
//! another type (a leading dot means the same group version), `[]T` and `{}T` (a map of strings to
//! T). Flags: `!` required; `~` the zero
//! value means that it is absent; `merge` or `merge=KEY` and `retainKeys` (strategic merge); `keys=A,B`
//! (a list that is a map with these keys), `set`, `atomic` (server-side apply); `default=JSON`;
//! `#N` the number in protobuf, `#N.M` in an embedded structure.

mod decode;
mod parse;
pub mod protobuf;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use decode::{Decoded, decode};

/// Index of a structure in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl TypeId {
    /// The index.
    pub fn index(self) -> u16 {
        self.0
    }

    /// From [`TypeId::index`].
    pub fn from_index(index: u16) -> Self {
        Self(index)
    }
}

/// Type of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// No structure of ours inside.
    Scalar(Scalar),
    /// An object with known fields.
    Struct(TypeId),
    /// The same, of a type that is not in the table: a custom resource's.
    Inline(&'static Struct),
    /// An array.
    List(Box<Type>),
    /// An object with any keys.
    Map(Box<Type>),
}

/// Types without fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// 32 bits.
    Int32,
    /// 64 bits.
    Int64,
    /// Floating point.
    Number,
    /// Base64.
    Bytes,
    /// `1500m`, `2Gi`, or a number.
    Quantity,
    /// A number, or text such as a port's name or `25%`.
    IntStr,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Anything.
    Any,
}

/// What strategic merge does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Replaces lists; merges objects.
    Default,
    /// Merges a list of scalars as a set.
    Set,
    /// Merges a list of objects by this key.
    Key(&'static str),
    /// Merges an object but drops keys that `$retainKeys` does not name.
    RetainKeys,
}

/// What server-side apply takes a field for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Objects and maps: each part of its own; lists: one for all.
    Default,
    /// One owner for all of it.
    Atomic,
    /// A list whose elements have owners, named by their value.
    Set,
    /// A list whose elements have owners, named by these fields.
    Keys(Vec<&'static str>),
}

/// A field of a structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// Whether it must be there.
    pub required: bool,
    /// Whether its zero value says no more than its absence.
    pub plain: bool,
    /// Strategic merge.
    pub merge: Merge,
    /// Server-side apply.
    pub owner: Owner,
    /// Default, as JSON text.
    pub default: Option<&'static str>,
    /// Number in protobuf; more than one for a field of an embedded structure.
    pub number: Vec<u8>,
}

/// An object type.
#[derive(Debug, PartialEq)]
pub struct Struct {
    /// `core/v1.Pod`.
    pub name: &'static str,
    /// By name.
    pub fields: Vec<Field>,
}

impl Struct {
    /// A field by its name in JSON.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|f| f.name.cmp(name))
            .ok()
            .map(|i| &self.fields[i])
    }
}

/// What is generated, and what is written by hand (without numbers: it is served as JSON only).
const TYPES: &str = concat!(
    include_str!("../../../schema/types.txt"),
    include_str!("../../../schema/apiextensions.txt")
);

/// All types.
#[derive(Debug)]
pub struct Schema {
    structs: Vec<Struct>,
    names: HashMap<&'static str, TypeId>,
}

impl Schema {
    /// The table, read on first use.
    pub fn get() -> &'static Self {
        static TABLE: OnceLock<Schema> = OnceLock::new();
        TABLE.get_or_init(|| parse::parse(TYPES))
    }

    /// The structure behind an index.
    pub fn of(&self, id: TypeId) -> &Struct {
        &self.structs[usize::from(id.0)]
    }

    /// All structures.
    pub fn all(&self) -> impl Iterator<Item = &Struct> {
        self.structs.iter()
    }

    /// A structure by `package.Type` (`core/v1.Pod`).
    pub fn named(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// The structure of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let package = match group {
            "" => "core",
            "rbac.authorization.k8s.io" => "rbac",
            g => g.split('.').next().unwrap_or_default(),
        };
        self.named(&format!("{package}/{version}.{kind}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn every_kind_has_a_shape() {
        let schema = Schema::get();
        for r in kinds::written() {
            let id = schema
                .kind(r.group, r.version, r.kind)
                .unwrap_or_else(|| panic!("{r:?}"));
            assert!(schema.of(id).field("metadata").is_some(), "{r:?}");
            assert_eq!(
                schema.of(id).field("status").is_some(),
                r.has_status,
                "{r:?}"
            );
        }
    }

    #[test]
    fn markers() {
        let schema = Schema::get();
        let container = schema.of(schema.named("core/v1.Container").unwrap());
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.merge, Merge::Key("containerPort"));
        assert_eq!(ports.owner, Owner::Keys(vec!["containerPort", "protocol"]));
        assert!(container.field("name").unwrap().required);
        let spec = schema.of(schema.named("apps/v1.DeploymentSpec").unwrap());
        assert_eq!(spec.field("strategy").unwrap().merge, Merge::RetainKeys);
        assert_eq!(spec.field("selector").unwrap().owner, Owner::Atomic);
    }
}
