//! Proofs that something is in a log: a way through its tree to a root that the log signed.

use ring::digest::{SHA256, digest};

use super::decode;
use super::log::Log;

/// A proof has one hash for each level of the tree.
const PROOF_LIMIT: usize = 64;
/// Signatures of a note that are looked at: the log's and those of its witnesses.
const SIGNATURES: usize = 64;

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

impl Proof {
    /// That the tree of a log has this entry, which was to be believed at all of these times (seconds
    /// since 1970).
    pub fn verify(&self, logs: &[Log], body: &[u8], times: &[u64]) -> Result<(), &'static str> {
        let leaf = digest(&SHA256, &[&[0], body].concat());
        let root = root_of(self.index, self.size, leaf.as_ref(), &self.hashes);
        if root.as_deref() != Some(&self.root[..]) {
            return Err("is not where its proof says");
        }
        let note = Checkpoint::parse(&self.checkpoint).ok_or("has a malformed checkpoint")?;
        if note.size != self.size || note.root != self.root {
            return Err("has a proof for another checkpoint");
        }
        let by = |signature: &NoteSignature<'_>, log: &Log| {
            log.signs_as(signature.name, &signature.key)
                && log.key.verifies(note.text.as_bytes(), &signature.bytes)
        };
        let signed = |log: &&Log| note.signatures.iter().any(|s| by(s, log));
        let mut signers = logs.iter().filter(signed).peekable();
        if signers.peek().is_none() {
            Err("has a checkpoint that is not of the policy's log")
        } else if signers.any(|log| log.was_good(times)) {
            Ok(())
        } else {
            Err("is of a log that is not to be believed for that time")
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
    signatures: Vec<NoteSignature<'a>>,
}

/// A line of a signed note (C2SP, signed-note).
#[derive(Debug, PartialEq, Eq)]
struct NoteSignature<'a> {
    name: &'a str,
    /// Four bytes that name the key.
    key: Vec<u8>,
    bytes: Vec<u8>,
}

impl<'a> Checkpoint<'a> {
    fn parse(note: &'a str) -> Option<Self> {
        let end = note.find("\n\n")? + 1;
        let (text, signatures) = (&note[..end], &note[end + 1..]);
        let mut lines = text.lines().skip(1);
        let size = lines.next()?.parse().ok()?;
        let root = decode(lines.next()?)?;
        let signature = |line: &'a str| {
            let (name, text) = line.strip_prefix("\u{2014} ")?.rsplit_once(' ')?;
            let bytes = decode(text)?;
            let (key, bytes) = bytes.split_at_checked(4)?;
            Some(NoteSignature {
                name,
                key: key.to_vec(),
                bytes: bytes.to_vec(),
            })
        };
        Some(Self {
            text,
            size,
            root,
            signatures: signatures
                .lines()
                .filter_map(signature)
                .take(SIGNATURES)
                .collect(),
        })
    }
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
        let signature = NoteSignature {
            name: "rekor.example",
            key: vec![1, 2, 3, 4],
            bytes: vec![5],
        };
        assert_eq!(read.signatures, [signature]);
        assert!(Checkpoint::parse("a\nb\nc\n\n").is_none());
        assert!(Checkpoint::parse("").is_none());
    }
}
