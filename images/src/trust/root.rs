//! `trusted_root.json` of sigstore (protobuf-specs, TrustedRoot): its authorities and logs, each
//! with the time in which it was to be believed.

use ::der::DateTime;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use std::time::Duration;

use super::der::{SEQUENCE, element};
use super::key::PublicKey;
use super::log::Log;
use super::proto::{Base64, Chain, LogId};
use super::sct::CertificateLog;

/// The start of every version's name.
const KIND: &str = "application/vnd.dev.sigstore.trustedroot";

/// Whom the operators of a sigstore are.
#[derive(Debug, Default)]
pub(super) struct TrustedRoot {
    pub logs: Vec<Log>,
    pub authorities: Vec<CertificateAuthority>,
    pub certificate_logs: Vec<CertificateLog>,
    pub timestamp_authorities: Vec<CertificateAuthority>,
}

/// Who gives certificates: its own, the last of which is trusted.
#[derive(Debug)]
pub(super) struct CertificateAuthority {
    pub chain: Vec<CertificateDer<'static>>,
    pub anchor: TrustAnchor<'static>,
    pub valid: Period,
}

/// Seconds since 1970, both ends among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub start: u64,
    pub end: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<LogInstance>,
    #[serde(default)]
    certificate_authorities: Vec<Authority>,
    #[serde(default)]
    ctlogs: Vec<LogInstance>,
    #[serde(default)]
    timestamp_authorities: Vec<Authority>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogInstance {
    #[serde(default)]
    base_url: String,
    public_key: Key,
    #[serde(default)]
    log_id: LogId,
    checkpoint_key_id: Option<LogId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    raw_bytes: Base64,
    #[serde(default)]
    valid_for: Range,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    cert_chain: Chain,
    #[serde(default)]
    valid_for: Range,
}

#[derive(Default, Deserialize)]
struct Range {
    start: Option<String>,
    end: Option<String>,
}

impl TrustedRoot {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !file.media_type.starts_with(KIND) {
            return Err(format!("it is a {:?}, not a trusted root", file.media_type));
        }
        let logs = file.tlogs.into_iter().map(log);
        let authorities = file.certificate_authorities.into_iter().map(authority);
        let certificate_logs = file.ctlogs.into_iter().map(|instance| {
            let spki = instance.public_key.raw_bytes.0;
            CertificateLog::of(&spki).map_err(|why| format!("ctlogs: {why}"))
        });
        let timestamps = file.timestamp_authorities.into_iter().map(authority);
        Ok(Self {
            logs: logs.collect::<Result<_, _>>()?,
            authorities: authorities.collect::<Result<_, _>>()?,
            certificate_logs: certificate_logs.collect::<Result<_, _>>()?,
            timestamp_authorities: timestamps.collect::<Result<_, _>>()?,
        })
    }
}

fn log(instance: LogInstance) -> Result<Log, String> {
    let spki = instance.public_key.raw_bytes.0;
    let key = PublicKey::from_spki(&spki).map_err(|why| format!("tlogs: {why}"))?;
    let valid = instance.public_key.valid_for.period()?;
    let url = instance.base_url;
    let name = url.split_once("://").map_or(url.as_str(), |(_, name)| name);
    // Where it is not set, it is how the other one starts.
    let id = instance.checkpoint_key_id.as_ref();
    let id = id
        .filter(|id| !id.key_id.0.is_empty())
        .unwrap_or(&instance.log_id);
    let note_key = id.key_id.0.get(..4).ok_or("tlogs: a log without logId")?;
    Ok(Log::named(
        key,
        name.trim_end_matches('/'),
        note_key,
        &instance.log_id.key_id.0,
        valid,
    ))
}

fn authority(authority: Authority) -> Result<CertificateAuthority, String> {
    let valid = authority.valid_for.period()?;
    let chain = authority.cert_chain.certificates();
    CertificateAuthority::new(chain, valid).ok_or("an authority without a certificate".to_owned())
}

impl Range {
    fn period(&self) -> Result<Period, String> {
        let time = |text: &String| {
            // Whole seconds are enough.
            let whole = text
                .strip_suffix('Z')
                .and_then(|text| text.split('.').next());
            let time = whole.and_then(|whole| format!("{whole}Z").parse::<DateTime>().ok());
            time.map(|time| time.unix_duration().as_secs())
                .ok_or_else(|| format!("{text:?} is no time"))
        };
        Ok(Period {
            start: self.start.as_ref().map_or(Ok(0), time)?,
            end: self.end.as_ref().map_or(Ok(u64::MAX), time)?,
        })
    }
}

impl Period {
    /// Of what nobody limits.
    pub const ALWAYS: Self = Self {
        start: 0,
        end: u64::MAX,
    };

    pub fn has(self, time: u64) -> bool {
        (self.start..=self.end).contains(&time)
    }
}

impl CertificateAuthority {
    /// `None` where the last certificate is none, or there is none at all.
    pub fn new(chain: Vec<CertificateDer<'static>>, valid: Period) -> Option<Self> {
        let anchor = webpki::anchor_from_trusted_cert(chain.last()?)
            .ok()?
            .to_owned();
        Some(Self {
            chain,
            anchor,
            valid,
        })
    }

    /// Whether a certificate stands on it at a time (seconds since 1970), for a use (an OID
    /// without tag and length). `others` may lie between them.
    pub fn vouches(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: &'static [u8],
        time: u64,
    ) -> bool {
        self.issuer_key(certificate, others, usage, time).is_ok()
    }

    /// The same, with the public key of who gave the certificate (SubjectPublicKeyInfo).
    pub fn issuer_key(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: &'static [u8],
        time: u64,
    ) -> Result<Vec<u8>, String> {
        if !self.valid.has(time) {
            return Err("its authority is not to be believed for that time".to_owned());
        }
        let between: Vec<CertificateDer<'_>> = others.iter().chain(&self.chain).cloned().collect();
        let entity = webpki::EndEntityCert::try_from(certificate).map_err(|e| format!("{e:?}"))?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let anchors = std::slice::from_ref(&self.anchor);
        let path = entity.verify_for_usage(
            algorithms.all,
            anchors,
            &between,
            UnixTime::since_unix_epoch(Duration::from_secs(time)),
            webpki::KeyUsage::required(usage),
            None,
            None,
        );
        let path = path.map_err(|error| format!("{error:?}"))?;
        Ok(match path.intermediate_certificates().next() {
            Some(issuer) => issuer.subject_public_key_info().to_vec(),
            // An anchor's key comes without its first tag and length.
            None => element(SEQUENCE, &path.anchor().subject_public_key_info),
        })
    }
}
