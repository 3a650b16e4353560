//! Timestamps of RFC 3161: an authority's word that it saw a signature at a time. Every rule of RFC
//! 3161 and 5816 for who may give one is kept; nothing is believed before its signature is good.

use ::der::asn1::{GeneralizedTime, Int, ObjectIdentifier, OctetString};
use ::der::{Any, Choice, Decode, DecodeValue, Encode, Sequence, Tag, Tagged};
use cms::cert::CertificateChoices;
use cms::cert::x509::Certificate;
use cms::cert::x509::attr::Attributes;
use cms::cert::x509::ext::Extensions;
use cms::cert::x509::ext::pkix::{ExtendedKeyUsage, SubjectKeyIdentifier};
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use ring::digest::{self, digest};
use rustls::pki_types::CertificateDer;

use super::root::CertificateAuthority;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const SIGNED_DATA: ObjectIdentifier = oid("1.2.840.113549.1.7.2");
/// id-ct-TSTInfo
const TIMESTAMP: ObjectIdentifier = oid("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = oid("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = oid("1.2.840.113549.1.9.4");
/// id-aa-signingCertificateV2
const SIGNING_CERTIFICATE: ObjectIdentifier = oid("1.2.840.113549.1.9.16.2.47");
/// id-kp-timeStamping, and the same without tag and length.
const TIME_STAMPING: ObjectIdentifier = oid("1.3.6.1.5.5.7.3.8");
const TIME_STAMPING_RAW: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
const SHA256: ObjectIdentifier = oid("2.16.840.1.101.3.4.2.1");
/// The digests that are good enough.
static DIGESTS: [(ObjectIdentifier, &digest::Algorithm); 3] = [
    (SHA256, &digest::SHA256),
    (oid("2.16.840.1.101.3.4.2.2"), &digest::SHA384),
    (oid("2.16.840.1.101.3.4.2.3"), &digest::SHA512),
];

/// TimeStampResp (RFC 3161, 2.4.2).
#[derive(Sequence)]
struct Response {
    status: Status,
    #[asn1(optional = "true")]
    token: Option<ContentInfo>,
}

/// PKIStatusInfo: 0 and 1 are granted. The rest are words for people.
#[derive(Sequence)]
struct Status {
    status: u8,
    #[asn1(optional = "true")]
    text: Option<Any>,
    #[asn1(optional = "true")]
    failure: Option<Any>,
}

/// TSTInfo.
#[derive(Sequence)]
struct Info {
    version: u8,
    policy: ObjectIdentifier,
    imprint: Imprint,
    serial: Int,
    /// GeneralizedTime, which may have fractions of a second here.
    time: Any,
    #[asn1(optional = "true")]
    accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    ordering: bool,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    authority: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

#[derive(Sequence)]
struct Imprint {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

/// Up to three numbers, of which nothing is made here.
#[derive(Sequence)]
struct Accuracy {
    #[asn1(optional = "true")]
    seconds: Option<Any>,
    #[asn1(optional = "true")]
    millis: Option<Any>,
    #[asn1(optional = "true")]
    micros: Option<Any>,
}

/// SigningCertificateV2 and ESSCertIDv2 (RFC 5035).
#[derive(Sequence)]
struct SigningCertificate {
    certificates: Vec<CertificateId>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

#[derive(Sequence)]
struct CertificateId {
    /// SHA-256 where it is not there.
    #[asn1(optional = "true")]
    algorithm: Option<AlgorithmIdentifierOwned>,
    digest: OctetString,
    #[asn1(optional = "true")]
    issuer: Option<Any>,
}

/// Seconds since 1970 at which one of the authorities saw this signature, by a DER TimeStampResp.
pub(super) fn verify(
    response: &[u8],
    signature: &[u8],
    authorities: &[CertificateAuthority],
) -> Result<u64, String> {
    let (data, signer) = signed_data(response).map_err(|why| format!("its timestamp {why}"))?;
    let content = data.encap_content_info.econtent.as_ref();
    let content = content.map_or(&[][..], Any::value);
    let bad = |why: &str| format!("its timestamp {why}");
    let certificate = certificate_of(&data, &signer, authorities)
        .ok_or_else(|| bad("is by a certificate that neither it nor the policy has"))?;
    check_signer(&signer, content, &certificate).map_err(&bad)?;
    let info = Info::from_der(content).map_err(|_| bad("is malformed"))?;
    if !is_of(&info.imprint, signature) {
        return Err(bad("is of another signature"));
    }
    let critical = |extensions: &Extensions| extensions.iter().any(|e| e.critical);
    if info.version != 1 || info.extensions.as_ref().is_some_and(critical) {
        return Err(bad("has conditions that are not known here"));
    }
    let time = seconds(&info.time).ok_or_else(|| bad("has no time"))?;
    let others = others(&data);
    let trusted = |authority: &&CertificateAuthority| {
        authority.vouches(&certificate, &others, TIME_STAMPING_RAW, time)
    };
    match authorities.iter().find(trusted) {
        Some(_) => Ok(time),
        None => Err(bad("is not of the policy's authorities")),
    }
}

/// A token of one signer.
fn signed_data(response: &[u8]) -> Result<(SignedData, SignerInfo), &'static str> {
    let malformed = |_: der::Error| "is malformed";
    let response = Response::from_der(response).map_err(malformed)?;
    let token = response.token.filter(|_| response.status.status < 2);
    let token = token.ok_or("was not granted")?;
    if token.content_type != SIGNED_DATA {
        return Err("is not signed");
    }
    let data: SignedData = token.content.decode_as().map_err(malformed)?;
    let inner = &data.encap_content_info;
    let octets = |content: &Any| content.tag() == Tag::OctetString;
    if inner.econtent_type != TIMESTAMP || !inner.econtent.as_ref().is_some_and(octets) {
        return Err("is something else");
    }
    let mut signers = data.signer_infos.0.iter();
    match (signers.next().cloned(), signers.next()) {
        (Some(signer), None) => Ok((data, signer)),
        _ => Err("has not one signer"),
    }
}

/// The signer's, from the token or the policy.
fn certificate_of(
    data: &SignedData,
    signer: &SignerInfo,
    authorities: &[CertificateAuthority],
) -> Option<CertificateDer<'static>> {
    let known = authorities.iter().flat_map(|a| a.chain.iter().cloned());
    others(data)
        .into_iter()
        .chain(known)
        .find(|der| Certificate::from_der(der).is_ok_and(|c| is_named(&c, &signer.sid)))
}

fn others(data: &SignedData) -> Vec<CertificateDer<'static>> {
    let plain = |choice: &CertificateChoices| match choice {
        CertificateChoices::Certificate(c) => c.to_der().ok().map(CertificateDer::from),
        CertificateChoices::Other(_) => None,
    };
    let set = data.certificates.iter().flat_map(|set| set.0.iter());
    set.filter_map(plain).collect()
}

fn is_named(certificate: &Certificate, name: &SignerIdentifier) -> bool {
    let own = &certificate.tbs_certificate;
    match name {
        SignerIdentifier::IssuerAndSerialNumber(name) => {
            name.issuer == own.issuer && name.serial_number == own.serial_number
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            matches!(own.get::<SubjectKeyIdentifier>(), Ok(Some((_, own))) if own == *id)
        }
    }
}

/// That the certificate's key signed this content, and that the certificate is for nothing else.
fn check_signer(
    signer: &SignerInfo,
    content: &[u8],
    certificate: &CertificateDer<'_>,
) -> Result<(), &'static str> {
    let attributes = signer.signed_attrs.as_ref().ok_or("is not signed")?;
    let signed = attributes.to_der().map_err(|_| "is malformed")?;
    let entity = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| "is by a malformed certificate")?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let good = |algorithm: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        let signature = signer.signature.as_bytes();
        entity
            .verify_signature(**algorithm, &signed, signature)
            .is_ok()
    };
    if algorithms.all.iter().find(good).is_none() {
        return Err("has a signature that is not good");
    }
    let kind: ObjectIdentifier = attribute(attributes, CONTENT_TYPE)?;
    let hash: OctetString = attribute(attributes, MESSAGE_DIGEST)?;
    if kind != TIMESTAMP || !matches(&signer.digest_alg, content, hash.as_bytes()) {
        return Err("is not what was signed");
    }
    // RFC 5816: the certificate is part of what is signed, so that no other can take its place.
    let id: SigningCertificate = attribute(attributes, SIGNING_CERTIFICATE)?;
    let own = id.certificates.first().ok_or("is malformed")?;
    let sha256 = AlgorithmIdentifierOwned {
        oid: SHA256,
        parameters: None,
    };
    let algorithm = own.algorithm.as_ref().unwrap_or(&sha256);
    if !matches(algorithm, certificate, own.digest.as_bytes()) {
        return Err("names another certificate than it was signed by");
    }
    is_for_timestamps(certificate)
}

/// RFC 3161, 2.3: the one extended use, and critical.
fn is_for_timestamps(certificate: &[u8]) -> Result<(), &'static str> {
    let certificate = Certificate::from_der(certificate).map_err(|_| "is malformed")?;
    match certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
        Ok(Some((true, uses))) if uses.0 == [TIME_STAMPING] => Ok(()),
        _ => Err("is by a certificate that is not for timestamps alone"),
    }
}

/// The one value of an attribute that is there once.
fn attribute<'a, T: Choice<'a> + DecodeValue<'a>>(
    attributes: &'a Attributes,
    name: ObjectIdentifier,
) -> Result<T, &'static str> {
    let mut named = attributes.iter().filter(|attribute| attribute.oid == name);
    let (Some(attribute), None) = (named.next(), named.next()) else {
        return Err("has not the attributes of a timestamp");
    };
    match attribute.values.get(0) {
        Some(value) if attribute.values.len() == 1 => {
            value.decode_as().map_err(|_| "has a malformed attribute")
        }
        _ => Err("has not the attributes of a timestamp"),
    }
}

fn is_of(imprint: &Imprint, signature: &[u8]) -> bool {
    matches(&imprint.algorithm, signature, imprint.digest.as_bytes())
}

fn matches(algorithm: &AlgorithmIdentifierOwned, bytes: &[u8], wanted: &[u8]) -> bool {
    let known = DIGESTS.iter().find(|(oid, _)| *oid == algorithm.oid);
    known.is_some_and(|(_, algorithm)| digest(algorithm, bytes).as_ref() == wanted)
}

/// Without its fraction: the second in which it was.
fn seconds(time: &Any) -> Option<u64> {
    let (whole, rest) = time.value().split_at_checked(14)?;
    let fraction = match rest {
        b"Z" => &[][..],
        [b'.', digits @ .., b'Z'] if !digits.is_empty() => digits,
        _ => return None,
    };
    if time.tag() != Tag::GeneralizedTime || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = Any::new(Tag::GeneralizedTime, [whole, b"Z"].concat()).ok()?;
    let whole: GeneralizedTime = whole.decode_as().ok()?;
    Some(whole.to_unix_duration().as_secs())
}
