//! Annotations `org.systemd.property.NAME`: properties of the scope, as GVariant text
//! (docs.gtk.org/glib/gvariant-text-format.html), as far as units have such types.

use super::dbus::Value;
use crate::{Error, Result};
use std::collections::HashMap;

const PREFIX: &str = "org.systemd.property.";

/// The properties that `annotations` name, in the order of their names.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<(String, Value)>> {
    let mut list = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let wrong =
            |why: &str| Error::config(format!("annotations[{key:?}]"), format!("{text:?} {why}"));
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(wrong("belongs to no property: its name is letters"));
        }
        let value =
            value(text.trim()).ok_or_else(|| wrong("is no GVariant text of a known type"))?;
        list.push(
            match name.strip_suffix("Sec").filter(|n| !n.ends_with('U')) {
                // systemctl's spelling; on the bus times are in microseconds.
                Some(stem) => {
                    let seconds = number(&value).ok_or_else(|| wrong("is no number of seconds"))?;
                    (
                        format!("{stem}USec"),
                        Value::U64(seconds.saturating_mul(1_000_000)),
                    )
                }
                None => (name.to_owned(), value),
            },
        );
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(list)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::U64(n) => Some(*n),
        Value::U32(n) => Some(u64::from(*n)),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn value(text: &str) -> Option<Value> {
    if let Some(list) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let items = list
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        return items.map(string).collect::<Option<_>>().map(Value::Texts);
    }
    match text.split_once(' ') {
        _ if text.starts_with(['\'', '"']) => string(text).map(Value::Text),
        Some(("uint64", n)) => n.trim().parse().ok().map(Value::U64),
        Some(("int64", n)) => n.trim().parse().ok().map(Value::I64),
        Some(("uint32", n)) => n.trim().parse().ok().map(Value::U32),
        Some(("int32", n)) => n.trim().parse().ok().map(Value::I32),
        Some(_) => None,
        None => match text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            n => n.parse().ok().map(Value::I32),
        },
    }
}

/// A quoted text, with backslashes before quotes and backslashes.
fn string(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|q| matches!(q, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | '\'' | '"'))?),
            c if c == quote => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Vec<(String, Value)>> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        properties(&pairs.collect())
    }

    #[test]
    fn values_by_their_text() {
        let found = of(&[
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("org.systemd.property.TimeoutStopUSec", "uint64 123456789"),
            ("org.systemd.property.TimeoutStartSec", "uint32 30"),
            ("org.systemd.property.AddRef", "true"),
            (
                "org.systemd.property.After",
                r#"['a.service', "b.service"]"#,
            ),
            ("io.other", "x"),
        ]);
        let named = |name: &str, value| (name.to_owned(), value);
        assert_eq!(
            found.unwrap(),
            [
                named("AddRef", Value::Bool(true)),
                named(
                    "After",
                    Value::Texts(vec!["a.service".into(), "b.service".into()])
                ),
                named("CollectMode", Value::Text("inactive-or-failed".into())),
                named("TimeoutStartUSec", Value::U64(30_000_000)),
                named("TimeoutStopUSec", Value::U64(123_456_789)),
            ]
        );
    }

    #[test]
    fn what_is_no_property_is_refused() {
        for (name, text) in [
            ("Ab", "1"),
            ("Slice.x", "1"),
            ("TasksMax", "many"),
            ("TasksMax", "uint64 x"),
            ("TasksMax", "'open"),
            ("KillSec", "'x'"),
        ] {
            let key = format!("org.systemd.property.{name}");
            assert!(of(&[(&key, text)]).is_err(), "{name}={text}");
        }
    }
}
