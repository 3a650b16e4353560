//! Signatures as a registry has them, and whether one of them is what a policy wants.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::key::PublicKey;
use super::material::{Material, Signer};
use super::policy::{Identity, Signed};
use crate::{Digest, Reference};

const KIND: &str = "cosign container image signature";
const STATEMENT: &str = "https://in-toto.io/Statement/v";
/// What cosign says of an image that it signs; other predicates are attestations.
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Nothing of it is verified yet.
pub(super) struct Signature {
    /// What it was looked up for.
    pub digest: Digest,
    /// The bytes that are signed.
    pub message: Vec<u8>,
    pub signature: Vec<u8>,
    pub claim: Claim,
    /// What it is to be believed by, or what is wrong with that.
    pub material: Result<Material, String>,
}

/// What the signer says, as JSON.
pub(super) enum Claim {
    /// cosign's simple signing: the message itself.
    Simple,
    /// An in-toto statement, wrapped in the message (DSSE).
    Statement(Vec<u8>),
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: SignedName,
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct SignedName {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
pub(super) struct Subject {
    #[serde(default)]
    name: String,
    digest: BTreeMap<String, String>,
}

impl Statement {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes)
            .map_err(|error| format!("its statement is malformed: {error}"))
    }

    /// What it says of this digest.
    pub fn subjects(&self, digest: &Digest) -> Vec<&Subject> {
        let same = |subject: &&Subject| {
            subject.digest.get("sha256").map(String::as_str) == Some(digest.hex())
        };
        self.subject.iter().filter(same).collect()
    }
}

/// Is one of the signatures good? Else why the last one was not.
pub(super) fn judge(
    signatures: &[Signature],
    wanted: &Signed,
    reference: &Reference,
) -> Result<(), String> {
    let mut why = "the policy wants a signature, and the repository has none for it".to_owned();
    for signature in signatures {
        match judge_one(signature, wanted, reference) {
            Ok(()) => return Ok(()),
            Err(reason) => why = format!("no signature is good, the last because {reason}"),
        }
    }
    Err(why)
}

fn judge_one(signature: &Signature, wanted: &Signed, reference: &Reference) -> Result<(), String> {
    // First the signature, then what it says: nothing unsigned is interpreted.
    check_signer(signature, wanted)?;
    match &signature.claim {
        Claim::Simple => check_payload(signature, &wanted.identity, reference),
        Claim::Statement(bytes) => check_statement(bytes, signature, &wanted.identity, reference),
    }
}

/// That somebody signed it whom the policy names.
pub(super) fn check_signer(signature: &Signature, wanted: &Signed) -> Result<(), String> {
    if let Some(authority) = &wanted.authority {
        return authority.verify(signature.material.as_ref()?, signature);
    }
    let good = |key: &&PublicKey| key.verifies(&signature.message, &signature.signature);
    let key = wanted.keys.iter().find(good);
    let key = key.ok_or("it is not by a key of the policy")?;
    if let Some(root) = &wanted.logs {
        let material = signature.material.as_ref()?;
        let (times, _) = root.stamped(material, signature);
        root.logged(material, signature, Signer::Key(key), &times)?;
    }
    Ok(())
}

fn check_payload(
    signature: &Signature,
    identity: &Identity,
    reference: &Reference,
) -> Result<(), String> {
    let payload: Payload = serde_json::from_slice(&signature.message)
        .map_err(|error| format!("its payload is malformed: {error}"))?;
    let critical = payload.critical;
    if critical.r#type != KIND {
        return Err(format!("it is a {:?}", critical.r#type));
    }
    if critical.image.digest != signature.digest.as_str() {
        return Err("it is of another image".to_owned());
    }
    let signed = critical.identity.reference;
    if identity.matches(&signed, reference) {
        return Ok(());
    }
    Err(format!(
        "it was made for {signed:?} (see signedIdentity in the policy)"
    ))
}

fn check_statement(
    bytes: &[u8],
    signature: &Signature,
    identity: &Identity,
    reference: &Reference,
) -> Result<(), String> {
    let statement = Statement::parse(bytes)?;
    if !statement.kind.starts_with(STATEMENT) || statement.predicate_type != PREDICATE {
        let what = statement.predicate_type;
        return Err(format!("it is a statement of {what:?}, no signature"));
    }
    let subjects = statement.subjects(&signature.digest);
    if subjects.is_empty() {
        return Err("it is of another image".to_owned());
    }
    let named = |subject: &&Subject| identity.matches(&subject.name, reference);
    if *identity == Identity::Digest || subjects.iter().any(named) {
        return Ok(());
    }
    // cosign's bundles say the digest alone: whoever may sign one image for this key could else
    // have it taken for any other.
    Err(
        "it names no repository: signedIdentity matchDigest in the policy takes such signatures"
            .to_owned(),
    )
}
