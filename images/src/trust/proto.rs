//! What the documents of sigstore share: messages of protobuf, written as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

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

/// protobuf writes bytes as base64 in JSON. Readers take both alphabets, with and without padding; Go's
/// take line breaks too.
#[derive(Default)]
pub(super) struct Base64(pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.chars().filter(|c| !matches!(c, '\r' | '\n' | '='));
        let plain = plain.map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        });
        let bytes = STANDARD_NO_PAD.decode(plain.collect::<String>());
        bytes.map(Self).map_err(|_| D::Error::custom("not base64"))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle of sigstore-conformance has lines of 76 characters.
    #[test]
    fn base64_of_all_writers_of_protobuf_is_read() {
        let read = |text: &str| serde_json::from_str::<Base64>(text).map(|read| read.0);
        for text in [r#""+/8=""#, r#""-_8""#, r#""+/\n8=\n""#] {
            assert_eq!(read(text).unwrap(), [0xfb, 0xff], "{text}");
        }
        for bad in [r#""+/9=""#, r#""+""#, r#""+ /8=""#, r#""!!!!""#, "1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
