//! What a structural schema makes of a value: unknown fields go, defaults come.

use serde_json::{Map, Value};

use super::schema::{Kind, Node};

/// Fields that every object has, at the root and in embedded objects.
const TYPE_META: &[&str] = &["apiVersion", "kind", "metadata"];

/// Drops fields that the schema does not know; `unknown` gets their paths.
pub(super) fn prune(
    value: &mut Value,
    node: &Node,
    root: bool,
    path: &str,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => prune_map(map, node, root || node.embedded, path, unknown),
        Value::Array(list) => {
            let Some(items) = &node.items else { return };
            for (i, item) in list.iter_mut().enumerate() {
                prune(item, items, false, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn prune_map(
    map: &mut Map<String, Value>,
    node: &Node,
    typed: bool,
    path: &str,
    unknown: &mut Vec<String>,
) {
    let at = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    map.retain(|key, inner| {
        if typed && TYPE_META.contains(&key.as_str()) {
            return true;
        }
        match node.properties.get(key).or(node.additional.as_deref()) {
            Some(known) => {
                prune(inner, known, false, &at(key), unknown);
                true
            }
            None if node.keeps_unknown() => true,
            None => {
                unknown.push(at(key));
                false
            }
        }
    });
}

/// Fills in what is absent, and what is null where null is not allowed.
pub(super) fn default(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            for (key, inner) in &node.properties {
                let null = map.get(key).is_some_and(Value::is_null) && !inner.nullable;
                if let Some(d) = &inner.default
                    && (null || !map.contains_key(key))
                {
                    map.insert(key.clone(), d.clone());
                } else if null {
                    map.remove(key);
                }
            }
            for (key, inner) in map.iter_mut() {
                if let Some(known) = node.properties.get(key).or(node.additional.as_deref()) {
                    default(inner, known);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for item in list {
                    default(item, items);
                }
            }
        }
        _ => {}
    }
}

/// Whether a value is of a schema's type. `null` is of none.
pub(super) fn fits(value: &Value, kind: Kind) -> bool {
    let whole =
        || value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0);
    match kind {
        Kind::Any => true,
        Kind::Object => value.is_object(),
        Kind::Array => value.is_array(),
        Kind::String => value.is_string(),
        Kind::Boolean => value.is_boolean(),
        Kind::Number => value.is_number(),
        Kind::Integer => value.is_number() && whole(),
        Kind::IntOrString => value.is_string() || (value.is_number() && whole()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use serde_json::json;

    fn node(schema: Value) -> Node {
        let mut faults = Vec::new();
        let node = schema::parse(&schema, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        node
    }

    #[test]
    fn unknown_fields_go_but_where_they_are_preserved() {
        let n = node(json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                        "properties": {"spec": {"type": "object"}}}}}}}));
        let mut v = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "junk": 1,
            "spec": {"size": 1, "other": 2, "labels": {"x": "y"}, "free": {"any": {"thing": 1}},
                     "list": [{"a": "1", "b": "2"}], "pod": {"kind": "Pod", "spec": {"x": 1}, "z": 1}}});
        let mut unknown = Vec::new();
        prune(&mut v, &n, true, "", &mut unknown);
        unknown.sort();
        assert_eq!(
            unknown,
            [
                "junk",
                "spec.list[0].b",
                "spec.other",
                "spec.pod.spec.x",
                "spec.pod.z"
            ]
        );
        assert_eq!(v["spec"]["free"], json!({"any": {"thing": 1}}));
        assert_eq!(v["spec"]["pod"], json!({"kind": "Pod", "spec": {}}));
    }

    #[test]
    fn defaults_fill_in_what_is_absent_or_null() {
        let n = node(
            json!({"type": "object", "properties": {"spec": {"type": "object", "default": {},
            "properties": {"size": {"type": "integer", "default": 3}, "mode": {"type": "string", "nullable": true, "default": "a"},
                           "list": {"type": "array", "items": {"type": "object",
                               "properties": {"p": {"type": "string", "default": "TCP"}}}}}}}}),
        );
        assert!(n.has_defaults());
        let mut v = json!({});
        default(&mut v, &n);
        assert_eq!(v, json!({"spec": {"size": 3, "mode": "a"}}));
        let mut v = json!({"spec": {"size": null, "mode": null, "list": [{}]}});
        default(&mut v, &n);
        assert_eq!(
            v,
            json!({"spec": {"size": 3, "mode": null, "list": [{"p": "TCP"}]}})
        );
    }
}
