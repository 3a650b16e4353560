//! Keyless signatures: by a certificate that lived for minutes, whose time a transparency log
//! vouches for (sigstore: Fulcio and Rekor).

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::Duration;

use super::der::{Der, SEQUENCE, extensions};
use super::key::PublicKey;
use super::material::{Material, Signer};
use super::root::{CertificateAuthority, Period, TrustedRoot};
use super::sct;
use super::signature::Signature;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.3.6.1.4.1.57264.1.1: the issuer as plain text.
const ISSUER_V1: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 1];
/// 1.3.6.1.4.1.57264.1.8: the same as a DER UTF8String.
const ISSUER_V2: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 8];
/// id-kp-codeSigning, without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Whose certificates are trusted, for whom, and which logs. Where there are logs of certificates,
/// one of them must have taken the certificate.
#[derive(Debug)]
pub(super) struct Authority {
    root: TrustedRoot,
    issuer: String,
    subject: String,
}

impl Authority {
    /// By PEM of authorities' certificates, and the keys of logs.
    pub fn new(
        ca: &[u8],
        logs: Vec<PublicKey>,
        issuer: &str,
        subject: &str,
    ) -> Result<Self, String> {
        let bad = || "fulcio.ca is not a PEM certificate".to_owned();
        let certificates = CertificateDer::pem_slice_iter(ca)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| bad())?;
        let one = |certificate| CertificateAuthority::new(vec![certificate], Period::ALWAYS);
        let authorities: Option<Vec<_>> = certificates.into_iter().map(one).collect();
        let authorities = authorities.filter(|all| !all.is_empty()).ok_or_else(bad)?;
        let root = TrustedRoot {
            authorities,
            ..TrustedRoot::of_logs(logs)
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
    /// for, of which there must be one, whose it is, and last the signature itself.
    pub fn verify(&self, material: &Material, signature: &Signature) -> Result<(), String> {
        let (leaf, chain) = material
            .certificates
            .split_first()
            .ok_or("it has no certificate")?;
        let (mut times, why) = self.root.stamped(material, signature);
        let signer = Signer::Certificate(leaf);
        times.extend(self.root.logged(material, signature, signer, &times)?);
        if times.is_empty() {
            return Err(why.unwrap_or_else(|| {
                "it has no promise of the log (SignedEntryTimestamp) and no timestamp".to_owned()
            }));
        }
        for time in times {
            self.check_certificate(leaf, chain, time)?;
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

    /// That one of the authorities gave the certificate, which was good at this time.
    fn check_certificate(
        &self,
        leaf: &CertificateDer<'static>,
        chain: &[CertificateDer<'static>],
        time: u64,
    ) -> Result<(), String> {
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
