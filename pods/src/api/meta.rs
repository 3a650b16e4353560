//! What the API itself writes into `metadata`: uid, timestamps, generated names.

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

/// Letters of generated names: none that spells a word or is mistaken for another.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The time as the API writes it: RFC 3339, whole seconds, UTC.
pub fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel's random numbers are ready");
    bytes
}

/// A random (version 4) UUID.
pub(super) fn uuid() -> String {
    let mut b: [u8; 16] = random();
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let n = u128::from_be_bytes(b);
    let h = format!("{n:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &h[..8],
        &h[8..12],
        &h[12..16],
        &h[16..20],
        &h[20..]
    )
}

/// `prefix` and five random letters; a prefix that leaves no room for them is cut.
pub(super) fn generate_name(prefix: &str) -> String {
    let mut cut = prefix.len().min(58);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    let tail = random::<5>().map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()]));
    prefix[..cut].chars().chain(tail).collect()
}

/// `metadata` of an object, made when absent.
pub(super) fn of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    let meta = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if meta.is_null() {
        *meta = Value::Object(Map::new());
    }
    meta.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let u = uuid();
        assert_eq!((u.len(), &u[14..15]), (36, "4"));
        assert_ne!(u, uuid());
        assert_eq!(generate_name(&"a".repeat(80)).len(), 63);
        assert!(generate_name("web-").starts_with("web-") && now().ends_with('Z'));
    }
}
