//! Certificates that users ask for: the subject and key of their request, signed by the authority.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::SigningKey as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::tls::Authority;
use crate::api::auth::certificate;
use crate::api::auth::request::Request;

/// Clocks of clients may be behind ours by this much.
const BACK: SignedDuration = SignedDuration::from_mins(5);

const BOOLEAN_TRUE: &[u8] = &[0x01, 0x01, 0xff];
/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758).
const ECDSA_SHA256: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// 2.5.29.15, 2.5.29.37, 2.5.29.19 and 1.3.6.1.5.5.7.3.2, with tag and length.
const KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
const CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// What a certificate for a client is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// From now.
    pub life: SignedDuration,
    /// Besides signing: whether the key may encipher keys (RSA).
    pub key_encipherment: bool,
}

impl Authority {
    /// A client's certificate, PEM.
    pub fn sign(
        &self,
        request: &Request,
        wanted: Wanted,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let key = self.issuer().key();
        anyhow::ensure!(
            *key.algorithm() == rcgen::PKCS_ECDSA_P256_SHA256,
            "ca.key: only a key on the curve P-256, as rrun-pods makes it, signs requests"
        );
        let authority = CertificateDer::from_pem_slice(self.pem().as_bytes()).context("ca.crt")?;
        let issuer = certificate::subject_der(&authority).context("ca.crt: no subject")?;
        let mut serial = [0; 16];
        let random = SystemRandom::new().fill(&mut serial);
        random.map_err(|_| anyhow::anyhow!("no random numbers"))?;
        // Positive, and never 0.
        serial[0] = serial[0] & 0x7f | 0x40;
        let until = now.checked_add(wanted.life).context("expirationSeconds")?;
        let validity = [time(now - BACK), time(until)].concat();
        let parts = [
            &der(0xa0, &der(0x02, &[2])),
            &der(0x02, &serial),
            ECDSA_SHA256,
            issuer,
            &der(0x30, &validity),
            &request.subject,
            &request.key,
            &der(0xa3, &der(0x30, &extensions(request, wanted))),
        ];
        let body = der(0x30, &parts.concat());
        let signature = key.sign(&body).context("signing a certificate")?;
        let signature = der(0x03, &[&[0][..], &signature].concat());
        let whole = der(0x30, &[&body, ECDSA_SHA256, &signature].concat());
        Ok(pem(&whole))
    }
}

fn extensions(request: &Request, wanted: Wanted) -> Vec<u8> {
    // Digital signature is the first bit, key encipherment the third.
    let bits = if wanted.key_encipherment {
        [5, 0xa0]
    } else {
        [7, 0x80]
    };
    let extension = |id: &[u8], critical: &[u8], value: &[u8]| {
        der(0x30, &[id, critical, &der(0x04, value)].concat())
    };
    let mut all = [
        extension(KEY_USAGE, BOOLEAN_TRUE, &der(0x03, &bits)),
        extension(EXTENDED_KEY_USAGE, &[], &der(0x30, CLIENT_AUTH)),
        extension(BASIC_CONSTRAINTS, BOOLEAN_TRUE, &der(0x30, &[])),
    ]
    .concat();
    all.extend(request.alternative_names.iter().flatten());
    all
}

/// An element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let digits = length.to_be_bytes();
            let used = &digits[length.leading_zeros() as usize / 8..];
            out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
            out.extend(used);
        }
    }
    out.extend(content);
    out
}

/// Until 2049 with two digits of the year (RFC 5280, section 4.1.2.5).
fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(TimeZone::UTC);
    if at.year() < 2050 {
        der(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        der(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;
    use serde_json::json;

    fn request() -> Request {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "dev");
        let made = params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap();
        let text = BASE64.encode(made.pem().unwrap());
        Request::of_object(&json!({"spec": {"request": text}})).unwrap()
    }

    #[test]
    fn a_certificate_is_one_that_the_api_takes_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let now = Timestamp::now();
        for key_encipherment in [false, true] {
            let wanted = Wanted {
                life: SignedDuration::from_hours(1),
                key_encipherment,
            };
            let signed = authority.sign(&request(), wanted, now).unwrap();
            let signed = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
            let user = certificate::user(&signed).unwrap();
            assert_eq!(user.name, "ann");
            assert!(user.groups.contains(&"dev".to_owned()));
            let mut roots = RootCertStore::empty();
            let ca = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
            roots.add(ca).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            let at = |seconds: i64| {
                let seconds = u64::try_from(now.as_second() + seconds).unwrap();
                let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
                verifier.verify_client_cert(&signed, &[], at).is_ok()
            };
            assert!(at(0) && at(3599) && !at(3601) && !at(-301));
        }
    }

    #[test]
    fn times_after_2049_have_four_digits() {
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2049-12-31T23:59:59Z"), b"\x17\x0d491231235959Z");
        assert_eq!(at("2050-01-01T00:00:00Z"), b"\x18\x0f20500101000000Z");
        assert_eq!(der(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(der(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}
