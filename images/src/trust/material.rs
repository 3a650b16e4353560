//! What a signature brings along to be believed by.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::key::PublicKey;
use super::log::LogEntry;
use super::proto::Base64;
use super::root::TrustedRoot;
use super::signature::Signature;
use super::{decode, timestamp};

/// More than anybody has his signature stamped.
const TIMESTAMPS: usize = 8;
/// More logs than anybody tells of his signature.
const ENTRIES: usize = 8;

/// Nothing of it is verified yet.
#[derive(Debug, Default)]
pub(super) struct Material {
    /// The signer's own first, those between it and an authority after it.
    pub certificates: Vec<CertificateDer<'static>>,
    pub entries: Vec<LogEntry>,
    /// DER of RFC 3161 (TimeStampResp).
    pub timestamps: Vec<Vec<u8>>,
}

/// Whose signature a log should have.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    Certificate(&'a CertificateDer<'static>),
    Key(&'a PublicKey),
}

impl Signer<'_> {
    /// Whether it is this certificate or key in PEM.
    pub fn is_pem(self, pem: &[u8]) -> bool {
        match self {
            Self::Certificate(own) => {
                CertificateDer::from_pem_slice(pem).is_ok_and(|logged| logged == *own)
            }
            Self::Key(own) => PublicKey::from_pem(pem).is_ok_and(|logged| logged == *own),
        }
    }
}

/// The log's promise as cosign keeps it in an annotation.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Promise {
    signed_entry_timestamp: Base64,
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

/// A timestamp as cosign 2 keeps it in an annotation.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    response: Option<Base64>,
}

/// What stands in cosign's annotations; an empty one is none.
pub(super) struct Annotations<'a> {
    pub certificate: &'a str,
    pub chain: &'a str,
    pub promise: &'a str,
    pub timestamp: &'a str,
}

impl Material {
    pub fn of_annotations(notes: &Annotations<'_>) -> Result<Self, String> {
        let pem = |text: &str| CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let own: Result<Vec<_>, _> = pem(notes.certificate);
        let mut certificates = own
            .ok()
            .filter(|own| own.is_empty() == notes.certificate.is_empty() && own.len() < 2)
            .ok_or("its certificate is not PEM")?;
        let chain: Result<Vec<_>, _> = pem(notes.chain);
        if !certificates.is_empty() {
            certificates.extend(chain.map_err(|_| "its certificate has a chain that is not PEM")?);
        }
        let mut own = Self {
            certificates,
            ..Self::default()
        };
        if !notes.promise.is_empty() {
            own.entries.push(promised(notes.promise)?);
        }
        if !notes.timestamp.is_empty() {
            let stamp: Stamp = serde_json::from_str(notes.timestamp)
                .map_err(|_| "its timestamp is malformed".to_owned())?;
            own.timestamps.extend(stamp.response.map(|bytes| bytes.0));
        }
        Ok(own)
    }
}

fn promised(text: &str) -> Result<LogEntry, String> {
    let promise: Promise =
        serde_json::from_str(text).map_err(|_| "its log entry is missing or malformed")?;
    let entry = promise.payload;
    Ok(LogEntry {
        body: decode(&entry.body).ok_or("its log entry is malformed")?,
        integrated_time: entry.integrated_time,
        log_id: entry.log_id,
        log_index: entry.log_index,
        promise: promise.signed_entry_timestamp.0,
        proof: None,
    })
}

impl TrustedRoot {
    /// Seconds since 1970 at which authorities saw the signature, and what is wrong with the last
    /// timestamp of another one.
    pub fn stamped(
        &self,
        material: &Material,
        signature: &Signature,
    ) -> (Vec<u64>, Option<String>) {
        let authorities = &self.timestamp_authorities;
        let (mut times, mut why) = (Vec::new(), None);
        for stamp in material.timestamps.iter().take(TIMESTAMPS) {
            if authorities.is_empty() {
                why = Some(
                    "it has a timestamp, and the policy names no authority (trustedRootPath)"
                        .to_owned(),
                );
                break;
            }
            match timestamp::verify(stamp, &signature.signature, authorities) {
                Ok(time) => times.push(time),
                // Of an authority that others know, perhaps.
                Err(other) => why = Some(other),
            }
        }
        (times, why)
    }

    /// That one of the logs has the signature; and the time at which it promised so, if it did.
    /// `times` are those of [`Self::stamped`].
    pub fn logged(
        &self,
        material: &Material,
        signature: &Signature,
        signer: Signer<'_>,
        times: &[u64],
    ) -> Result<Option<u64>, String> {
        let mut why = "its log entry is missing".to_owned();
        for entry in material.entries.iter().take(ENTRIES) {
            match entry.verify(&self.logs, signature, signer, times) {
                Ok(time) => return Ok(time),
                Err(other) => why = other,
            }
        }
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(certificate: &str, promise: &str, timestamp: &str) -> Result<Material, String> {
        Material::of_annotations(&Annotations {
            certificate,
            chain: "",
            promise,
            timestamp,
        })
    }

    #[test]
    fn annotations_are_read_as_far_as_they_are_there() {
        let empty = read("", "", "").unwrap();
        assert!(empty.certificates.is_empty() && empty.entries.is_empty());
        let promise = r#"{"SignedEntryTimestamp":"AQI=","Payload":
            {"body":"e30=","integratedTime":5,"logIndex":7,"logID":"ab"}}"#;
        let entry = read("", promise, "").unwrap().entries.remove(0);
        assert_eq!((entry.body, entry.promise), (b"{}".to_vec(), vec![1, 2]));
        for (stamp, wanted) in [
            (r#"{"SignedRFC3161Timestamp":"AAE="}"#, vec![vec![0, 1]]),
            (r#"{"SignedRFC3161Timestamp":null}"#, Vec::new()),
            ("{}", Vec::new()),
        ] {
            assert_eq!(read("", "", stamp).unwrap().timestamps, wanted);
        }
    }

    #[test]
    fn annotations_that_are_malformed_are_refused() {
        for (certificate, promise, stamp) in [
            ("x", "", ""),
            ("", "x", ""),
            ("", "{}", ""),
            ("", "", "x"),
            ("", "", r#"{"SignedRFC3161Timestamp":"!"}"#),
        ] {
            assert!(read(certificate, promise, stamp).is_err());
        }
    }
}
