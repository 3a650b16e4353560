//! Public keys as cosign writes them (`cosign.pub`), and signatures by them.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::der;

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

type Algorithms = &'static [&'static dyn VerificationAlgorithm];

static P256_KEYS: Algorithms = &[&signature::ECDSA_P256_SHA256_ASN1];
static P384_KEYS: Algorithms = &[
    &signature::ECDSA_P384_SHA256_ASN1,
    &signature::ECDSA_P384_SHA384_ASN1,
];
static ED25519_KEYS: Algorithms = &[&signature::ED25519];
static RSA_KEYS: Algorithms = &[
    &signature::RSA_PKCS1_2048_8192_SHA256,
    &signature::RSA_PSS_2048_8192_SHA256,
];

/// ECDSA (P-256, P-384), Ed25519 or RSA from 2048 bits, with SHA-256 as cosign signs.
#[derive(Clone)]
pub(super) struct PublicKey {
    algorithms: Algorithms,
    bits: Vec<u8>,
    spki: Vec<u8>,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublicKey")
    }
}

impl PublicKey {
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_| "no PEM block PUBLIC KEY".to_owned())?;
        Self::from_spki(&spki)
    }

    /// As documents of sigstore have it: SubjectPublicKeyInfo, or an RSA key as PKCS #1 has it. By a key
    /// of a kind that is not known here no signature is good.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let rsa = der::is_rsa_key(der).then(|| der::rsa_spki(RSA, der));
        let spki = rsa.as_deref().unwrap_or(der);
        der::public_key(spki).ok_or("not a public key")?;
        Ok(Self::from_spki(spki).unwrap_or_else(|_| Self {
            algorithms: &[],
            bits: Vec::new(),
            spki: spki.to_vec(),
        }))
    }

    pub fn from_spki(spki: &[u8]) -> Result<Self, String> {
        let (name, parameters, bits) = der::public_key(spki).ok_or("not a public key")?;
        let algorithms = match (name, parameters) {
            (EC, P256) => P256_KEYS,
            (EC, P384) => P384_KEYS,
            (ED25519, _) => ED25519_KEYS,
            (RSA, _) => RSA_KEYS,
            _ => return Err("a key of an unknown kind: use ECDSA P-256".to_owned()),
        };
        Ok(Self {
            algorithms,
            bits: bits.to_vec(),
            spki: spki.to_vec(),
        })
    }

    /// SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Whether the key made this signature of this message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithms.iter().any(|algorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bits)
                .verify(message, signature)
                .is_ok()
        })
    }
}
