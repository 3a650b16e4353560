//! The protobuf form of an OpenAPI v2 document: messages of gnostic's `openapi.v2`, as far as the
//! documents made here go. Numbers are the fields' in its OpenAPIv2.proto.

use serde_json::{Map, Value};

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u64, data: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(data.len() as u64);
        self.0.extend_from_slice(data);
    }

    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, list: &Value) {
        for v in list.as_array().into_iter().flatten() {
            self.text(field, v);
        }
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if *value == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// `Any`: the value as YAML, of which JSON is a part.
    fn any(&mut self, field: u64, value: &Value) {
        self.message(field, |any| any.bytes(2, value.to_string().as_bytes()));
    }

    /// A map as a list of name and value.
    fn named(
        &mut self,
        field: u64,
        map: Option<&Map<String, Value>>,
        write: impl Fn(&mut Self, &Value),
    ) {
        for (name, value) in map.into_iter().flatten() {
            self.message(field, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |m| write(m, value));
            });
        }
    }

    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in of
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| k.starts_with("x-"))
        {
            self.message(field, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.any(2, value);
            });
        }
    }
}

/// `Document`.
pub fn v2(doc: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &doc["swagger"]);
    out.message(2, |info| {
        info.text(1, &doc["info"]["title"]);
        info.text(2, &doc["info"]["version"]);
    });
    out.message(8, |paths| {
        paths.named(2, doc["paths"].as_object(), path_item);
    });
    out.message(9, |all| {
        all.named(1, doc["definitions"].as_object(), schema);
    });
    out.0
}

fn path_item(m: &mut Message, item: &Value) {
    for (method, field) in [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("patch", 8),
    ] {
        let op = &item[method];
        if !op.is_null() {
            m.message(field, |m| operation(m, op));
        }
    }
    for p in item["parameters"].as_array().into_iter().flatten() {
        m.message(9, |m| parameter(m, p));
    }
}

fn operation(m: &mut Message, op: &Value) {
    for p in op["parameters"].as_array().into_iter().flatten() {
        m.message(8, |m| parameter(m, p));
    }
    m.message(9, |responses| {
        responses.named(1, op["responses"].as_object(), |value, response| {
            value.message(1, |r| {
                r.text(1, &response["description"]);
                if !response["schema"].is_null() {
                    r.message(2, |item| {
                        item.message(1, |s| schema(s, &response["schema"]));
                    });
                }
            });
        });
    });
    m.extensions(13, op);
}

/// `ParametersItem`: a query or a path parameter.
fn parameter(m: &mut Message, p: &Value) {
    let query = p["in"] == "query";
    m.message(1, |parameter| {
        parameter.message(2, |non_body| {
            non_body.message(if query { 3 } else { 4 }, |sub| {
                sub.flag(1, &p["required"]);
                sub.text(2, &p["in"]);
                sub.text(4, &p["name"]);
                sub.text(if query { 6 } else { 5 }, &p["type"]);
                sub.flag(if query { 20 } else { 19 }, &p["uniqueItems"]);
            });
        });
    });
}

fn schema(m: &mut Message, s: &Value) {
    m.text(1, &s["$ref"]);
    m.text(2, &s["format"]);
    m.text(4, &s["description"]);
    if !s["default"].is_null() {
        m.any(5, &s["default"]);
    }
    m.texts(19, &s["required"]);
    if !s["additionalProperties"].is_null() {
        m.message(21, |item| {
            item.message(1, |inner| schema(inner, &s["additionalProperties"]));
        });
    }
    if !s["type"].is_null() {
        m.message(22, |item| item.text(1, &s["type"]));
    }
    if !s["items"].is_null() {
        m.message(23, |item| {
            item.message(1, |inner| schema(inner, &s["items"]));
        });
    }
    if !s["properties"].is_null() {
        m.message(25, |all| all.named(1, s["properties"].as_object(), schema));
    }
    m.extensions(31, s);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_as_protobuf_has_them() {
        let doc = json!({"swagger": "2.0", "info": {"title": "K", "version": "v"}});
        let want = b"\x0a\x032.0\x12\x06\x0a\x01K\x12\x01v\x42\x00\x4a\x00";
        assert_eq!(v2(&doc), want);
    }
}
