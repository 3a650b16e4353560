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
    /// Of logs of which only the keys are known.
    pub fn of_logs(keys: Vec<PublicKey>) -> Self {
        Self {
            logs: keys.into_iter().map(Log::of_key).collect(),
            ..Self::default()
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !file.media_type.starts_with(KIND) {
            return Err(format!("it is a {:?}, not a trusted root", file.media_type));
        }
        let logs = file.tlogs.into_iter().map(log);
        let authorities = file.certificate_authorities.into_iter().map(authority);
        let certificate_logs = file.ctlogs.into_iter().map(|instance| {
            let (key, valid) = instance.public_key.read()?;
            Ok(CertificateLog::of(key, valid))
        });
        let timestamps = file.timestamp_authorities.into_iter().map(authority);
        Ok(Self {
            logs: logs.collect::<Result<_, _>>()?,
            authorities: authorities.collect::<Result<_, _>>()?,
            certificate_logs: certificate_logs
                .collect::<Result<_, String>>()
                .map_err(|why| format!("ctlogs: {why}"))?,
            timestamp_authorities: timestamps.collect::<Result<_, _>>()?,
        })
    }
}

fn log(instance: LogInstance) -> Result<Log, String> {
    let (key, valid) = instance
        .public_key
        .read()
        .map_err(|why| format!("tlogs: {why}"))?;
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
    let valid = authority.valid_for.period();
    let valid = valid.map_err(|why| format!("an authority: {why}"))?;
    let chain = authority.cert_chain.certificates();
    CertificateAuthority::new(chain, valid).ok_or("an authority without a certificate".to_owned())
}

impl Key {
    fn read(&self) -> Result<(PublicKey, Period), String> {
        let key = PublicKey::from_der(&self.raw_bytes.0)?;
        Ok((key, self.valid_for.period()?))
    }
}

impl Range {
    fn period(&self) -> Result<Period, String> {
        // Without it nobody could say from when on somebody is to be believed.
        let start = self.start.as_ref().ok_or("validFor without a start")?;
        Ok(Period {
            start: seconds(start)?,
            end: self.end.as_deref().map_or(Ok(u64::MAX), seconds)?,
        })
    }
}

/// Since 1970, of a time as protobuf writes it (RFC 3339, UTC). Whole seconds are enough. What was
/// before, as the year 1 of those who set no start, is 1970.
fn seconds(text: &str) -> Result<u64, String> {
    let whole = text
        .strip_suffix('Z')
        .and_then(|text| text.split('.').next())
        .ok_or_else(|| format!("{text:?} is no time in UTC"))?;
    let year = whole.get(..4).and_then(|year| year.parse().ok());
    if year.is_some_and(|year: u16| year < 1970) {
        return Ok(0);
    }
    let time = format!("{whole}Z").parse::<DateTime>();
    let time = time.map_err(|_| format!("{text:?} is no time"))?;
    Ok(time.unix_duration().as_secs())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An RSA key as PKCS #1 has it, of three bytes.
    const RSA: &str = "MAoCAwEAAQIDAQAB";

    fn root(log: &str) -> Result<TrustedRoot, String> {
        let kind = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
        let text = format!(r#"{{"mediaType":"{kind}","ctlogs":[{log}]}}"#);
        TrustedRoot::parse(text.as_bytes())
    }

    fn log(key: &str, valid: &str) -> String {
        format!(r#"{{"publicKey":{{"rawBytes":"{key}","validFor":{valid}}}}}"#)
    }

    /// The log of sigstore's staging instance is such a one: the whole list was refused.
    #[test]
    fn rsa_keys_may_be_of_pkcs1() {
        let read = root(&log(RSA, r#"{"start":"2021-01-12T11:53:27Z"}"#)).unwrap();
        assert_eq!(read.certificate_logs.len(), 1);
    }

    #[test]
    fn times_need_a_start_and_may_have_an_end() {
        let valid = |text: &str| serde_json::from_str::<Range>(text).unwrap().period();
        let period = |start, end| Ok(Period { start, end });
        assert_eq!(
            valid(r#"{"start":"1970-01-01T00:00:05Z","end":"1970-01-01T00:01:00.9Z"}"#),
            period(5, 60)
        );
        assert_eq!(
            valid(r#"{"start":"0001-01-01T00:00:00Z"}"#),
            period(0, u64::MAX)
        );
        for bad in [
            "{}",
            r#"{"end":"2021-01-12T11:53:27Z"}"#,
            r#"{"start":"2021-01-12T11:53:27+02:00"}"#,
            r#"{"start":"2021-13-12T11:53:27Z"}"#,
            r#"{"start":"Z"}"#,
        ] {
            assert!(valid(bad).is_err(), "{bad}");
            assert!(root(&log(RSA, bad)).is_err(), "{bad}");
        }
        assert!(root(&log("MAA=", r#"{"start":"2021-01-12T11:53:27Z"}"#)).is_err());
    }
}
