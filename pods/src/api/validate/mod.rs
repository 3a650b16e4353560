//! Finding the faults of objects, in Kubernetes' words.

pub mod meta;
pub mod names;

use std::fmt::Display;

use serde_json::Value;

use super::status::Cause;

/// Collects faults. Paths are built by the caller, so that a valid object costs no formatting.
#[derive(Debug, Default)]
pub struct Faults(Vec<Cause>);

impl Faults {
    /// All that was found.
    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        self.0.push(Cause {
            reason,
            field: field.into(),
            message,
        });
    }

    /// The field must be there.
    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() {
            "Required value".into()
        } else {
            format!("Required value: {detail}")
        };
        self.add("FieldValueRequired", field, message);
    }

    /// The value is wrong.
    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: impl Display) {
        self.add(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value}: {detail}"),
        );
    }

    /// The text is wrong.
    pub fn invalid_str(&mut self, field: impl Into<String>, value: &str, detail: impl Display) {
        self.add(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value:?}: {detail}"),
        );
    }

    /// The value is not one of those known.
    pub fn unsupported(&mut self, field: impl Into<String>, value: &str, known: &[&str]) {
        let mut known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        known.sort();
        let known = known.join(", ");
        let message = format!("Unsupported value: {value:?}: supported values: {known}");
        self.add("FieldValueNotSupported", field, message);
    }

    /// The value is there twice.
    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.add(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {value}"),
        );
    }

    /// The field may not be there, or may not change.
    pub fn forbidden(&mut self, field: impl Into<String>, detail: impl Display) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    /// The value is larger than allowed.
    pub fn too_long(&mut self, field: impl Into<String>, max: usize) {
        let message = format!("Too long: may not be more than {max} bytes");
        self.add("FieldValueTooLong", field, message);
    }

    /// The value is not of the type that it must be of.
    pub fn wrong_type(&mut self, field: impl Into<String>, found: &str, detail: &str) {
        let message = format!("Invalid value: {found:?}: {detail}");
        self.add("FieldValueTypeInvalid", field, message);
    }

    /// The value is not one of those known, which are given as JSON.
    pub fn not_supported(&mut self, field: impl Into<String>, value: &Value, known: &str) {
        let message = format!("Unsupported value: {value}: supported values: {known}");
        self.add("FieldValueNotSupported", field, message);
    }

    /// There are more elements than allowed.
    pub fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        let message = format!("Too many: {count}: must have at most {most} items");
        self.add("FieldValueTooMany", field, message);
    }

    /// A fault whose message is made already.
    pub fn said(&mut self, field: impl Into<String>, message: String) {
        let reason = match message.split(':').next() {
            Some("Required value") => "FieldValueRequired",
            Some("Forbidden") => "FieldValueForbidden",
            Some("Unsupported value") => "FieldValueNotSupported",
            Some("Too many") => "FieldValueTooMany",
            _ => "FieldValueInvalid",
        };
        self.add(reason, field, message);
    }

    /// Takes over what was found elsewhere.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// What the value names does not exist.
    pub fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.add("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    /// The field must have one of the values, if it is there.
    pub fn one_of(&mut self, field: &str, value: &Value, known: &[&str]) {
        match value.as_str() {
            Some(v) if !known.contains(&v) => self.unsupported(field, v, known),
            _ => {}
        }
    }

    /// The number may not be negative, if it is there.
    pub fn not_negative(&mut self, field: &str, value: &Value) {
        if value.as_i64().is_some_and(|n| n < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    /// The field may not change.
    pub fn immutable(&mut self, field: &str, old: &Value, new: &Value) {
        if old != new {
            self.invalid(field, new, "field is immutable");
        }
    }
}

/// The elements of a list that may be absent.
pub fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

/// The entries of a map that may be absent.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A text field, empty when absent.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
