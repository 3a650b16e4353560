//! The faults of a value by its structural schema, in Kubernetes' words.

use serde_json::Value;

use super::schema::{Node, Rules};
use super::shape::fits;
use crate::api::validate::{Faults, names};

/// Checks a value; `path` is where it is in the object, empty at the root.
pub(super) fn check(value: &Value, node: &Node, path: &str, faults: &mut Faults) {
    if value.is_null() && node.nullable {
        return;
    }
    if !fits(value, node.kind) {
        let (kind, found) = (node.kind.name(), type_name(value));
        let detail = format!("{path} in body must be of type {kind}: \"{found}\"");
        return faults.wrong_type(path, found, &detail);
    }
    rules(value, &node.rules, path, faults);
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                // Metadata has rules of its own, whatever the schema says.
                if path.is_empty() && matches!(key.as_str(), "metadata" | "apiVersion" | "kind") {
                    continue;
                }
                if let Some(known) = node.properties.get(key) {
                    check(inner, known, &join(path, key), faults);
                } else if let Some(known) = &node.additional {
                    check(inner, known, &join(path, key), faults);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for (i, item) in list.iter().enumerate() {
                    check(item, items, &format!("{path}[{i}]"), faults);
                }
            }
            lists(list, node, path, faults);
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Keys of a list that is a map, and elements of one that is a set, are there once.
fn lists(list: &[Value], node: &Node, path: &str, faults: &mut Faults) {
    let key = |v: &Value| -> Value {
        let parts = node.list_keys.iter();
        let parts = parts.map(|k| (k.clone(), v[k].clone()));
        Value::Object(parts.filter(|(_, v)| !v.is_null()).collect())
    };
    for (i, item) in list.iter().enumerate() {
        let at = || format!("{path}[{i}]");
        match node.list_type.as_str() {
            "set" if list[..i].contains(item) => faults.duplicate(at(), item),
            "map" if list[..i].iter().any(|o| key(o) == key(item)) => {
                faults.duplicate(at(), &key(item));
            }
            _ => {}
        }
    }
}

fn rules(value: &Value, r: &Rules, path: &str, faults: &mut Faults) {
    if let Some(choices) = &r.choices
        && !choices.contains(value)
    {
        let known = choices.iter().map(Value::to_string).collect::<Vec<_>>();
        faults.not_supported(path, value, &known.join(", "));
    }
    match value {
        Value::String(text) => texts(text, r, path, faults),
        Value::Number(_) => numbers(value, r, path, faults),
        Value::Array(list) => {
            let (least, most) = r.items;
            if least.is_some_and(|n| list.len() < n) {
                let n = least.unwrap_or_default();
                let detail = format!("{path} in body should have at least {n} items");
                faults.invalid(path, value, detail);
            }
            if let Some(n) = most.filter(|n| list.len() > *n) {
                faults.too_many(path, list.len(), n);
            }
            if r.unique && list.iter().enumerate().any(|(i, v)| list[..i].contains(v)) {
                let detail = format!("{path} in body shouldn't contain duplicates");
                faults.invalid(path, value, detail);
            }
        }
        Value::Object(map) => {
            for name in r.required.iter().filter(|n| !map.contains_key(*n)) {
                faults.required(join(path, name), "");
            }
            let (least, most) = r.keys;
            if let Some(n) = least.filter(|n| map.len() < *n) {
                let detail = format!("{path} in body should have at least {n} properties");
                faults.invalid(path, value, detail);
            }
            if let Some(n) = most.filter(|n| map.len() > *n) {
                faults.too_many(path, map.len(), n);
            }
        }
        _ => {}
    }
    combined(value, r, path, faults);
}

fn texts(text: &str, r: &Rules, path: &str, faults: &mut Faults) {
    let length = text.chars().count();
    let (least, most) = r.length;
    if let Some(n) = least.filter(|n| length < *n) {
        let detail = format!("{path} in body should be at least {n} chars long");
        faults.invalid_str(path, text, detail);
    }
    if let Some(n) = most.filter(|n| length > *n) {
        faults.too_long(path, n);
    }
    if let Some((pattern, regex)) = &r.pattern
        && !regex.is_match(text)
    {
        faults.invalid_str(
            path,
            text,
            format!("{path} in body should match '{pattern}'"),
        );
    }
    if !formatted(text, &r.format) {
        let format = &r.format;
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        faults.invalid_str(path, text, detail);
    }
}

/// Formats that Kubernetes checks; it ignores those it does not know.
fn formatted(text: &str, format: &str) -> bool {
    use base64::Engine as _;
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "ip" => text.parse::<std::net::IpAddr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, bits)| {
            let most = |ip: std::net::IpAddr| if ip.is_ipv4() { 32 } else { 128 };
            let ip = ip.parse::<std::net::IpAddr>();
            ip.is_ok_and(|ip| bits.parse::<u8>().is_ok_and(|b| b <= most(ip)))
        }),
        "uuid" => {
            let part =
                |p: (&str, usize)| p.0.len() == p.1 && p.0.bytes().all(|b| b.is_ascii_hexdigit());
            let parts: Vec<&str> = text.split('-').collect();
            parts.len() == 5 && parts.into_iter().zip([8, 4, 4, 4, 12]).all(part)
        }
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "hostname" => text
            .split('.')
            .all(|label| names::label(&label.to_lowercase()).is_empty()),
        _ => true,
    }
}

fn numbers(value: &Value, r: &Rules, path: &str, faults: &mut Faults) {
    let number = value.as_f64().unwrap_or_default();
    let mut wrong =
        |detail: String| faults.invalid(path, value, format!("{path} in body should be {detail}"));
    match r.minimum {
        Some(n) if r.above && number <= n => wrong(format!("greater than {n}")),
        Some(n) if number < n => wrong(format!("greater than or equal to {n}")),
        _ => {}
    }
    match r.maximum {
        Some(n) if r.below && number >= n => wrong(format!("less than {n}")),
        Some(n) if number > n => wrong(format!("less than or equal to {n}")),
        _ => {}
    }
    if let Some(n) = r.multiple_of.filter(|n| *n != 0.0)
        && (number / n).fract() != 0.0
    {
        wrong(format!("a multiple of {n}"));
    }
    let fits = match r.format.as_str() {
        "int32" => number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX),
        "int64" => value.is_i64() || value.is_f64(),
        _ => true,
    };
    if !fits {
        let format = &r.format;
        let detail = format!("{path} in body must be of type {format}: {value}");
        faults.invalid(path, value, detail);
    }
}

fn combined(value: &Value, r: &Rules, path: &str, faults: &mut Faults) {
    let passes = |node: &Node| {
        let mut inner = Faults::default();
        check(value, node, path, &mut inner);
        inner.is_empty()
    };
    for node in &r.all_of {
        let mut inner = Faults::default();
        check(value, node, path, &mut inner);
        faults.join(inner);
    }
    if !r.any_of.is_empty() && !r.any_of.iter().any(passes) {
        let detail = format!("{path} in body must validate at least one schema (anyOf)");
        faults.invalid(path, value, detail);
    }
    if !r.one_of.is_empty() {
        let found = r.one_of.iter().filter(|n| passes(n)).count();
        if found != 1 {
            let found = if found == 0 {
                "none".to_owned()
            } else {
                found.to_string()
            };
            let detail = format!(
                "{path} in body must validate one and only one schema (oneOf). Found {found} valid"
            );
            faults.invalid(path, value, detail);
        }
    }
    if r.not.as_deref().is_some_and(passes) {
        let detail = format!("{path} in body must not validate the schema (not)");
        faults.invalid(path, value, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use serde_json::json;

    fn said(schema: Value, value: Value) -> Vec<String> {
        let mut faults = Vec::new();
        let node = schema::parse(&schema, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let mut found = Faults::default();
        check(&value, &node, "", &mut found);
        let causes = found.into_causes().into_iter();
        causes
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn faults_read_as_kubernetes_words_them() {
        let spec = |inner: Value| {
            json!({"type": "object", "properties": {"spec":
            {"type": "object", "required": ["image"], "properties": inner}}})
        };
        let schema = spec(json!({
            "image": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "list": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                      "items": {"type": "object", "properties": {"n": {"type": "string"}}}}}));
        let of = |spec: Value| said(schema.clone(), json!({"spec": spec}));
        assert!(of(json!({"image": "ab", "replicas": 3, "port": "http", "when": "2026-01-01T00:00:00Z"})).is_empty());
        assert_eq!(of(json!({})), ["spec.image: Required value"]);
        assert_eq!(
            of(json!({"image": "ab", "replicas": "x"})),
            [
                "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""
            ]
        );
        assert_eq!(
            of(json!({"image": "ab", "replicas": 0})),
            [
                "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"
            ]
        );
        assert_eq!(
            of(json!({"image": "A1"})),
            ["spec.image: Invalid value: \"A1\": spec.image in body should match '^[a-z]+$'"]
        );
        assert_eq!(
            of(json!({"image": "ab", "mode": "c"})),
            ["spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""]
        );
        assert_eq!(
            of(json!({"image": "ab", "list": ["a", "b"]})),
            ["spec.list: Too many: 2: must have at most 1 items"]
        );
        assert_eq!(
            of(json!({"image": "ab", "keyed": [{"n": "x"}, {"n": "x"}]})),
            ["spec.keyed[1]: Duplicate value: {\"n\":\"x\"}"]
        );
        assert_eq!(of(json!({"image": "ab", "when": "soon"})).len(), 1);
        assert_eq!(of(json!({"image": "ab", "port": {}})).len(), 1);
    }

    #[test]
    fn schemas_are_combined() {
        let one = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                         "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        assert!(said(one.clone(), json!({"a": "x"})).is_empty());
        assert!(
            said(one.clone(), json!({"a": "x", "b": "y"}))[0].ends_with("(oneOf). Found 2 valid")
        );
        assert!(said(one, json!({}))[0].ends_with("(oneOf). Found none valid"));
        let not = json!({"type": "object", "not": {"required": ["a"]}, "properties": {"a": {"type": "string"}}});
        assert_eq!(said(not, json!({"a": "x"})).len(), 1);
    }
}
