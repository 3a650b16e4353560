//! Kinds that CustomResourceDefinitions declare.
//!
//! A definition that is Established is a [`Resource`] for each version that it serves, made when it
//! is first asked for after a change of the definition. The rest of the API holds kinds by
//! `&'static` reference; so what is made here is kept for as long as the process lives: each distinct
//! content of a definition takes some kilobytes once (its schema is kept packed), however often it comes and goes.

mod document;
mod registry;
mod schema;
mod shape;
mod types;
mod validate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::resource::{Res, Resource};
use super::schema::{Schema, Type};
use super::table::{self, Column};
use super::validate::Faults;
use crate::jsonpath::Template;
use crate::store::Object;
use document::Document;
pub(super) use registry::Registry;
use schema::Node;

/// What a definition says of one of its versions.
pub struct Custom {
    schema: Option<Document>,
    ty: OnceLock<Type>,
    defaults: OnceLock<bool>,
    cells: Vec<(Template, &'static str)>,
    scale: Option<Scale>,
    storage: &'static str,
    warning: Option<String>,
    has_status: bool,
}

/// Where `scale` finds its fields, as JSON pointers; the selector may have none.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

/// A text for as long as the process lives, once.
fn keep(text: &str) -> &'static str {
    static KEPT: Mutex<Option<HashMap<String, &'static str>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if let Some(found) = kept.get(text) {
        return found;
    }
    let made: &'static str = Box::leak(text.to_owned().into_boxed_str());
    kept.insert(text.to_owned(), made);
    made
}

fn keep_all(list: &Value) -> &'static [&'static str] {
    let all = list.as_array().into_iter().flatten();
    let all: Vec<&'static str> = all.filter_map(|v| v.as_str().map(keep)).collect();
    Box::leak(all.into_boxed_slice())
}

/// Whether a condition of a definition is true.
pub fn is(definition: &Value, condition: &str) -> bool {
    let all = definition["status"]["conditions"].as_array();
    let mut all = all.into_iter().flatten();
    all.any(|c| c["type"] == condition && c["status"] == "True")
}

fn of_definition(value: &Value) -> &'static [Res] {
    static MADE: Mutex<Option<HashMap<Vec<u8>, &'static [Res]>>> = Mutex::new(None);
    if !is(value, "Established") {
        return &[];
    }
    let mut key = ring::digest::Context::new(&ring::digest::SHA256);
    key.update(value["spec"].to_string().as_bytes());
    key.update(value["status"]["acceptedNames"].to_string().as_bytes());
    let key = key.finish().as_ref().to_vec();
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.get_or_insert_default().entry(key).or_insert_with(|| {
        let spec = &value["spec"];
        let mut versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
        versions.retain(|v| v["served"] == true);
        versions.sort_by_key(|v| priority(v["name"].as_str().unwrap_or_default()));
        let names = &value["status"]["acceptedNames"];
        let all: Vec<Res> = versions.iter().map(|v| resource(spec, names, v)).collect();
        Box::leak(all.into_boxed_slice())
    })
}

/// The order of versions in discovery: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`, others by name.
fn priority(name: &str) -> (u8, std::cmp::Reverse<(u8, u64, u64)>, String) {
    let parse = || -> Option<(u64, u8, u64)> {
        let rest = name.strip_prefix('v')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        match &rest[end..] {
            "" => Some((major, 2, 0)),
            beta if beta.starts_with("beta") => Some((major, 1, beta[4..].parse().ok()?)),
            alpha => Some((major, 0, alpha.strip_prefix("alpha")?.parse().ok()?)),
        }
    };
    match parse() {
        Some((major, stage, minor)) => (0, std::cmp::Reverse((stage, major, minor)), String::new()),
        None => (1, std::cmp::Reverse((0, 0, 0)), name.to_owned()),
    }
}

fn resource(spec: &Value, names: &Value, version: &Value) -> Res {
    let text = |v: &Value| keep(v.as_str().unwrap_or_default());
    let subresources = &version["subresources"];
    let has_status = subresources["status"].is_object();
    let (columns, cells) = columns(version);
    let schema = &version["schema"]["openAPIV3Schema"];
    let storage = spec["versions"].as_array().into_iter().flatten();
    let mut storage = storage.filter(|v| v["storage"] == true);
    let storage = text(storage.next().map_or(&Value::Null, |v| &v["name"]));
    let warning = (version["deprecated"] == true).then(|| {
        let own = version["deprecationWarning"].as_str().map(str::to_owned);
        own.unwrap_or_else(|| {
            let (group, kind) = (text(&spec["group"]), text(&names["kind"]));
            format!("{group}/{} {kind} is deprecated", text(&version["name"]))
        })
    });
    let selectable: Vec<Value> = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| {
            f["jsonPath"]
                .as_str()
                .map(|p| json!(p.trim_start_matches('.')))
        })
        .collect();
    let scale = &subresources["scale"];
    let scale = scale.is_object().then(|| Scale {
        spec: pointer(&scale["specReplicasPath"]),
        status: pointer(&scale["statusReplicasPath"]),
        selector: scale["labelSelectorPath"]
            .is_string()
            .then(|| pointer(&scale["labelSelectorPath"])),
    });
    let custom = Custom {
        schema: schema.is_object().then(|| Document::of(schema)),
        ty: OnceLock::new(),
        defaults: OnceLock::new(),
        cells,
        storage,
        warning,
        has_status,
        scale: scale.clone(),
    };
    Box::leak(Box::new(Resource {
        group: text(&spec["group"]),
        version: text(&version["name"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        kind: text(&names["kind"]),
        namespaced: spec["scope"] == "Namespaced",
        short_names: keep_all(&names["shortNames"]),
        categories: keep_all(&names["categories"]),
        has_status,
        has_scale: scale.is_some(),
        returns_deleted: true,
        generation: true,
        fields: keep_all(&Value::Array(selectable)),
        columns,
        prepare: if has_status {
            Resource::BASE.prepare
        } else {
            |_| {}
        },
        custom: Some(Box::leak(Box::new(custom))),
        ..Resource::BASE
    }))
}

/// `.spec.replicas` as `/spec/replicas`.
fn pointer(path: &Value) -> String {
    path.as_str().unwrap_or_default().replace('.', "/")
}

type Cells = Vec<(Template, &'static str)>;

fn columns(version: &Value) -> (&'static [Column], Cells) {
    let mut columns = vec![Column::text("Name")];
    let mut cells = Vec::new();
    let own = version["additionalPrinterColumns"].as_array();
    for c in own.into_iter().flatten() {
        let text = |name: &str| keep(c[name].as_str().unwrap_or_default());
        let Ok(path) = Template::parse(text("jsonPath")) else {
            continue;
        };
        let wide = c["priority"].as_i64().unwrap_or(0) > 0;
        columns.push(Column {
            name: text("name"),
            kind: text("type"),
            priority: u8::from(wide),
        });
        cells.push((path, text("type")));
    }
    if cells.is_empty() {
        columns.push(Column {
            kind: "date",
            ..Column::text("Age")
        });
        cells.extend(Template::parse(".metadata.creationTimestamp").map(|t| (t, "date")));
    }
    (Box::leak(columns.into_boxed_slice()), cells)
}

fn cell(object: &Value, path: &Template, kind: &str) -> Value {
    let text = path.render(object);
    match kind {
        _ if text.is_empty() => Value::Null,
        "date" => json!(table::age(&json!(text))),
        "integer" => text.parse::<i64>().map_or(json!(text), |n| json!(n)),
        "number" => text.parse::<f64>().map_or(json!(text), |n| json!(n)),
        "boolean" => text.parse::<bool>().map_or(json!(text), |b| json!(b)),
        _ => json!(text),
    }
}

impl Custom {
    /// Cells of a row.
    pub(super) fn row(&self, o: &Object) -> Vec<Value> {
        let own = self
            .cells
            .iter()
            .map(|(path, kind)| cell(o.value(), path, kind));
        std::iter::once(json!(o.name())).chain(own).collect()
    }

    /// Drops what the schema does not know, and returns the paths of it. Metadata must be of its
    /// type: the fault is in Go's words.
    pub(super) fn prune(&self, object: &mut Value) -> Result<Vec<String>, String> {
        let mut unknown = Vec::new();
        let meta = Schema::get().named("meta/v1.ObjectMeta");
        if let (Some(id), Some(meta)) = (meta, object.get_mut("metadata")) {
            let found = super::schema::decode(meta, id);
            if let Some(fault) = found.fault {
                return Err(fault.replace("Go struct field ", "Go struct field metadata."));
            }
            unknown.extend(found.unknown.iter().map(|p| format!("metadata.{p}")));
        }
        if let Some(node) = self.node() {
            shape::prune(object, &node, true, "", &mut unknown);
        }
        Ok(unknown)
    }

    /// Fills in defaults.
    pub(super) fn default(&self, object: &mut Value) {
        if let Some(node) = self.node() {
            shape::default(object, &node);
        }
    }

    /// Finds faults.
    pub(super) fn validate(&self, object: &Value, faults: &mut Faults) {
        if let Some(node) = self.node() {
            validate::check(object, &node, "", faults);
        }
    }

    /// The type, for server-side apply.
    pub(super) fn ty(&self) -> Type {
        let make = || types::of_object(self.node().as_deref());
        self.ty.get_or_init(make).clone()
    }

    /// Where `scale` finds its fields.
    pub(super) fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// The schema as it was written.
    pub(super) fn document(&self) -> Value {
        self.schema.as_ref().map_or(Value::Null, Document::value)
    }

    /// The schema, read.
    fn node(&self) -> Option<Arc<Node>> {
        self.schema.as_ref().map(Document::node)
    }

    fn has_defaults(&self) -> bool {
        let find = || self.node().is_some_and(|node| node.has_defaults());
        *self.defaults.get_or_init(find)
    }

    /// What clients of a deprecated version are told.
    pub(super) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Whether changes of `status` do not count as changes of what is wanted.
    pub(super) fn has_status(&self) -> bool {
        self.has_status
    }

    /// The version that objects are kept in.
    pub(super) fn storage(&self) -> &'static str {
        self.storage
    }

    /// Whether an object may have to be changed to be shown.
    fn shows_as_is(&self, version: &str) -> bool {
        self.storage == version && !self.has_defaults()
    }
}

/// An object as a kind's clients see it: in their version, with its defaults.
pub(super) fn shown(res: Res, object: Arc<Object>) -> Arc<Object> {
    let Some(custom) = res.custom else {
        return object;
    };
    let version = res.api_version();
    let own = object.str_at("/apiVersion") == version;
    if own && custom.shows_as_is(res.version) {
        return object;
    }
    let mut value = object.value().clone();
    value["apiVersion"] = json!(version);
    custom.default(&mut value);
    if value == *object.value() {
        return object;
    }
    Object::from_value(object.resource_version(), value)
}

/// An object as it is kept.
pub(super) fn kept(res: Res, mut value: Value) -> Value {
    if let Some(custom) = res.custom {
        value["apiVersion"] = json!(format!("{}/{}", res.group, custom.storage()));
    }
    value
}

/// The faults of a definition's schemas: (path below the schema, message), in one version.
pub(super) fn schema_faults(schema: &Value) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let node = schema::parse(schema, &mut faults);
    if node.kind != schema::Kind::Object && faults.is_empty() {
        faults.push((
            ".type".into(),
            "Invalid value: must be object at the root".into(),
        ));
    }
    faults
}

/// Whether a schema has rules in CEL, which are not evaluated.
pub(super) fn has_cel(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.get("x-kubernetes-validations")
                .is_some_and(Value::is_array)
                || map.values().any(has_cel)
        }
        Value::Array(list) => list.iter().any(has_cel),
        _ => false,
    }
}

/// A hash of what is served, for addresses of documents.
pub(super) fn fingerprint(kinds: &[Res]) -> String {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    for res in kinds {
        (res.group, res.version, res.kind).hash(&mut hasher);
        if let Some(custom) = res.custom {
            custom
                .schema
                .as_ref()
                .map(Document::digest)
                .hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_kubernetes() {
        let mut all = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v2", "v1beta1"];
        all.sort_by_key(|v| priority(v));
        assert_eq!(
            all,
            ["v10", "v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "foo"]
        );
    }
}
