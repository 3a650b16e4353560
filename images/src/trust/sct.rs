//! Signed certificate timestamps: a log's word, within the certificate, that it took the certificate
//! (RFC 6962, 3.2 and 3.3).

use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::der::{Der, EXTENSIONS, OCTET_STRING, OID, SEQUENCE, element};
use super::key::PublicKey;
use super::root::Period;

/// 1.3.6.1.4.1.11129.2.4.2
const LIST: &[u8] = &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];
/// version v1 and certificate_timestamp, which are 0 both.
const TIMESTAMP_V1: [u8; 2] = [0, 0];
const PRECERT_ENTRY: [u8; 2] = [0, 1];
/// sha256 with rsa, and with ecdsa (RFC 5246, 7.4.1.4.1).
const ALGORITHMS: [[u8; 2]; 2] = [[4, 1], [4, 3]];
/// By how much the clocks of two logs may differ.
const SKEW: Duration = Duration::from_mins(5);

/// A log of certificates.
#[derive(Debug)]
pub(super) struct CertificateLog {
    /// Digest of its key.
    id: Vec<u8>,
    key: PublicKey,
    valid: Period,
}

/// One timestamp of a list.
struct Timestamp<'a> {
    log: &'a [u8],
    /// Milliseconds since 1970, big-endian.
    time: [u8; 8],
    /// With the two bytes of their length.
    extensions: &'a [u8],
    algorithm: [u8; 2],
    signature: &'a [u8],
}

/// The logs of a PEM file of public keys.
pub(super) fn logs(pem: &[u8]) -> Result<Vec<CertificateLog>, String> {
    let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|_| "a PEM block is broken".to_owned())?;
    if keys.is_empty() {
        return Err("no PEM block PUBLIC KEY".to_owned());
    }
    let log = |key| CertificateLog::of(key, Period::ALWAYS);
    let key = |spki: &SubjectPublicKeyInfoDer<'_>| PublicKey::from_spki(spki).map(log);
    keys.iter().map(key).collect()
}

impl CertificateLog {
    /// By its public key, and when it is to be believed.
    pub fn of(key: PublicKey, valid: Period) -> Self {
        Self {
            id: digest(&SHA256, key.spki()).as_ref().to_vec(),
            key,
            valid,
        }
    }
}

/// One of the logs took this certificate, of the issuer with this key, before `time` (since 1970).
pub(super) fn verify(
    logs: &[CertificateLog],
    certificate: &[u8],
    issuer: &[u8],
    time: Duration,
) -> Result<(), String> {
    let bad = |what: &str| format!("its certificate {what}");
    let (logged, list) = split(certificate).ok_or_else(|| bad("is malformed"))?;
    let list = list.ok_or_else(|| bad("has no timestamp of a log (SCT)"))?;
    let list = timestamps(list).ok_or_else(|| bad("has a malformed list of timestamps (SCT)"))?;
    let issuer = digest(&SHA256, issuer);
    let good = |timestamp: &Timestamp<'_>| {
        let message = timestamp.message(issuer.as_ref(), &logged);
        let taken = Duration::from_millis(u64::from_be_bytes(timestamp.time));
        let by = |log: &CertificateLog| {
            log.id == timestamp.log
                && log.valid.has(taken.as_secs())
                && log.key.verifies(&message, timestamp.signature)
        };
        ALGORITHMS.contains(&timestamp.algorithm) && taken <= time + SKEW && logs.iter().any(by)
    };
    if list.iter().any(good) {
        Ok(())
    } else {
        Err(bad("has no timestamp (SCT) of the policy's log"))
    }
}

/// What the log signed, the certificate without its timestamps; and their list.
fn split(certificate: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
    let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    let (mut kept, mut list) = (Vec::new(), None);
    while let Some((tag, content, whole)) = fields.next_whole() {
        if tag != EXTENSIONS {
            kept.extend_from_slice(whole);
            continue;
        }
        let mut extensions = Der(content).enter(SEQUENCE)?;
        let mut others = Vec::new();
        while let Some((_, content, whole)) = extensions.next_whole() {
            let mut extension = Der(content);
            if extension.take(OID)? != LIST {
                others.extend_from_slice(whole);
                continue;
            }
            // A second list would leave open which of them was signed.
            if list.is_some() {
                return None;
            }
            list = Some(Der(extension.take(OCTET_STRING)?).take(OCTET_STRING)?);
        }
        kept.extend(element(EXTENSIONS, &element(SEQUENCE, &others)));
    }
    Some((element(SEQUENCE, &kept), list))
}

/// A list of timestamps, each with its length before it.
fn timestamps(list: &[u8]) -> Option<Vec<Timestamp<'_>>> {
    let (mut list, rest) = sized(list)?;
    let mut found = Vec::new();
    while !list.is_empty() {
        let (one, others) = sized(list)?;
        list = others;
        // Of versions to come nothing is known.
        if one.first() == Some(&0) {
            found.push(timestamp(&one[1..])?);
        }
    }
    rest.is_empty().then_some(found)
}

fn timestamp(bytes: &[u8]) -> Option<Timestamp<'_>> {
    let (log, bytes) = bytes.split_at_checked(32)?;
    let (time, bytes) = bytes.split_first_chunk()?;
    let (content, after) = sized(bytes)?;
    let (algorithm, after) = after.split_first_chunk()?;
    let (signature, rest) = sized(after)?;
    rest.is_empty().then_some(Timestamp {
        log,
        time: *time,
        extensions: &bytes[..2 + content.len()],
        algorithm: *algorithm,
        signature,
    })
}

/// Bytes behind two that say how many they are, and what follows them.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, bytes) = bytes.split_first_chunk()?;
    bytes.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

impl Timestamp<'_> {
    fn message(&self, issuer: &[u8], logged: &[u8]) -> Vec<u8> {
        let length = (logged.len() as u32).to_be_bytes();
        [
            &TIMESTAMP_V1,
            &self.time[..],
            &PRECERT_ENTRY,
            issuer,
            &length[1..],
            logged,
            self.extensions,
        ]
        .concat()
    }
}

/// For the fuzz targets: a certificate, or a list of timestamps.
#[cfg(feature = "fuzzing")]
pub(super) fn parse(data: &[u8]) {
    let _ = split(data);
    let _ = timestamps(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_cut_off_or_too_long_are_refused() {
        let one = [
            &[0][..],
            &[7; 32],
            &[1; 8],
            &[0, 1, 9],
            &[4, 3],
            &[0, 2, 5, 6],
        ]
        .concat();
        let list = |one: &[u8], more: &[u8]| {
            let length = |n: usize| (n as u16).to_be_bytes();
            [&length(one.len() + 2)[..], &length(one.len()), one, more].concat()
        };
        let good = list(&one, &[]);
        let read = timestamps(&good).unwrap();
        assert_eq!(
            (read[0].log, read[0].extensions),
            (&[7; 32][..], &[0, 1, 9][..])
        );
        assert_eq!(
            (read[0].algorithm, read[0].signature),
            ([4, 3], &[5, 6][..])
        );
        for end in 0..good.len() {
            assert!(timestamps(&good[..end]).is_none(), "{end}");
        }
        assert!(timestamps(&list(&one, &[0])).is_none());
        assert!(timestamps(&list(&one[..one.len() - 1], &[])).is_none());
        assert!(
            timestamps(&list(&[1, 2, 3], &[])).unwrap().is_empty(),
            "another version"
        );
        assert!(timestamps(&[0, 0]).unwrap().is_empty());
    }
}
