//! Objects as rows for people: the server side of `kubectl get`.

use serde_json::{Value, json};

use super::resource::Res;
use crate::store::Object;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`, … (OpenAPI types).
    pub kind: &'static str,
    /// 0 is always shown, more with `-o wide` only.
    pub priority: u8,
}

impl Column {
    /// Text, always shown.
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            kind: "string",
            priority: 0,
        }
    }

    /// Text for `-o wide`.
    pub const fn wide(name: &'static str) -> Self {
        Self {
            name,
            kind: "string",
            priority: 1,
        }
    }

    /// A number, always shown.
    pub const fn int(name: &'static str) -> Self {
        Self {
            name,
            kind: "integer",
            priority: 0,
        }
    }

    fn to_value(self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({"name": self.name, "type": self.kind, "format": format,
               "description": "", "priority": self.priority})
    }
}

/// What a row shows of the object beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

/// `metadata` of a list, as JSON text without braces: version, continuation, rest.
pub(super) fn list_meta(rv: u64, more: Option<(&str, usize)>) -> String {
    match more {
        None => format!(r#""resourceVersion":"{rv}""#),
        Some((token, rest)) => {
            format!(r#""resourceVersion":"{rv}","continue":"{token}","remainingItemCount":{rest}"#)
        }
    }
}

/// A Table of objects.
pub(super) fn table(res: Res, objects: &[&Object], meta: &str, include: Include) -> String {
    let columns: Vec<Value> = res.columns.iter().map(|c| c.to_value()).collect();
    let mut out = String::with_capacity(1024 + objects.len() * 1024);
    out.push_str(r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"#);
    out.push_str(meta);
    out.push_str(r#"},"columnDefinitions":"#);
    out.push_str(&Value::Array(columns).to_string());
    out.push_str(r#","rows":["#);
    for (i, o) in objects.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        // What is unpacked for a row goes with it.
        let own = o.is_packed().then(|| o.slim());
        let o = own.as_deref().unwrap_or(o);
        out.push_str(r#"{"cells":"#);
        out.push_str(&Value::Array(res.cells(o)).to_string());
        match include {
            Include::None => {}
            Include::Metadata => {
                out.push_str(r#","object":"#);
                partial_into(&mut out, o);
            }
            Include::Object => {
                out.push_str(r#","object":"#);
                out.push_str(std::str::from_utf8(o.json()).unwrap_or("null"));
            }
        }
        out.push('}');
    }
    out.push_str("]}");
    out
}

fn partial_into(out: &mut String, o: &Object) {
    out.push_str(r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.push_str(&o.at("/metadata").to_string());
    out.push('}');
}

/// PartialObjectMetadata of one object.
pub(super) fn partial(o: &Object) -> String {
    let mut out = String::new();
    partial_into(&mut out, o);
    out
}

/// PartialObjectMetadataList.
pub(super) fn partial_list(objects: &[&Object], meta: &str) -> String {
    let mut out = String::from(r#"{"kind":"PartialObjectMetadataList","#);
    out.push_str(r#""apiVersion":"meta.k8s.io/v1","metadata":{"#);
    out.push_str(meta);
    out.push_str(r#"},"items":["#);
    for (i, o) in objects.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        let own = o.is_packed().then(|| o.slim());
        partial_into(&mut out, own.as_deref().unwrap_or(o));
    }
    out.push_str("]}");
    out
}

/// Time since a timestamp of the API, as kubectl writes it; `<unknown>` when absent.
pub fn age(timestamp: &Value) -> String {
    let at = timestamp
        .as_str()
        .and_then(|t| t.parse::<jiff::Timestamp>().ok());
    match at {
        None => "<unknown>".into(),
        Some(at) => human_duration(jiff::Timestamp::now().as_second() - at.as_second()),
    }
}

/// Seconds in at most two units, fewer the longer it is.
pub fn human_duration(seconds: i64) -> String {
    let two = |high: i64, high_unit, low: i64, low_unit| {
        if low == 0 {
            format!("{high}{high_unit}")
        } else {
            format!("{high}{high_unit}{low}{low_unit}")
        }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// Cells of a kind that shows nothing but its name and age.
pub const NAME_AGE: &[Column] = &[Column::text("Name"), Column::text("Age")];

/// Row of [`NAME_AGE`].
pub fn name_age(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (s, want) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (601, "10m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (2 * 86_400 + 3600, "2d1h"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(human_duration(s), want, "{s}");
        }
    }
}
