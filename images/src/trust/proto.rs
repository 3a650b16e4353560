//! What the documents of sigstore share: messages of protobuf, written as JSON.

use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::decode;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Chain {
    pub certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawBytes {
    pub raw_bytes: Base64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogId {
    pub key_id: Base64,
}

/// protobuf writes bytes as base64 in JSON.
#[derive(Default)]
pub(super) struct Base64(pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom("not base64"))
    }
}

/// protobuf writes 64-bit numbers as text in JSON; readers take both.
#[derive(Default)]
pub(super) struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(i64),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
            Either::Number(number) => Ok(Self(number)),
        }
    }
}

impl Chain {
    /// In their order, the leaf first.
    pub fn certificates(self) -> Vec<CertificateDer<'static>> {
        let der = |raw: RawBytes| CertificateDer::from(raw.raw_bytes.0);
        self.certificates.into_iter().map(der).collect()
    }
}
