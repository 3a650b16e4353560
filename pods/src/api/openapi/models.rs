//! The models of types: structures and scalars as documents describe them, with short texts.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use crate::api::kinds;
use crate::api::resource::Res;
use crate::api::schema::{Field, Merge, Owner, Scalar, Schema, Struct, Type, TypeId};

/// What types and fields are for: a line names a type, each indented line after it a field; what
/// stands under `*` is true of fields of that name in any type.
const TEXTS: &str = include_str!("../../../schema/descriptions.txt");

/// Which document: they differ in where types are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    V2,
    V3,
}

impl Form {
    pub(super) fn reference(self, name: &str) -> Value {
        self.pointer(&model(name))
    }

    /// To a model by the name that it has in the document.
    pub(super) fn pointer(self, name: &str) -> Value {
        let place = if self == Self::V2 {
            "definitions"
        } else {
            "components/schemas"
        };
        json!({"$ref": format!("#/{place}/{name}")})
    }
}

/// `core/v1.Pod` under the name that Kubernetes' documents give it.
fn model(name: &str) -> String {
    let (package, ty) = name.split_once('.').unwrap_or(("", name));
    let package = package.replace('/', ".");
    if package.starts_with("meta.") {
        format!("io.k8s.apimachinery.pkg.apis.{package}.{ty}")
    } else {
        format!("io.k8s.api.{package}.{ty}")
    }
}

/// Texts by type, or by type and field.
struct Texts(HashMap<(&'static str, &'static str), &'static str>);

impl Texts {
    fn read() -> Self {
        let mut of = "";
        let mut all = HashMap::new();
        for line in TEXTS.lines() {
            let (name, text) = match line.strip_prefix(' ') {
                Some(field) => field.split_once(' ').unwrap_or((field, "")),
                None => {
                    let (ty, text) = line.split_once(' ').unwrap_or((line, ""));
                    of = ty;
                    ("", text)
                }
            };
            all.insert((of, name), text);
        }
        Self(all)
    }

    fn of(&self, ty: &'static str, field: &'static str) -> Option<&'static str> {
        let own = self.0.get(&(ty, field));
        own.or_else(|| self.0.get(&("*", field))).copied()
    }
}

/// Types without fields that have a model of their own: its name, what it is in version 2 and in
/// version 3, and a text.
fn named(s: Scalar) -> Option<(&'static str, Value, Value, &'static str)> {
    let time = || json!({"type": "string", "format": "date-time"});
    Some(match s {
        Scalar::Quantity => (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"type": "string"}),
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "An amount: a number with a suffix, such as 500m, 2, 128Mi or 1G.",
        ),
        Scalar::IntStr => (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"type": "string", "format": "int-or-string"}),
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            "A number, or text such as a percentage or the name of a port.",
        ),
        Scalar::Time => (
            "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
            time(),
            time(),
            "A time, to the second (RFC 3339).",
        ),
        Scalar::MicroTime => (
            "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
            time(),
            time(),
            "A time, to the microsecond (RFC 3339).",
        ),
        _ => return None,
    })
}

fn scalar(s: Scalar, form: Form) -> Value {
    if let Some((name, ..)) = named(s) {
        return form.pointer(name);
    }
    match s {
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Number => json!({"type": "number", "format": "double"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Any => json!({"type": "object"}),
        _ => json!({"type": "string"}),
    }
}

fn type_value(ty: &Type, form: Form) -> Value {
    match ty {
        Type::Scalar(s) => scalar(*s, form),
        Type::Struct(id) => form.reference(Schema::get().of(*id).name),
        Type::Inline(_) => json!({"type": "object"}),
        Type::List(inner) => json!({"type": "array", "items": type_value(inner, form)}),
        Type::Map(inner) => {
            json!({"type": "object", "additionalProperties": type_value(inner, form)})
        }
    }
}

fn field_value(of: &Struct, f: &Field, texts: &Texts, form: Form) -> Value {
    let mut out = type_value(&f.ty, form);
    // Version 3 ignores what stands beside a reference.
    if form == Form::V3 && out.get("$ref").is_some() {
        out = json!({"allOf": [out]});
    }
    if let Some(text) = texts.of(of.name, f.name) {
        out["description"] = json!(text);
    }
    match f.merge {
        Merge::Default => {}
        Merge::Set => out["x-kubernetes-patch-strategy"] = json!("merge"),
        Merge::Key(key) => {
            out["x-kubernetes-patch-strategy"] = json!("merge");
            out["x-kubernetes-patch-merge-key"] = json!(key);
        }
        Merge::RetainKeys => out["x-kubernetes-patch-strategy"] = json!("retainKeys"),
    }
    let list = matches!(f.ty, Type::List(_));
    match &f.owner {
        Owner::Default => {}
        Owner::Atomic if list => out["x-kubernetes-list-type"] = json!("atomic"),
        Owner::Atomic => out["x-kubernetes-map-type"] = json!("atomic"),
        Owner::Set => out["x-kubernetes-list-type"] = json!("set"),
        Owner::Keys(keys) => {
            out["x-kubernetes-list-type"] = json!("map");
            out["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    let default = f.default.and_then(|d| serde_json::from_str(d).ok());
    if let Some(default) = default {
        let default: Value = default;
        out["default"] = default;
    }
    out
}

/// Group, version and kind.
pub(super) fn gvk(r: Res) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn struct_value(id: TypeId, texts: &Texts, form: Form) -> Value {
    let of = Schema::get().of(id);
    let fields = of.fields.iter();
    let fields: Map<String, Value> = fields
        .map(|f| (f.name.to_owned(), field_value(of, f, texts, form)))
        .collect();
    let required = of.fields.iter().filter(|f| f.required);
    let required: Vec<&str> = required.map(|f| f.name).collect();
    let mut out = json!({"type": "object", "properties": fields});
    if let Some(text) = texts.of(of.name, "") {
        out["description"] = json!(text);
    }
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    let shape = |r: &Res| Schema::get().kind(r.group, r.version, r.kind) == Some(id);
    if let Some(r) = kinds::written().find(shape) {
        out["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    }
    out
}

/// A structure and everything it is made of.
fn closure(id: TypeId, found: &mut BTreeSet<u16>) {
    if !found.insert(id.index()) {
        return;
    }
    for f in &Schema::get().of(id).fields {
        let mut ty = &f.ty;
        while let Type::List(inner) | Type::Map(inner) = ty {
            ty = inner;
        }
        if let Type::Struct(inner) = ty {
            closure(*inner, found);
        }
    }
}

/// The models that these kinds are made of, and those that every document has.
pub(super) fn models(kinds: &[Res], form: Form) -> Map<String, Value> {
    let mut found = BTreeSet::new();
    for r in kinds {
        if let Some(id) = Schema::get().kind(r.group, r.version, r.kind) {
            closure(id, &mut found);
        }
    }
    // Custom resources refer to metadata, whatever else is in the document.
    for name in ["meta/v1.DeleteOptions", "meta/v1.ObjectMeta"] {
        if let Some(id) = Schema::get().named(name) {
            closure(id, &mut found);
        }
    }
    let texts = Texts::read();
    let all = found.into_iter().map(TypeId::from_index);
    let mut all: Map<String, Value> = all
        .map(|id| {
            let name = model(Schema::get().of(id).name);
            (name, struct_value(id, &texts, form))
        })
        .collect();
    let scalars = [
        Scalar::Quantity,
        Scalar::IntStr,
        Scalar::Time,
        Scalar::MicroTime,
    ];
    for (name, second, third, text) in scalars.into_iter().filter_map(named) {
        let mut model = if form == Form::V2 { second } else { third };
        model["description"] = json!(text);
        all.insert(name.to_owned(), model);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_of_a_type_and_a_field_that_there_is() {
        for (ty, field) in Texts::read().0.keys() {
            if *ty == "*" {
                continue;
            }
            let id = Schema::get().named(ty);
            let of = Schema::get().of(id.unwrap_or_else(|| panic!("{ty}")));
            assert!(
                field.is_empty() || of.field(field).is_some(),
                "{ty} has no {field}"
            );
        }
    }

    #[test]
    fn every_kind_says_what_it_is_for() {
        let texts = Texts::read();
        let kinds = kinds::written();
        for r in kinds {
            let id = Schema::get().kind(r.group, r.version, r.kind).unwrap();
            let of = Schema::get().of(id);
            assert!(texts.of(of.name, "").is_some(), "{}", of.name);
        }
    }
}
