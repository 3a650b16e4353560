//! Large objects as they are kept in memory: deflated, with their head beside it.
//!
//! An operator's definitions are megabytes of text that hardly anybody reads, and ten times as much as
//! trees.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::Deserialize;
use serde_json::{Value, json};

/// Objects of so many bytes of JSON are kept packed.
pub(super) const LARGE: usize = 32 << 10;

/// A packed object.
#[derive(Debug)]
pub(super) struct Packed {
    /// The JSON, deflated.
    pub bytes: Box<[u8]>,
    length: usize,
    /// `apiVersion`, `kind` and `metadata` without annotations and managed fields.
    pub head: Value,
}

/// What is read of the JSON for the head; the rest is passed over.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion", default)]
    api_version: Value,
    #[serde(default)]
    kind: Value,
    #[serde(default)]
    metadata: Value,
}

/// Fields of the metadata that may be as large as the object.
const NOT_IN_HEAD: [&str; 2] = ["annotations", "managedFields"];

/// Whether what a JSON pointer leads to is in the head, if it is anywhere.
pub(super) fn in_head(pointer: &str) -> bool {
    if matches!(pointer, "/apiVersion" | "/kind") {
        return true;
    }
    let field = pointer.strip_prefix("/metadata/").unwrap_or_default();
    let field = field.split('/').next().unwrap_or_default();
    !field.is_empty() && !NOT_IN_HEAD.contains(&field)
}

/// Deflates a text.
pub(crate) fn pack(text: &[u8]) -> Option<Box<[u8]>> {
    let mut out = DeflateEncoder::new(Vec::with_capacity(text.len() / 6), Compression::fast());
    out.write_all(text).ok()?;
    Some(out.finish().ok()?.into_boxed_slice())
}

/// The text of `length` bytes that was deflated.
pub(crate) fn unpack(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length);
    // It was made by `pack`, in this process.
    let read = DeflateDecoder::new(bytes).read_to_end(&mut out);
    debug_assert!(read.is_ok());
    out
}

impl Packed {
    /// Packs JSON; `None` where it is none.
    pub fn of(json: &Bytes) -> Option<Self> {
        let mut head: Head = serde_json::from_slice(json).ok()?;
        if let Some(meta) = head.metadata.as_object_mut() {
            for field in NOT_IN_HEAD {
                meta.remove(field);
            }
        }
        Some(Self {
            bytes: pack(json)?,
            length: json.len(),
            head: json!({"apiVersion": head.api_version, "kind": head.kind, "metadata": head.metadata}),
        })
    }

    /// The JSON.
    pub fn unpack(&self) -> Bytes {
        unpack(&self.bytes, self.length).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Object;
    use super::*;

    #[test]
    fn a_large_object_is_the_same_when_it_was_packed() {
        let value = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n", "uid": "u",
            "labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"text": "word ".repeat(LARGE)}});
        let kept = Object::from_value(7, value.clone()).stored();
        assert!(
            kept.is_packed() && kept.weight() < LARGE / 4,
            "{}",
            kept.weight()
        );
        let given = kept.given();
        assert_eq!(
            (given.name(), given.uid(), given.label("a")),
            ("n", "u", Some("b"))
        );
        // Nothing so far has unpacked it.
        assert!(given.head()["spec"].is_null());
        assert_eq!(given.annotation("c"), Some("d"));
        assert_eq!(given.at("/metadata/annotations/c"), "d");
        assert_eq!((given.value(), given.resource_version()), (&value, 7));
        assert_eq!(given.json(), &Bytes::from(value.to_string()));
    }

    #[test]
    fn a_small_object_is_kept_as_it_is() {
        let kept = Object::from_value(1, json!({"metadata": {"name": "n"}})).stored();
        assert!(!kept.is_packed());
        assert_eq!(kept.head(), kept.value());
    }

    #[test]
    fn heads_have_small_metadata_alone() {
        assert!(in_head("/metadata/ownerReferences") && in_head("/metadata/labels/x"));
        for not in [
            "/metadata",
            "/metadata/annotations/x",
            "/metadata/managedFields",
            "/spec",
            "",
        ] {
            assert!(!in_head(not), "{not}");
        }
    }
}
