//! What Rekor logs of a signature, by the kinds and versions of its entries.

use ring::digest::{SHA256, SHA384, SHA512, digest};
use serde::Deserialize;

use super::decode;
use super::material::Signer;
use super::proto::{Base64, RawBytes};
use super::signature::{Claim, Signature};

/// The content of an entry.
#[derive(Deserialize)]
#[serde(tag = "kind", content = "spec", rename_all = "lowercase")]
pub(super) enum Body {
    HashedRekord(Record),
    Dsse(Statement),
    /// Before there was `dsse`.
    Intoto(Attestation),
}

/// By the version of the entry.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Record {
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
pub(super) enum Statement {
    #[serde(rename_all = "camelCase")]
    V2 {
        dsse_v002: StatementV2,
    },
    V1(Envelope),
}

#[derive(Deserialize)]
pub(super) struct Attestation {
    content: AttestationContent,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttestationContent {
    payload_hash: Hash,
    envelope: AttestationEnvelope,
}

#[derive(Deserialize)]
struct AttestationEnvelope {
    signatures: Vec<AttestationSignature>,
}

/// Both in base64; what is signed with is in base64 once more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttestationSignature {
    sig: Base64,
    public_key: Base64,
}

#[derive(Deserialize)]
pub(super) struct RecordV2 {
    data: HashOutput,
    signature: SignatureV2,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatementV2 {
    payload_hash: HashOutput,
    signatures: Vec<SignatureV2>,
}

#[derive(Deserialize)]
struct HashOutput {
    algorithm: String,
    digest: Base64,
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
    public_key: Option<RawBytes>,
}

#[derive(Deserialize)]
pub(super) struct Data {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Logged {
    content: Base64,
    public_key: LoggedKey,
}

#[derive(Deserialize)]
struct LoggedKey {
    content: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    payload_hash: Hash,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    signature: Base64,
    verifier: Base64,
}

impl Body {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether it speaks of this very signature by this signer.
    pub fn is_of(&self, signature: &Signature, signer: Signer<'_>) -> bool {
        let own = &signature.signature;
        match (self, &signature.claim) {
            (Self::HashedRekord(record), _) => match record {
                Record::V2 {
                    hashed_rekord_v002: r,
                } => r.data.is_of(&signature.message) && r.signature.is(own, signer),
                Record::V1 { data, signature: s } => {
                    data.hash.is_of(&signature.message)
                        && s.content.0 == *own
                        && signer.is_pem(&s.public_key.content.0)
                }
            },
            (Self::Dsse(Statement::V2 { dsse_v002: s }), Claim::Statement(payload)) => {
                s.payload_hash.is_of(payload) && s.signatures.iter().any(|s| s.is(own, signer))
            }
            (Self::Dsse(Statement::V1(envelope)), Claim::Statement(payload)) => {
                envelope.payload_hash.is_of(payload)
                    && envelope
                        .signatures
                        .iter()
                        .any(|s| s.signature.0 == *own && signer.is_pem(&s.verifier.0))
            }
            (Self::Intoto(Attestation { content }), Claim::Statement(payload)) => {
                content.payload_hash.is_of(payload)
                    && content
                        .envelope
                        .signatures
                        .iter()
                        .any(|s| s.is(own, signer))
            }
            (Self::Dsse(_) | Self::Intoto(_), Claim::Simple) => false,
        }
    }
}

impl AttestationSignature {
    fn is(&self, signature: &[u8], signer: Signer<'_>) -> bool {
        let logged = std::str::from_utf8(&self.sig.0).ok().and_then(decode);
        logged.as_deref() == Some(signature) && signer.is_pem(&self.public_key.0)
    }
}

impl SignatureV2 {
    fn is(&self, signature: &[u8], signer: Signer<'_>) -> bool {
        let (logged, own) = match signer {
            Signer::Certificate(own) => (&self.verifier.x509_certificate, own.as_ref()),
            Signer::Key(own) => (&self.verifier.public_key, own.spki()),
        };
        let same = |logged: &RawBytes| logged.raw_bytes.0 == own;
        self.content.0 == signature && logged.as_ref().is_some_and(same)
    }
}

impl HashOutput {
    fn is_of(&self, bytes: &[u8]) -> bool {
        is_digest(&self.algorithm, &self.digest.0, bytes)
    }
}

impl Hash {
    fn is_of(&self, bytes: &[u8]) -> bool {
        let value: Option<Vec<u8>> = (0..self.value.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(self.value.get(at..at + 2)?, 16).ok())
            .collect();
        value.is_some_and(|value| is_digest(&self.algorithm, &value, bytes))
    }
}

/// By both versions' names of the algorithms.
fn is_digest(algorithm: &str, value: &[u8], bytes: &[u8]) -> bool {
    let algorithm = match algorithm {
        "sha256" | "SHA2_256" => &SHA256,
        "sha384" | "SHA2_384" => &SHA384,
        "sha512" | "SHA2_512" => &SHA512,
        _ => return false,
    };
    digest(algorithm, bytes).as_ref() == value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_compared_by_their_algorithm() {
        let hash = |algorithm: &str, value: String| Hash {
            algorithm: algorithm.to_owned(),
            value,
        };
        let hex = super::super::log::hex;
        for (name, algorithm) in [("sha256", &SHA256), ("sha384", &SHA384)] {
            let value = hex(digest(algorithm, b"x").as_ref());
            assert!(hash(name, value.clone()).is_of(b"x"));
            assert!(!hash(name, value.clone()).is_of(b"y"));
            assert!(!hash("sha512", value.clone()).is_of(b"x"));
            assert!(!hash("sha1", value.clone()).is_of(b"x"));
            assert!(!hash(name, value[1..].to_owned()).is_of(b"x"));
            assert!(!hash(name, format!("\u{e9}{value}")).is_of(b"x"));
        }
    }
}
