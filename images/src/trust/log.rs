//! Entries of a transparency log (Rekor, version 1 and 2), verified without asking it.
//!
//! The first version promises with its signature that it takes an entry, and when. The second gives a proof
//! that it is in the log, and no time.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::checkpoint::Proof;
use super::key::PublicKey;
use super::proto::{Base64, RawBytes};
use super::root::Period;
use super::signature::{Claim, Signature};
use super::{decode, encode};
use crate::Digest;

/// A log that is believed.
#[derive(Debug)]
pub(super) struct Log {
    pub key: PublicKey,
    name: Option<Name>,
    valid: Period,
}

/// What entries and signed notes call it.
#[derive(Debug)]
struct Name {
    origin: String,
    /// The first bytes of a signature in a note.
    note_key: Vec<u8>,
    /// Hexadecimal.
    id: String,
}

impl Log {
    /// Of whom only the key is known.
    pub fn of_key(key: PublicKey) -> Self {
        Self {
            key,
            name: None,
            valid: Period::ALWAYS,
        }
    }

    pub fn named(key: PublicKey, origin: &str, note_key: &[u8], id: &[u8], valid: Period) -> Self {
        let name = Name {
            origin: origin.to_owned(),
            note_key: note_key.to_vec(),
            id: hex(id),
        };
        Self {
            key,
            name: Some(name),
            valid,
        }
    }

    /// Whether a signature of a note says that it is of this log.
    pub fn signs_as(&self, name: &str, note_key: &[u8]) -> bool {
        let same = |own: &Name| own.origin == name && own.note_key == note_key;
        self.name.as_ref().is_none_or(same)
    }

    fn promised(&self, entry: &LogEntry, promise: &[u8], time: u64) -> bool {
        let same = |name: &Name| name.id == entry.log_id;
        self.name.as_ref().is_none_or(same)
            && self.valid.has(time)
            && self.key.verifies(promise, &entry.promise)
    }
}

/// As logs are named.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

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
    HashedRekord(Record),
    Dsse(Statement),
}

/// By the version of the entry.
#[derive(Deserialize)]
#[serde(untagged)]
enum Record {
    #[serde(rename_all = "camelCase")]
    V2 {
        hashed_rekord_v002: RecordV2,
    },
    V1 {
        data: Data,
        signature: Logged,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Statement {
    #[serde(rename_all = "camelCase")]
    V2 {
        dsse_v002: StatementV2,
    },
    V1(Envelope),
}

#[derive(Deserialize)]
struct RecordV2 {
    data: HashOutput,
    signature: SignatureV2,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatementV2 {
    payload_hash: HashOutput,
    signatures: Vec<SignatureV2>,
}

#[derive(Deserialize)]
struct HashOutput {
    algorithm: String,
    digest: Base64,
}

impl HashOutput {
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.algorithm == "SHA2_256" && hex(&self.digest.0) == Digest::of(bytes).hex()
    }
}

#[derive(Deserialize)]
struct SignatureV2 {
    content: Base64,
    verifier: Verifier,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verifier {
    x509_certificate: Option<RawBytes>,
}

impl SignatureV2 {
    fn is(&self, signature: &Signature, leaf: &CertificateDer<'_>) -> bool {
        let certificate = self.verifier.x509_certificate.as_ref();
        self.content.0 == signature.signature
            && certificate.is_some_and(|logged| logged.raw_bytes.0 == leaf.as_ref())
    }
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
    /// That one of the logs has this very signature; and the time, in seconds since 1970, where the
    /// log says one.
    pub fn verify(
        &self,
        logs: &[Log],
        signature: &Signature,
        leaf: &CertificateDer<'_>,
    ) -> Result<Option<u64>, String> {
        let bad = |what: &str| format!("its log entry {what}");
        let time = self.promised(logs).map_err(bad)?;
        let body = decode(&self.body).unwrap_or_default();
        match &self.proof {
            Some(proof) => proof.verify(logs, &body).map_err(bad)?,
            None if time.is_none() => {
                return Err(bad(
                    "has no promise of the log (SignedEntryTimestamp) and no proof",
                ));
            }
            None => {}
        }
        let logged: Body = serde_json::from_slice(&body).map_err(|_| bad("is malformed"))?;
        if !logged.is_of(signature, leaf) {
            return Err(bad("is of another signature"));
        }
        Ok(time)
    }

    /// The time of the log's promise, where it made one.
    fn promised(&self, logs: &[Log]) -> Result<Option<u64>, &'static str> {
        if self.promise.is_empty() {
            return Ok(None);
        }
        let promised = Promised {
            body: &self.body,
            integrated_time: self.integrated_time,
            log_id: &self.log_id,
            log_index: self.log_index,
        };
        let promised = serde_json::to_vec(&promised).expect("the entry is plain");
        let time = u64::try_from(self.integrated_time).map_err(|_| "has no time")?;
        if !logs.iter().any(|log| log.promised(self, &promised, time)) {
            return Err("is not of the policy's log");
        }
        Ok(Some(time))
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
            (
                Self::HashedRekord(Record::V2 {
                    hashed_rekord_v002: r,
                }),
                _,
            ) => r.data.is_of(&signature.message) && r.signature.is(signature, leaf),
            (Self::HashedRekord(Record::V1 { data, signature: s }), _) => {
                data.hash.is_of(&signature.message)
                    && same_signature(&s.content)
                    && same_certificate(&s.public_key.content)
            }
            (Self::Dsse(Statement::V2 { dsse_v002: s }), Claim::Statement(payload)) => {
                s.payload_hash.is_of(payload) && s.signatures.iter().any(|s| s.is(signature, leaf))
            }
            (Self::Dsse(Statement::V1(envelope)), Claim::Statement(payload)) => {
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

/// Bytes as the log writes them.
pub(super) fn body_text(bytes: &[u8]) -> String {
    encode(bytes)
}
