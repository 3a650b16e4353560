//! Makes a user's JSON into an object of a type: unknown fields go, nulls go, types must fit.

use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::{Map, Value};

use super::{Scalar, Schema, Type, TypeId};

/// What was found while decoding.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Paths of fields that the type does not have; they were dropped.
    pub unknown: Vec<String>,
    /// The first value of the wrong type, in Go's words.
    pub fault: Option<String>,
}

/// Decodes in place.
pub fn decode(value: &mut Value, id: TypeId) -> Decoded {
    let mut d = Decoder {
        schema: Schema::get(),
        path: String::new(),
        found: Decoded::default(),
    };
    d.object(value, id);
    d.found
}

struct Decoder {
    schema: &'static Schema,
    path: String,
    found: Decoded,
}

impl Decoder {
    fn fault(&mut self, found: &Value, want: &str) {
        let what = match found {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let path = &self.path;
        self.found.fault.get_or_insert_with(|| {
            format!("json: cannot unmarshal {what} into Go struct field {path} of type {want}")
        });
    }

    fn object(&mut self, value: &mut Value, id: TypeId) {
        let of = self.schema.of(id);
        let Value::Object(map) = value else {
            let name = of.name.rsplit(['.', '/']).next().unwrap_or_default();
            return self.fault(value, name);
        };
        map.retain(|_, v| !v.is_null());
        let unknown: Vec<String> = map
            .keys()
            .filter(|k| of.field(k).is_none())
            .cloned()
            .collect();
        for key in unknown {
            map.remove(&key);
            let path = self.child(&key);
            self.found.unknown.push(path);
        }
        for (key, inner) in map.iter_mut() {
            let Some(field) = of.field(key) else { continue };
            let length = self.path.len();
            self.path = self.child(key);
            self.value(inner, &field.ty);
            self.path.truncate(length);
        }
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn value(&mut self, value: &mut Value, ty: &Type) {
        match ty {
            Type::Struct(id) => self.object(value, *id),
            // A custom resource's own schema says what fits.
            Type::Inline(_) => {}
            Type::Scalar(s) => self.scalar(value, *s),
            Type::List(inner) => self.list(value, inner),
            Type::Map(inner) => self.map(value, inner),
        }
    }

    fn list(&mut self, value: &mut Value, inner: &Type) {
        let Value::Array(items) = value else {
            return self.fault(value, "[]");
        };
        for (i, item) in items.iter_mut().enumerate() {
            let length = self.path.len();
            let _ = write!(self.path, "[{i}]");
            match (item.is_null(), inner) {
                // An element cannot be absent: it is the zero value, as Go has it.
                (true, Type::Struct(_)) => *item = Value::Object(Map::new()),
                (true, Type::Scalar(Scalar::String)) => *item = Value::String(String::new()),
                _ => self.value(item, inner),
            }
            self.path.truncate(length);
        }
    }

    fn map(&mut self, value: &mut Value, inner: &Type) {
        let Value::Object(map) = value else {
            return self.fault(value, "map[string]");
        };
        for (key, item) in map.iter_mut() {
            let length = self.path.len();
            self.path = self.child(key);
            match (item.is_null(), inner) {
                (true, Type::Scalar(Scalar::String | Scalar::Bytes)) => {
                    *item = Value::String(String::new());
                }
                _ => self.value(item, inner),
            }
            self.path.truncate(length);
        }
    }

    fn scalar(&mut self, value: &mut Value, scalar: Scalar) {
        let text = value.as_str();
        let whole = value.as_i64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0)
                .map(|f| f as i64)
        });
        let (fits, name) = match scalar {
            Scalar::Any => (true, ""),
            Scalar::String => (text.is_some(), "string"),
            Scalar::Bool => (value.is_boolean(), "bool"),
            Scalar::Int32 => (whole.is_some_and(|n| i32::try_from(n).is_ok()), "int32"),
            Scalar::Int64 => (whole.is_some(), "int64"),
            Scalar::Number => (value.is_number(), "float64"),
            Scalar::Quantity => (text.is_some() || value.is_number(), "resource.Quantity"),
            Scalar::IntStr => (
                text.is_some() || whole.is_some_and(|n| i32::try_from(n).is_ok()),
                "intstr.IntOrString",
            ),
            Scalar::Bytes => {
                let engine = base64::engine::general_purpose::STANDARD;
                (
                    text.is_some_and(|t| engine.decode(t).is_ok()),
                    "[]uint8 (base64)",
                )
            }
            Scalar::Time | Scalar::MicroTime => (
                text.is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()),
                "time.Time (RFC 3339)",
            ),
        };
        if !fits {
            return self.fault(&value.clone(), name);
        }
        // Quantities are text everywhere inside, so that comparing them sees no difference of form.
        if scalar == Scalar::Quantity && value.is_number() {
            *value = Value::String(value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(mut v: Value) -> (Value, Decoded) {
        let d = decode(&mut v, Schema::get().named("core/v1.Pod").unwrap());
        (v, d)
    }

    #[test]
    fn unknown_fields_are_named_by_path_and_dropped() {
        let (v, d) =
            pod(json!({"spec": {"containers": [{"name": "a", "foo": 1, "image": null}], "x": {}}}));
        assert_eq!(d.unknown, ["spec.x", "spec.containers[0].foo"]);
        assert_eq!(v, json!({"spec": {"containers": [{"name": "a"}]}}));
        assert!(d.fault.is_none());
    }

    #[test]
    fn wrong_types_are_refused() {
        let fault = |v: Value| pod(v).1.fault.unwrap_or_default();
        assert!(
            fault(json!({"spec": {"hostNetwork": "yes"}}))
                .contains("string into Go struct field spec.hostNetwork of type bool")
        );
        assert!(fault(json!({"spec": {"containers": {}}})).contains("object into"));
        assert!(fault(json!({"spec": {"terminationGracePeriodSeconds": 1.5}})).contains("int64"));
        assert!(fault(json!({"metadata": {"labels": {"a": 1}}})).contains("metadata.labels.a"));
        assert_eq!(
            fault(json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 1}}}]}})),
            ""
        );
    }
}
