//! Objects in Kubernetes' protobuf form, which its own clients send for the built-in kinds.
//!
//! A body is `k8s\0` and an `Unknown` message: `typeMeta` (1: apiVersion 1, kind 2), `raw` (2).

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Field, Scalar, Schema, Type, TypeId};

const MAGIC: &[u8] = b"k8s\0";
/// Messages inside messages, at most.
const MAX_DEPTH: usize = 64;

type Result<T> = std::result::Result<T, String>;

/// Decodes a body; the kind is the one that it names.
pub fn decode(body: &[u8]) -> Result<Value> {
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or("it does not start with k8s\\0")?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(rest) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(b)) => version = text(b)?,
                        (2, Wire::Bytes(b)) => kind = text(b)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    let (group, short) = version.rsplit_once('/').unwrap_or(("", &version));
    let schema = Schema::get();
    let id = schema
        .kind(group, short, &kind)
        .or_else(|| schema.named(&format!("meta/v1.{kind}")))
        .ok_or_else(|| format!("no kind \"{kind}\" in version \"{version}\""))?;
    let has_form = schema.of(id).fields.iter().any(|f| !f.number.is_empty());
    if !has_form {
        return Err(format!(
            "\"{kind}\" in version \"{version}\" is served as JSON only"
        ));
    }
    let mut object = message(raw, id, 0)?;
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    Ok(object)
}

enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or("a number is cut off")?;
            self.0 = rest;
            n |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err("a number is longer than 64 bits".into())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| "a field is too long")?;
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("a field is cut off")?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let little = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(little(self.take(4)?)),
            other => return Err(format!("wire type {other} is not known")),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".into())
}

fn message(bytes: &[u8], id: TypeId, depth: usize) -> Result<Value> {
    let mut out = Map::new();
    fields(bytes, id, &[], depth, &mut out)?;
    Ok(Value::Object(out))
}

/// Reads the fields whose numbers start with a prefix: an embedded structure is a message in
/// protobuf and is not one in JSON.
fn fields(
    bytes: &[u8],
    id: TypeId,
    prefix: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err("messages are nested too deeply".into());
    }
    let of = Schema::get().of(id);
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Ok(number) = u8::try_from(number) else {
            continue;
        };
        let path = [prefix, &[number]].concat();
        if let Some(f) = of.fields.iter().find(|f| f.number == path) {
            put(f, &wire, depth, out)?;
        } else if of.fields.iter().any(|f| f.number.starts_with(&path)) {
            let Wire::Bytes(inner) = wire else { continue };
            fields(inner, id, &path, depth + 1, out)?;
        }
    }
    Ok(())
}

fn put(f: &Field, wire: &Wire<'_>, depth: usize, out: &mut Map<String, Value>) -> Result<()> {
    match &f.ty {
        Type::List(inner) => {
            let list = out.entry(f.name).or_insert_with(|| json!([]));
            let value = value(inner, wire, depth).map_err(|e| format!("{}: {e}", f.name))?;
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        }
        Type::Map(inner) => {
            let Wire::Bytes(entry) = wire else {
                return Err(format!("{}: not a map", f.name));
            };
            let (mut key, mut found) = (String::new(), Value::Null);
            for field in Fields(entry) {
                match field? {
                    (1, Wire::Bytes(b)) => key = text(b)?,
                    (2, wire) => found = value(inner, &wire, depth)?,
                    _ => {}
                }
            }
            if found.is_null() {
                found = json!("");
            }
            let map = out.entry(f.name).or_insert_with(|| json!({}));
            map[key] = found;
        }
        ty => {
            let value = value(ty, wire, depth).map_err(|e| format!("{}: {e}", f.name))?;
            // Go writes every plain field; what is empty there is absent here.
            let zero = [json!(""), json!(0), json!(false)].contains(&value);
            let absent = value.is_null() || f.plain && zero;
            if !absent {
                out.insert(f.name.into(), value);
            }
        }
    }
    Ok(())
}

fn value(ty: &Type, wire: &Wire<'_>, depth: usize) -> Result<Value> {
    match (ty, wire) {
        (Type::Struct(id), Wire::Bytes(b)) => message(b, *id, depth + 1),
        (Type::Scalar(s), wire) => scalar(*s, wire),
        // A list in a list or a map is a message with its elements as field 1.
        (Type::List(inner), Wire::Bytes(b)) => {
            let mut list = Vec::new();
            for field in Fields(b) {
                if let (1, wire) = field? {
                    list.push(value(inner, &wire, depth + 1)?);
                }
            }
            Ok(Value::Array(list))
        }
        _ => Err("it has the wrong type".into()),
    }
}

fn scalar(s: Scalar, wire: &Wire<'_>) -> Result<Value> {
    Ok(match (s, wire) {
        (Scalar::String, Wire::Bytes(b)) => json!(text(b)?),
        (Scalar::Bool, Wire::Varint(n)) => json!(*n != 0),
        (Scalar::Int32 | Scalar::Int64, Wire::Varint(n)) => json!(*n as i64),
        (Scalar::Number, Wire::Fixed(n)) => json!(f64::from_bits(*n)),
        (Scalar::Bytes, Wire::Bytes(b)) => {
            json!(base64::engine::general_purpose::STANDARD.encode(b))
        }
        (Scalar::Quantity, Wire::Bytes(b)) => match first(b, 1)? {
            Some(Wire::Bytes(t)) => json!(text(t)?),
            _ => json!("0"),
        },
        (Scalar::IntStr, Wire::Bytes(b)) => match (first(b, 1)?, first(b, 2)?, first(b, 3)?) {
            (Some(Wire::Varint(1)), _, Some(Wire::Bytes(t))) => json!(text(t)?),
            (_, Some(Wire::Varint(n)), _) => json!(n as i64),
            _ => json!(0),
        },
        (Scalar::Time | Scalar::MicroTime, Wire::Bytes(b)) => time(s, b)?,
        (Scalar::Any, Wire::Bytes(b)) => match first(b, 1)? {
            Some(Wire::Bytes(raw)) => {
                serde_json::from_slice(raw).map_err(|e| format!("its JSON: {e}"))?
            }
            _ => Value::Null,
        },
        _ => return Err("it has the wrong type".into()),
    })
}

fn time(s: Scalar, bytes: &[u8]) -> Result<Value> {
    let number = |n| {
        Ok::<_, String>(match first(bytes, n)? {
            Some(Wire::Varint(v)) => v as i64,
            _ => 0,
        })
    };
    let (seconds, nanos) = (number(1)?, number(2)?);
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let at = Timestamp::new(seconds, nanos as i32).map_err(|e| e.to_string())?;
    let form = if s == Scalar::Time {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    };
    Ok(json!(at.strftime(form).to_string()))
}

/// The last field of a number.
fn first(bytes: &[u8], number: u64) -> Result<Option<Wire<'_>>> {
    let mut found = None;
    for field in Fields(bytes) {
        let (n, wire) = field?;
        if n == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, data: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, data.len() as u8], data].concat()
    }

    fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map() {
        let meta = [field(1, b"a"), field(3, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &meta), field(2, &entry)].concat();
        let got = decode(&body("v1", "ConfigMap", &raw)).unwrap();
        assert_eq!(
            got,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn embedded_structures_and_special_types() {
        // Pod{spec(2): volumes(1){name(1), volumeSource(2){emptyDir(2){}}}, containers(2){name(1),
        // livenessProbe(10){handler(1){httpGet(2){port(2){type(1)=1,strVal(3)}}}}}}
        let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
        let port = [vec![8, 1], field(3, b"web")].concat();
        let probe = field(1, &field(2, &field(2, &port)));
        let container = [field(1, b"c"), field(10, &probe)].concat();
        let spec = [field(1, &volume), field(2, &container)].concat();
        let got = decode(&body("v1", "Pod", &field(2, &spec))).unwrap();
        assert_eq!(
            got["spec"]["volumes"],
            json!([{"name": "v", "emptyDir": {}}])
        );
        let probe = &got["spec"]["containers"][0]["livenessProbe"];
        assert_eq!(probe, &json!({"httpGet": {"port": "web"}}));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        for bad in [
            &b"k8s\0\x0a\xff\x01"[..],
            b"x",
            b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(decode(bad).is_err());
        }
        let mut nested = vec![];
        for _ in 0..40 {
            nested = field(7, &nested);
        }
        let _ = decode(&body("v1", "Pod", &nested));
    }
}
