//! A structural schema as a type of the table, for server-side apply.

use super::schema::{Kind, Node};
use crate::api::schema::{Field, Merge, Owner, Scalar, Schema, Struct, Type};

/// The type of an object of a custom kind. What is made here lives as long as the process.
pub(super) fn of_object(schema: Option<&Node>) -> Type {
    let table = Schema::get();
    let mut fields: Vec<Field> = vec![
        field("apiVersion", Type::Scalar(Scalar::String)),
        field("kind", Type::Scalar(Scalar::String)),
    ];
    let meta = table.named("meta/v1.ObjectMeta").map(Type::Struct);
    fields.extend(meta.map(|ty| field("metadata", ty)));
    for (name, node) in schema.iter().flat_map(|s| &s.properties) {
        if !["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            fields.push(of_field(name, node));
        }
    }
    structure(fields)
}

fn structure(mut fields: Vec<Field>) -> Type {
    fields.sort_by_key(|f| f.name);
    Type::Inline(Box::leak(Box::new(Struct { name: "", fields })))
}

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: super::keep(name),
        ty,
        required: false,
        plain: false,
        merge: Merge::Default,
        owner: Owner::Default,
        default: None,
        number: Vec::new(),
    }
}

fn of_field(name: &str, node: &Node) -> Field {
    let mut out = field(name, of(node));
    out.owner = match node.list_type.as_str() {
        "set" => Owner::Set,
        "map" => Owner::Keys(node.list_keys.iter().map(|k| super::keep(k)).collect()),
        _ if node.atomic_map => Owner::Atomic,
        _ => Owner::Default,
    };
    out.default = node.default.as_ref().map(|d| super::keep(&d.to_string()));
    out
}

fn of(node: &Node) -> Type {
    match node.kind {
        Kind::Object if !node.properties.is_empty() => {
            let all = node.properties.iter();
            structure(all.map(|(name, inner)| of_field(name, inner)).collect())
        }
        // What has no schema is taken apart by its keys, as far as they are objects.
        Kind::Object => Type::Map(Box::new(match &node.additional {
            Some(inner) => of(inner),
            None => Type::Scalar(Scalar::Any),
        })),
        Kind::Array => Type::List(Box::new(match &node.items {
            Some(inner) => of(inner),
            None => Type::Scalar(Scalar::Any),
        })),
        _ => Type::Scalar(Scalar::Any),
    }
}
