//! A certification request (PKCS #10, RFC 2986): who it is for, the key, and whether whoever made it
//! has that key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use super::certificate::{self, BIT_STRING, OBJECT_ID, SEQUENCE, SET, element, whole};

/// `[0] IMPLICIT SET OF Attribute`.
const ATTRIBUTES: u8 = 0xa0;
/// 1.2.840.113549.1.9.14: the extensions that are asked for.
const EXTENSIONS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Object identifiers of signatures and curves.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// What a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The subject, DER.
    pub subject: Vec<u8>,
    /// The public key (SubjectPublicKeyInfo), DER.
    pub key: Vec<u8>,
    /// The extension of alternative names, DER, where there is one.
    pub alternative_names: Option<Vec<u8>>,
    /// The subject's common name, or empty.
    pub name: String,
    /// The subject's organisations.
    pub groups: Vec<String>,
}

impl Request {
    /// The request of a CertificateSigningRequest. The error is for the user.
    pub fn of_object(object: &Value) -> Result<Self, String> {
        let text = object["spec"]["request"].as_str().unwrap_or_default();
        let pem = BASE64
            .decode(text)
            .map_err(|e| format!("not base64: {e}"))?;
        let der = CertificateSigningRequestDer::from_pem_slice(&pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        let request = parse(&der).ok_or("malformed certification request (RFC 2986)")?;
        request.map_err(str::to_owned)
    }
}

/// The outer error is malformed DER, the inner one a signature that does not hold.
fn parse(der: &[u8]) -> Option<Result<Request, &'static str>> {
    let (SEQUENCE, outer, []) = element(der)? else {
        return None;
    };
    let (info_der, rest) = whole(outer)?;
    let (SEQUENCE, info, _) = element(info_der)? else {
        return None;
    };
    let (SEQUENCE, algorithm, rest) = element(rest)? else {
        return None;
    };
    let (BIT_STRING, [0, signature @ ..], []) = element(rest)? else {
        return None;
    };
    let (OBJECT_ID, algorithm, _) = element(algorithm)? else {
        return None;
    };
    let (_, _, rest) = element(info)?;
    let (subject, rest) = whole(rest)?;
    let (key, rest) = whole(rest)?;
    let (name, groups) = certificate::subject(element(subject)?.1)?;
    let request = Request {
        subject: subject.to_vec(),
        key: key.to_vec(),
        alternative_names: alternative_names(rest),
        name,
        groups,
    };
    let (bits, point) = bit_string(element(key)?.1)?;
    let verifier = verifier(algorithm, bits);
    let held = verifier.map(|verifier| {
        let key = UnparsedPublicKey::new(verifier, point);
        key.verify(info_der, signature)
    });
    Some(match held {
        None => Err(
            "the key or its signature is of a kind that is not known here (there are: \
            ECDSA on P-256 and P-384, Ed25519, RSA from 2048 bits)",
        ),
        Some(Err(_)) => Err("the request's signature does not hold"),
        Some(Ok(())) => Ok(request),
    })
}

/// The parameters of a SubjectPublicKeyInfo's algorithm, and its bits.
fn bit_string(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (SEQUENCE, algorithm, rest) = element(key)? else {
        return None;
    };
    let (BIT_STRING, bits, _) = element(rest)? else {
        return None;
    };
    let (_, _, parameters) = element(algorithm)?;
    let curve = element(parameters).map_or(&[][..], |(_, curve, _)| curve);
    Some((curve, bits.get(1..)?))
}

fn verifier(algorithm: &[u8], curve: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (algorithm, curve) {
        (ECDSA_SHA256, P256) => &signature::ECDSA_P256_SHA256_ASN1,
        (ECDSA_SHA384, P256) => &signature::ECDSA_P256_SHA384_ASN1,
        (ECDSA_SHA256, P384) => &signature::ECDSA_P384_SHA256_ASN1,
        (ECDSA_SHA384, P384) => &signature::ECDSA_P384_SHA384_ASN1,
        (RSA_SHA256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (RSA_SHA384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (RSA_SHA512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (ED25519, _) => &signature::ED25519,
        _ => return None,
    })
}

/// Looks for the extension among the attributes.
fn alternative_names(rest: &[u8]) -> Option<Vec<u8>> {
    let (ATTRIBUTES, mut attributes, _) = element(rest)? else {
        return None;
    };
    while let Some((SEQUENCE, attribute, after)) = element(attributes) {
        attributes = after;
        let (OBJECT_ID, EXTENSIONS, values) = element(attribute)? else {
            continue;
        };
        let (SET, values, _) = element(values)? else {
            return None;
        };
        let (SEQUENCE, mut all, _) = element(values)? else {
            return None;
        };
        while !all.is_empty() {
            let (extension, after) = whole(all)?;
            all = after;
            if let (OBJECT_ID, ALTERNATIVE_NAMES, _) = element(element(extension)?.1)? {
                return Some(extension.to_vec());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    fn object(pem: &str) -> Value {
        json!({"spec": {"request": BASE64.encode(pem)}})
    }

    fn made(names: Vec<String>) -> rcgen::CertificateSigningRequest {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "dev");
        params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
    }

    #[test]
    fn a_request_says_who_and_holds_with_its_key() {
        let plain = made(vec![]);
        let request = Request::of_object(&object(&plain.pem().unwrap())).unwrap();
        assert_eq!(
            (request.name.as_str(), &request.groups[..]),
            ("ann", &["dev".to_owned()][..])
        );
        assert_eq!(request.alternative_names, None);
        let named = made(vec!["a.test".to_owned()]);
        let request = Request::of_object(&object(&named.pem().unwrap())).unwrap();
        assert!(request.alternative_names.is_some());
    }

    #[test]
    fn what_is_changed_or_cut_off_is_refused_and_never_panics() {
        let der = made(vec!["a.test".to_owned()]).der().to_vec();
        assert!(matches!(parse(&der), Some(Ok(_))));
        for byte in 0..der.len() {
            assert!(!matches!(parse(&der[..byte]), Some(Ok(_))), "cut at {byte}");
            let mut bad = der.clone();
            bad[byte] ^= 0x01;
            assert!(!matches!(parse(&bad), Some(Ok(_))), "changed at {byte}");
        }
        let why = Request::of_object(&json!({"spec": {"request": "eA=="}})).unwrap_err();
        assert_eq!(why, "PEM block type must be CERTIFICATE REQUEST");
    }
}
