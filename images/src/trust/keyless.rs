//! Keyless signatures: by a certificate that lived for minutes, whose time a transparency log
//! vouches for (sigstore: Fulcio and Rekor).

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use std::time::Duration;

use super::decode;
use super::der::{Der, SEQUENCE, extensions};
use super::key::PublicKey;
use super::log::{Log, LogEntry};
use super::root::{CertificateAuthority, Period, TrustedRoot};
use super::signature::Signature;
use super::{sct, timestamp};

/// More than anybody has his signature stamped.
const TIMESTAMPS: usize = 8;
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
    /// DER of RFC 3161 (TimeStampResp).
    pub timestamps: Vec<Vec<u8>>,
}

/// Whose certificates are trusted, for whom, and which logs. Where there are logs of certificates,
/// one of them must have taken the certificate.
#[derive(Debug)]
pub(super) struct Authority {
    root: TrustedRoot,
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
        Ok(Self {
            leaf,
            chain,
            entry,
            timestamps: Vec::new(),
        })
    }
}

impl Authority {
    pub fn new(ca: &[u8], rekor: &[u8], issuer: &str, subject: &str) -> Result<Self, String> {
        let bad = || "fulcio.ca is not a PEM certificate".to_owned();
        let certificates = CertificateDer::pem_slice_iter(ca)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| bad())?;
        let one = |certificate| CertificateAuthority::new(vec![certificate], Period::ALWAYS);
        let authorities: Option<Vec<_>> = certificates.into_iter().map(one).collect();
        let authorities = authorities.filter(|all| !all.is_empty()).ok_or_else(bad)?;
        let rekor = PublicKey::from_pem(rekor).map_err(|why| format!("rekorPublicKey: {why}"))?;
        let root = TrustedRoot {
            authorities,
            logs: vec![Log::of_key(rekor)],
            ..TrustedRoot::default()
        };
        Ok(Self::of_root(root, issuer, subject))
    }

    pub fn of_root(root: TrustedRoot, issuer: &str, subject: &str) -> Self {
        Self {
            root,
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        }
    }

    /// Wants a timestamp (SCT) of one of these logs in the certificate. PEM keys.
    pub fn with_certificate_logs(self, pem: &[u8]) -> Result<Self, String> {
        let logs = sct::logs(pem).map_err(|why| format!("fulcio.ctLogPublicKey: {why}"))?;
        let mut own = self;
        own.root.certificate_logs = logs;
        Ok(own)
    }

    /// Verifies that the log has this signature, the certificate at each time that somebody vouches
    /// for, whose it is, and last the signature itself.
    pub fn verify(&self, certified: &Certified, signature: &Signature) -> Result<(), String> {
        let leaf = &certified.leaf;
        for time in self.times(certified, signature)? {
            self.check_certificate(certified, time)?;
        }
        self.check_holder(leaf)?;
        let entity = webpki::EndEntityCert::try_from(leaf);
        let spki = entity
            .map_err(|_| "its certificate is malformed")?
            .subject_public_key_info();
        let key = PublicKey::from_spki(&spki)?;
        if key.verifies(&signature.message, &signature.signature) {
            Ok(())
        } else {
            Err("its certificate is of another key".to_owned())
        }
    }

    /// Seconds since 1970 at which the signature was there: by the log's promise, and by each
    /// timestamp of an authority that is known. At least one.
    fn times(&self, certified: &Certified, signature: &Signature) -> Result<Vec<u64>, String> {
        let entry = &certified.entry;
        let promised = entry.verify(&self.root.logs, signature, &certified.leaf)?;
        let mut times: Vec<u64> = promised.into_iter().collect();
        let authorities = &self.root.timestamp_authorities;
        let mut why =
            "it has no promise of the log (SignedEntryTimestamp) and no timestamp".to_owned();
        for stamp in certified.timestamps.iter().take(TIMESTAMPS) {
            if authorities.is_empty() {
                why = "it has a timestamp, and the policy names no authority (trustedRootPath)"
                    .into();
                break;
            }
            match timestamp::verify(stamp, &signature.signature, authorities) {
                Ok(time) => times.push(time),
                // Of an authority that others know, perhaps.
                Err(other) => why = other,
            }
        }
        if times.is_empty() {
            return Err(why);
        }
        Ok(times)
    }

    /// That one of the authorities gave the certificate, which was good at this time.
    fn check_certificate(&self, certified: &Certified, time: u64) -> Result<(), String> {
        let Certified { leaf, chain, .. } = certified;
        let mut why = "the policy has no authority".to_owned();
        let issuer = self.root.authorities.iter().find_map(|authority| {
            let found = authority.issuer_key(leaf, chain, CODE_SIGNING, time);
            found.map_err(|error| why = error).ok()
        });
        let issuer = issuer
            .ok_or_else(|| format!("its certificate is not of the policy's authority: {why}"))?;
        let logs = &self.root.certificate_logs;
        if logs.is_empty() {
            return Ok(());
        }
        sct::verify(logs, leaf, &issuer, Duration::from_secs(time))
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
