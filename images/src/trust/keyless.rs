//! Keyless signatures: by a certificate that lived for minutes, whose time a transparency log
//! vouches for (sigstore: Fulcio and Rekor).

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use std::time::Duration;

use super::decode;
use super::der::{Der, SEQUENCE, element, extensions};
use super::key::PublicKey;
use super::log::LogEntry;
use super::sct::{self, CertificateLog};
use super::signature::Signature;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.3.6.1.4.1.57264.1.1: the issuer as plain text.
const ISSUER_V1: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 1];
/// 1.3.6.1.4.1.57264.1.8: the same as a DER UTF8String.
const ISSUER_V2: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 8];
/// id-kp-codeSigning, without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// What a signature brings along. Nothing of it is verified yet.
#[derive(Debug)]
pub(super) struct Certified {
    pub leaf: CertificateDer<'static>,
    pub chain: Vec<CertificateDer<'static>>,
    pub entry: LogEntry,
}

/// Whose certificates are trusted, for whom, and which log.
#[derive(Debug)]
pub(super) struct Authority {
    anchors: Vec<TrustAnchor<'static>>,
    /// Where there are any, one of them must have taken the certificate.
    logs: Vec<CertificateLog>,
    rekor: PublicKey,
    issuer: String,
    subject: String,
}

/// The log's promise as cosign keeps it in an annotation.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Promise {
    signed_entry_timestamp: String,
    payload: Entry,
}

#[derive(Deserialize)]
struct Entry {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logID")]
    log_id: String,
    #[serde(rename = "logIndex")]
    log_index: i64,
}

impl Certified {
    /// From cosign's annotations.
    pub fn of_pem(leaf: &str, chain: &str, promise: &str) -> Result<Self, String> {
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes())
            .map_err(|_| "its certificate is not PEM".to_owned())?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| "its certificate has a chain that is not PEM".to_owned())?;
        let promise: Promise = serde_json::from_str(promise)
            .map_err(|_| "its log entry is missing or malformed".to_owned())?;
        let entry = LogEntry {
            body: promise.payload.body,
            integrated_time: promise.payload.integrated_time,
            log_id: promise.payload.log_id,
            log_index: promise.payload.log_index,
            promise: decode(&promise.signed_entry_timestamp).unwrap_or_default(),
            proof: None,
        };
        Ok(Self { leaf, chain, entry })
    }
}

impl Authority {
    pub fn new(ca: &[u8], rekor: &[u8], issuer: &str, subject: &str) -> Result<Self, String> {
        let bad = || "fulcio.ca is not a PEM certificate".to_owned();
        let certificates = CertificateDer::pem_slice_iter(ca)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| bad())?;
        let anchors: Result<Vec<_>, _> = certificates
            .iter()
            .map(|certificate| webpki::anchor_from_trusted_cert(certificate).map(|a| a.to_owned()))
            .collect();
        let anchors = anchors.map_err(|_| bad())?;
        if anchors.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            anchors,
            logs: Vec::new(),
            rekor: PublicKey::from_pem(rekor).map_err(|why| format!("rekorPublicKey: {why}"))?,
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        })
    }

    /// Wants a timestamp (SCT) of one of these logs in the certificate. PEM keys.
    pub fn with_certificate_logs(self, pem: &[u8]) -> Result<Self, String> {
        let logs = sct::logs(pem).map_err(|why| format!("fulcio.ctLogPublicKey: {why}"))?;
        Ok(Self { logs, ..self })
    }

    /// Verifies the log's promise, that it speaks of this signature, the certificate at the time
    /// it gives, whose it is, and last the signature itself.
    pub fn verify(&self, certified: &Certified, signature: &Signature) -> Result<(), String> {
        let Certified { leaf, chain, entry } = certified;
        let time = Duration::from_secs(entry.time_of(&self.rekor, signature, leaf)?);
        let bad = |what: &str| format!("its certificate {what}");
        let entity = webpki::EndEntityCert::try_from(leaf).map_err(|_| bad("is malformed"))?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let path = entity
            .verify_for_usage(
                algorithms.all,
                &self.anchors,
                chain,
                UnixTime::since_unix_epoch(time),
                webpki::KeyUsage::required(CODE_SIGNING),
                None,
                None,
            )
            .map_err(|error| bad(&format!("is not of the policy's authority: {error:?}")))?;
        if !self.logs.is_empty() {
            let issuer = match path.intermediate_certificates().next() {
                Some(issuer) => issuer.subject_public_key_info().to_vec(),
                // An anchor's key comes without its first tag and length.
                None => element(SEQUENCE, &path.anchor().subject_public_key_info),
            };
            sct::verify(&self.logs, leaf, &issuer, time)?;
        }
        self.check_holder(leaf)?;
        let spki = entity.subject_public_key_info();
        let key = PublicKey::from_spki(&spki)?;
        if key.verifies(&signature.message, &signature.signature) {
            Ok(())
        } else {
            Err("its certificate is of another key".to_owned())
        }
    }

    fn check_holder(&self, leaf: &[u8]) -> Result<(), String> {
        let extensions = extensions(leaf).ok_or("its certificate is malformed")?;
        let value = |wanted: &[u8]| {
            let found = extensions.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| *value)
        };
        let issuer = match (value(ISSUER_V2), value(ISSUER_V1)) {
            (Some(text), _) => Der(text).next().map(|(_, text)| text),
            (None, text) => text,
        };
        if issuer != Some(self.issuer.as_bytes()) {
            let issuer = String::from_utf8_lossy(issuer.unwrap_or_default());
            return Err(format!(
                "its signer was known to {issuer:?}, not {:?}",
                self.issuer
            ));
        }
        let names = value(SUBJECT_ALT_NAME).and_then(|value| Der(value).enter(SEQUENCE));
        let mut names = names.ok_or("its certificate names nobody")?;
        while let Some((tag, name)) = names.next() {
            // rfc822Name, uniformResourceIdentifier
            if matches!(tag, 0x81 | 0x86) && name == self.subject.as_bytes() {
                return Ok(());
            }
        }
        Err(format!("its signer is not {:?}", self.subject))
    }
}
