//! A schema as it is kept: packed text. It is read when an object of its kind is written, and stays
//! read while few others are: an operator declares dozens of kinds and uses some.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::schema::{self, Node};
use crate::store::packed::{pack, unpack};

/// Schemas of so many bytes of JSON together stay read.
const BUDGET: usize = 1 << 20;

/// See the module.
pub(super) struct Document {
    /// Of its own in the process.
    number: u64,
    text: Text,
    length: usize,
    digest: Vec<u8>,
}

enum Text {
    Packed(Box<[u8]>),
    Plain(Box<[u8]>),
}

/// What was read, the latest used last.
static READ: Mutex<Vec<(u64, usize, Arc<Node>)>> = Mutex::new(Vec::new());

impl Document {
    /// Keeps a schema.
    pub fn of(schema: &Value) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let text = schema.to_string().into_bytes();
        let digest = ring::digest::digest(&ring::digest::SHA256, &text);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            length: text.len(),
            digest: digest.as_ref().to_vec(),
            text: match pack(&text) {
                Some(packed) => Text::Packed(packed),
                None => Text::Plain(text.into_boxed_slice()),
            },
        }
    }

    /// The schema as it was written.
    pub fn value(&self) -> Value {
        let parsed = match &self.text {
            Text::Packed(bytes) => serde_json::from_slice(&unpack(bytes, self.length)),
            Text::Plain(bytes) => serde_json::from_slice(bytes),
        };
        // It was made of a value.
        parsed.unwrap_or(Value::Null)
    }

    /// What tells it from others.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The schema, read.
    pub fn node(&self) -> Arc<Node> {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = read.iter().position(|(number, ..)| *number == self.number) {
            let found = read.remove(at);
            let node = found.2.clone();
            read.push(found);
            return node;
        }
        let node = Arc::new(schema::parse(&self.value(), &mut Vec::new()));
        read.push((self.number, self.length, node.clone()));
        let mut sum: usize = read.iter().map(|(_, length, _)| length).sum();
        while sum > BUDGET && read.len() > 1 {
            sum -= read.remove(0).1;
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_what_it_was_and_old_ones_are_read_again() {
        let schema = |n: usize| {
            let properties =
                json!({"name": {"type": "string", "description": "x".repeat(BUDGET / 2)}});
            json!({"type": "object", "title": n.to_string(), "properties": properties})
        };
        let all: Vec<Document> = (0..4).map(|n| Document::of(&schema(n))).collect();
        for (n, document) in all.iter().enumerate() {
            assert_eq!(document.value(), schema(n));
            assert!(document.node().properties.contains_key("name"));
        }
        let held = |of: &Document| {
            let read = READ.lock().unwrap();
            read.iter().any(|(number, ..)| *number == of.number)
        };
        assert!(!held(&all[0]));
        let first = all[0].node();
        assert!(held(&all[0]));
        assert!(Arc::ptr_eq(&first, &all[0].node()));
        assert_ne!(all[0].digest(), all[1].digest());
    }
}
