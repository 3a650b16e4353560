//! Entries of a transparency log (Rekor), verified without asking it.

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::key::PublicKey;
use super::signature::{Claim, Signature};
use super::{decode, encode};
use crate::Digest;

/// A proof has one hash for each level of the tree.
const PROOF_LIMIT: usize = 64;

/// A log's promise, and its proof where it came along.
#[derive(Debug, Default)]
pub(super) struct LogEntry {
    /// Base64 of what was logged.
    pub body: String,
    /// Seconds since 1970.
    pub integrated_time: i64,
    /// Hexadecimal digest of the log's key.
    pub log_id: String,
    pub log_index: i64,
    /// The log's signature of all that (SignedEntryTimestamp).
    pub promise: Vec<u8>,
    pub proof: Option<Proof>,
}

/// That the entry is in the tree that a checkpoint of the log speaks of (RFC 9162, 2.1.3).
#[derive(Debug)]
pub(super) struct Proof {
    pub index: u64,
    pub size: u64,
    pub root: Vec<u8>,
    pub hashes: Vec<Vec<u8>>,
    /// A signed note.
    pub checkpoint: String,
}

/// In the order that the log signs it: canonical JSON has its keys sorted.
#[derive(Serialize)]
struct Promised<'a> {
    body: &'a str,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logID")]
    log_id: &'a str,
    #[serde(rename = "logIndex")]
    log_index: i64,
}

#[derive(Deserialize)]
#[serde(tag = "kind", content = "spec", rename_all = "lowercase")]
enum Body {
    HashedRekord { data: Data, signature: Logged },
    Dsse(Envelope),
}

#[derive(Deserialize)]
struct Data {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

impl Hash {
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.algorithm == "sha256" && self.value == Digest::of(bytes).hex()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logged {
    content: String,
    public_key: LoggedKey,
}

#[derive(Deserialize)]
struct LoggedKey {
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_hash: Hash,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    signature: String,
    verifier: String,
}

impl LogEntry {
    /// Seconds since 1970 at which the log of this key took this very signature.
    pub fn time_of(
        &self,
        log: &PublicKey,
        signature: &Signature,
        leaf: &CertificateDer<'_>,
    ) -> Result<u64, String> {
        let bad = |what: &str| format!("its log entry {what}");
        let promised = Promised {
            body: &self.body,
            integrated_time: self.integrated_time,
            log_id: &self.log_id,
            log_index: self.log_index,
        };
        let promised = serde_json::to_vec(&promised).expect("the entry is plain");
        if self.promise.is_empty() {
            return Err(bad("has no promise of the log (SignedEntryTimestamp)"));
        }
        if !log.verifies(&promised, &self.promise) {
            return Err(bad("is not of the policy's log"));
        }
        let body = decode(&self.body).unwrap_or_default();
        if let Some(proof) = &self.proof {
            proof.verify(log, &body).map_err(bad)?;
        }
        let logged: Body = serde_json::from_slice(&body).map_err(|_| bad("is malformed"))?;
        if !logged.is_of(signature, leaf) {
            return Err(bad("is of another signature"));
        }
        u64::try_from(self.integrated_time).map_err(|_| bad("has no time"))
    }
}

impl Body {
    fn is_of(&self, signature: &Signature, leaf: &CertificateDer<'_>) -> bool {
        let same_signature = |text: &str| decode(text).as_ref() == Some(&signature.signature);
        let same_certificate = |text: &str| {
            let pem = decode(text).unwrap_or_default();
            CertificateDer::from_pem_slice(&pem).is_ok_and(|logged| logged == *leaf)
        };
        match (self, &signature.claim) {
            (Self::HashedRekord { data, signature: s }, _) => {
                data.hash.is_of(&signature.message)
                    && same_signature(&s.content)
                    && same_certificate(&s.public_key.content)
            }
            (Self::Dsse(envelope), Claim::Statement(payload)) => {
                envelope.payload_hash.is_of(payload)
                    && envelope
                        .signatures
                        .iter()
                        .any(|s| same_signature(&s.signature) && same_certificate(&s.verifier))
            }
            (Self::Dsse(_), Claim::Simple) => false,
        }
    }
}

impl Proof {
    fn verify(&self, log: &PublicKey, body: &[u8]) -> Result<(), &'static str> {
        let leaf = digest(&SHA256, &[&[0], body].concat());
        let root = root_of(self.index, self.size, leaf.as_ref(), &self.hashes);
        if root.as_deref() != Some(&self.root[..]) {
            return Err("is not where its proof says");
        }
        let note = Checkpoint::parse(&self.checkpoint).ok_or("has a malformed checkpoint")?;
        if note.size != self.size || note.root != self.root {
            return Err("has a proof for another checkpoint");
        }
        let signed = |signature: &Vec<u8>| log.verifies(note.text.as_bytes(), signature);
        if note.signatures.iter().any(signed) {
            Ok(())
        } else {
            Err("has a checkpoint that is not of the policy's log")
        }
    }
}

/// The root of a tree of `size` leaves by a leaf and the hashes beside its way up.
fn root_of(index: u64, size: u64, leaf: &[u8], hashes: &[Vec<u8>]) -> Option<Vec<u8>> {
    if index >= size || hashes.len() > PROOF_LIMIT {
        return None;
    }
    let node = |a: &[u8], b: &[u8]| digest(&SHA256, &[&[1], a, b].concat()).as_ref().to_vec();
    let (mut at, mut last) = (index, size - 1);
    let mut root = leaf.to_vec();
    for hash in hashes {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node(hash, &root);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            root = node(&root, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// A signed note of a log: origin, size, root, then an empty line and signatures.
struct Checkpoint<'a> {
    /// What is signed.
    text: &'a str,
    size: u64,
    root: Vec<u8>,
    /// Without the four bytes that name the key.
    signatures: Vec<Vec<u8>>,
}

impl<'a> Checkpoint<'a> {
    fn parse(note: &'a str) -> Option<Self> {
        let end = note.find("\n\n")? + 1;
        let (text, signatures) = (&note[..end], &note[end + 1..]);
        let mut lines = text.lines().skip(1);
        let size = lines.next()?.parse().ok()?;
        let root = decode(lines.next()?)?;
        let signature = |line: &str| {
            let (_, text) = line.strip_prefix("\u{2014} ")?.rsplit_once(' ')?;
            Some(decode(text)?.get(4..)?.to_vec())
        };
        Some(Self {
            text,
            size,
            root,
            signatures: signatures.lines().filter_map(signature).collect(),
        })
    }
}

/// Bytes as the log writes them.
pub(super) fn body_text(bytes: &[u8]) -> String {
    encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> Vec<u8> {
        digest(&SHA256, bytes).as_ref().to_vec()
    }

    fn leaf(n: u8) -> Vec<u8> {
        hash(&[0, n])
    }

    /// RFC 9162, 2.1.1, straight from the definition.
    fn tree(leaves: &[u8]) -> Vec<u8> {
        if let [one] = leaves {
            return leaf(*one);
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        hash(&[&[1], &tree(left)[..], &tree(right)].concat())
    }

    fn path(index: usize, leaves: &[u8]) -> Vec<Vec<u8>> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut path, other) = if index < split {
            (self::path(index, left), tree(right))
        } else {
            (self::path(index - split, right), tree(left))
        };
        path.push(other);
        path
    }

    #[test]
    fn proofs_of_all_small_trees_hold_and_no_other() {
        for size in 1..20u8 {
            let leaves: Vec<u8> = (0..size).collect();
            let root = tree(&leaves);
            for index in 0..size {
                let proof = path(usize::from(index), &leaves);
                let of = |i: u64, s: u64, l: u8| root_of(i, s, &leaf(l), &proof);
                let (i, s) = (u64::from(index), u64::from(size));
                assert_eq!(of(i, s, index).as_ref(), Some(&root));
                assert_ne!(of(i, s, index + 1).as_ref(), Some(&root));
                assert_eq!(of(s, s, index), None);
            }
        }
    }

    #[test]
    fn checkpoints_are_read() {
        let note = "rekor.example - 1\n7\nAAE=\nTimestamp: 1\n\n\u{2014} rekor.example AQIDBAU=\n";
        let read = Checkpoint::parse(note).unwrap();
        assert!(read.text.ends_with("Timestamp: 1\n"));
        assert_eq!((read.size, read.root), (7, vec![0, 1]));
        assert_eq!(read.signatures, [vec![5]]);
        assert!(Checkpoint::parse("a\nb\nc\n\n").is_none());
        assert!(Checkpoint::parse("").is_none());
    }
}
