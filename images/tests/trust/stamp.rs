//! A timestamp authority of our own (RFC 3161), which can lie.

use rcgen::{CertificateParams, CustomExtension, Issuer, KeyPair as CertificateKey};

use crate::bundle::sha256;
use crate::keyless::{ca_params, leaf_signs};

const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// 1.2.840.113549.1, of which the others are.
const PKCS: [u8; 7] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1];
const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content].concat()
}

fn name(parts: &[&[u8]]) -> Vec<u8> {
    tlv(6, parts)
}

/// The elements that an element has.
fn inside(der: &[u8]) -> Vec<Vec<u8>> {
    let head = |der: &[u8]| match der[1] {
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        short => (2, usize::from(short)),
    };
    let mut rest = &der[head(der).0..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (start, length) = head(rest);
        let (one, others) = rest.split_at(start + length);
        all.push(one.to_vec());
        rest = others;
    }
    all
}

/// How a timestamp is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    /// It was not granted.
    Refused,
    /// Changed after it was signed.
    Tampered,
    /// By a certificate for something else.
    Usage,
    /// By one whose use is not critical.
    NotCritical,
    /// It names another certificate than its signer's.
    OtherCertificate,
    /// Of the digest of something else.
    OtherImprint,
    /// Two signers.
    Twice,
    /// Without what is signed.
    Unsigned,
    /// Bytes behind it.
    Longer,
}

pub struct TimestampAuthority {
    pub root: Vec<u8>,
    pub leaf: Vec<u8>,
    pub leaf_pem: String,
    pub key: CertificateKey,
    lie: Lie,
}

impl TimestampAuthority {
    pub fn new(lie: Lie) -> Self {
        let params = ca_params();
        let ca_key = CertificateKey::generate().unwrap();
        let root = params.self_signed(&ca_key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, ca_key);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let usage = if lie == Lie::Usage {
            CODE_SIGNING
        } else {
            TIME_STAMPING
        };
        let uses = tlv(SEQUENCE, &[&name(&[usage])]);
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], uses);
        usage.set_criticality(lie != Lie::NotCritical);
        params.custom_extensions = vec![usage];
        let key = CertificateKey::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        Self {
            root,
            leaf_pem: leaf.pem(),
            leaf: leaf.der().to_vec(),
            key,
            lie,
        }
    }

    /// That it saw these bytes at a time (YYYYMMDDHHMMSSZ).
    pub fn stamp(&self, bytes: &[u8], time: &str) -> Vec<u8> {
        let bytes = if self.lie == Lie::OtherImprint {
            b"something else"
        } else {
            bytes
        };
        let sha256_id = tlv(SEQUENCE, &[&name(&[SHA256])]);
        let kind = name(&[&PKCS, &[9, 16, 1, 4]]);
        let imprint = tlv(SEQUENCE, &[&sha256_id, &tlv(4, &[&sha256(&[bytes])])]);
        let time = tlv(0x18, &[time.as_bytes()]);
        let version = tlv(2, &[&[1]]);
        let mut info = tlv(
            SEQUENCE,
            &[&version, &name(&[&[0x2a, 3, 4]]), &imprint, &version, &time],
        );
        let signer = self.signer(&info, &kind, &sha256_id);
        if self.lie == Lie::Tampered {
            let last = info.len() - 2;
            info[last] ^= 1;
        }
        let signers = match self.lie {
            Lie::Twice => [self.signer(b"other", &kind, &sha256_id), signer].concat(),
            _ => signer,
        };
        let content = tlv(SEQUENCE, &[&kind, &tlv(0xa0, &[&tlv(4, &[&info])])]);
        let data = tlv(
            SEQUENCE,
            &[
                &tlv(2, &[&[3]]),
                &tlv(SET, &[&sha256_id]),
                &content,
                &tlv(0xa0, &[&self.leaf]),
                &tlv(SET, &[&signers]),
            ],
        );
        let token = tlv(SEQUENCE, &[&name(&[&PKCS, &[7, 2]]), &tlv(0xa0, &[&data])]);
        let status = u8::from(self.lie == Lie::Refused) * 2;
        let mut response = tlv(
            SEQUENCE,
            &[&tlv(SEQUENCE, &[&tlv(2, &[&[status]])]), &token],
        );
        if self.lie == Lie::Longer {
            response.push(0);
        }
        response
    }

    fn signer(&self, info: &[u8], kind: &[u8], sha256_id: &[u8]) -> Vec<u8> {
        let named = if self.lie == Lie::OtherCertificate {
            &self.root
        } else {
            &self.leaf
        };
        let attribute =
            |id: &[u8], value: &[u8]| tlv(SEQUENCE, &[&name(&[&PKCS, id]), &tlv(SET, &[value])]);
        let id = tlv(SEQUENCE, &[&tlv(4, &[&sha256(&[named])])]);
        let certificate = tlv(SEQUENCE, &[&tlv(SEQUENCE, &[&id])]);
        let mut attributes = [
            attribute(&[9, 3], kind),
            attribute(&[9, 4], &tlv(4, &[&sha256(&[info])])),
            attribute(&[9, 16, 2, 0x2f], &certificate),
        ];
        attributes.sort();
        let attributes = attributes.concat();
        let signature = leaf_signs(&self.key, &tlv(SET, &[&attributes]));
        let signed = if self.lie == Lie::Unsigned {
            Vec::new()
        } else {
            tlv(0xa0, &[&attributes])
        };
        let certificate = inside(&inside(&self.leaf)[0]);
        let sid = tlv(SEQUENCE, &[&certificate[3], &certificate[1]]);
        tlv(
            SEQUENCE,
            &[
                &tlv(2, &[&[1]]),
                &sid,
                sha256_id,
                &signed,
                &tlv(SEQUENCE, &[&name(&[ECDSA_SHA256])]),
                &tlv(4, &[&signature]),
            ],
        )
    }
}
