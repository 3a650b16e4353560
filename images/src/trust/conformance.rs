//! Real bundles of sigstore against what verifies signatures of images: those of
//! sigstore-conformance (<https://github.com/sigstore/sigstore-conformance>), which are of files.
//!
//! `SIGSTORE_CONFORMANCE` names a copy of that repository, and `SIGSTORE_TRUSTED_ROOT` the
//! `trusted_root.json` of the public instance (<https://github.com/sigstore/root-signing>).
//! Without them the test is skipped.

use std::path::Path;

use serde::Deserialize;

use super::bundle;
use super::key::PublicKey;
use super::keyless::Authority;
use super::policy::{Identity, Signed};
use super::proto::Base64;
use super::root::TrustedRoot;
use super::signature::{Claim, Signature, Statement, check_signer};
use crate::Digest;

const SUBJECT: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// A signature of a file, which images do not have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageSignature {
    message_digest: Option<MessageDigest>,
    signature: Base64,
}

#[derive(Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: Base64,
}

impl MessageSignature {
    /// Of this file. The digest is a hint, but one that must be right.
    pub fn of(self, artifact: &[u8]) -> Result<Signature, String> {
        let digest = Digest::of(artifact);
        let same = |hint: &MessageDigest| {
            hint.algorithm == "SHA2_256" && super::log::hex(&hint.digest.0) == digest.hex()
        };
        if !self.message_digest.as_ref().is_none_or(same) {
            return Err("it is of another file".to_owned());
        }
        Ok(Signature {
            digest,
            message: artifact.to_vec(),
            signature: self.signature.0,
            claim: Claim::Simple,
            material: Err("none".to_owned()),
        })
    }
}

fn text(path: &Path, default: &str) -> String {
    let text = std::fs::read_to_string(path);
    text.map_or(default.to_owned(), |text| text.trim().to_owned())
}

fn verify(case: &Path, public: &Path) -> Result<(), String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
    let own = |name: &str, other: &Path| {
        let own = case.join(name);
        read(if own.exists() { &own } else { other })
    };
    let artifact = own("artifact", &case.with_file_name("a.txt"))?;
    let root = TrustedRoot::parse(&own("trusted_root.json", public)?)?;
    let (keys, logs, authority) = if let Ok(key) = std::fs::read(case.join("key.pub")) {
        (vec![PublicKey::from_pem(&key)?], Some(root), None)
    } else {
        let subject = text(&case.join("identity"), SUBJECT);
        let issuer = text(&case.join("issuer"), ISSUER);
        let authority = Authority::of_root(root, &issuer, &subject);
        (Vec::new(), None, Some(authority))
    };
    let wanted = Signed {
        keys,
        logs,
        authority,
        identity: Identity::Digest,
    };
    let bytes = read(&case.join("bundle.sigstore.json"))?;
    let signature = bundle::parse_any(&artifact, &bytes)?;
    check_signer(&signature, &wanted)?;
    match &signature.claim {
        Claim::Simple => Ok(()),
        Claim::Statement(bytes)
            if Statement::parse(bytes)?
                .subjects(&signature.digest)
                .is_empty() =>
        {
            Err("it is of another file".to_owned())
        }
        Claim::Statement(_) => Ok(()),
    }
}

#[test]
fn bundles_of_sigstore_conformance_are_judged_as_it_says() {
    let path = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let (Some(suite), Some(public)) = (path("SIGSTORE_CONFORMANCE"), path("SIGSTORE_TRUSTED_ROOT"))
    else {
        let why = "SIGSTORE_CONFORMANCE and SIGSTORE_TRUSTED_ROOT are not set";
        rrun_tests::report_skip(module_path!(), why);
        return;
    };
    let cases = std::fs::read_dir(suite.join("test/assets/bundle-verify")).unwrap();
    let mut cases: Vec<_> = cases.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let judged = verify(case, &public);
        let right = judged.is_err() == name.ends_with("_fail");
        let mark = if right { "pass" } else { "FAIL" };
        let judged = judged.map_or_else(|why| format!("refused: {why}"), |()| "taken".to_owned());
        println!("{mark} {name}: {judged}");
        if !right {
            wrong.push(name.to_owned());
        }
    }
    assert!(cases.len() > 60, "only {} cases", cases.len());
    assert!(wrong.is_empty(), "{wrong:?}");
}
