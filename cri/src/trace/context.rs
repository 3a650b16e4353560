//! W3C Trace Context: whose trace a call belongs to, and the ids of new spans.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tonic::metadata::MetadataMap;

/// The header's name.
const HEADER: &str = "traceparent";

/// A trace, a span of it, and whether it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// Not all zero.
    pub trace: [u8; 16],
    /// Not all zero.
    pub span: [u8; 8],
    /// Whoever began the trace keeps it.
    pub sampled: bool,
}

/// The header of a call, where it has a good one.
pub fn parent(metadata: &MetadataMap) -> Option<&str> {
    let text = metadata.get(HEADER)?.to_str().ok()?;
    parse(text).map(|_| text)
}

/// `version-trace-span-flags`, in lower-case hexadecimal digits. A later version may have more parts.
pub fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let version = hex::<1>(parts.next()?)?[0];
    let (trace, span) = (hex::<16>(parts.next()?)?, hex::<8>(parts.next()?)?);
    let flags = hex::<1>(parts.next()?)?[0];
    let whole = version != 0 || parts.next().is_none();
    let good = version != 0xff && whole && trace != [0; 16] && span != [0; 8];
    good.then_some(SpanContext {
        trace,
        span,
        sampled: flags & 1 == 1,
    })
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect();
    bytes?.try_into().ok()
}

/// Ids that nobody else has: a counter, mixed with what this process began with.
pub struct Ids {
    key: [u64; 2],
    next: AtomicU64,
}

impl Ids {
    /// Seeds them.
    pub fn new() -> Result<Self> {
        let mut bytes = [0_u8; 24];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .context("read /dev/urandom")?;
        let word = |at: usize| {
            let bytes: &[u8; 8] = bytes[at..].first_chunk().expect("24 bytes are three words");
            u64::from_ne_bytes(*bytes)
        };
        Ok(Self {
            key: [word(0), word(8)],
            next: AtomicU64::new(word(16)),
        })
    }

    /// A span's id.
    pub fn span(&self) -> [u8; 8] {
        self.word(0).to_be_bytes()
    }

    /// A trace's id, of which the last eight bytes are random as level 2 of Trace Context has it.
    pub fn trace(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.word(0).to_be_bytes());
        id[8..].copy_from_slice(&self.word(1).to_be_bytes());
        id
    }

    /// splitmix64.
    fn word(&self, key: usize) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let count = self.next.fetch_add(STEP, Ordering::Relaxed);
        let mut word = count ^ self.key[key];
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_a_bad_one_is_none() {
        let context = parse(GOOD).unwrap();
        assert_eq!(context.trace[..2], [0x4b, 0xf9]);
        assert_eq!((context.span[7], context.sampled), (0xb7, true));
        assert!(!parse(&GOOD.replace("-01", "-00")).unwrap().sampled);
        // A version of the future with a part more.
        assert!(parse(&format!("cc{}-x", &GOOD[2..])).is_some());
        for bad in [
            "",
            "00",
            &format!("{GOOD}-x"),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.replace("4bf9", "4BF9"),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("02b7", "02bé"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::new().unwrap();
        let all: std::collections::BTreeSet<_> = (0..1000).map(|_| ids.trace()).collect();
        assert_eq!(all.len(), 1000);
        assert_ne!(ids.span(), ids.span());
    }
}
