//! The subject of a client's certificate: its common name is the user, its organisations the
//! groups.
//!
//! The certificate has been verified already; this reads as much of its DER (X.690) as leads to the
//! subject (RFC 5280, section 4.1).

use super::User;

pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// 2.5.4.3 and 2.5.4.10.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The user of a certificate; `None` where it has no common name.
pub fn user(der: &[u8]) -> Option<User> {
    let (tag, name, _) = element(subject_der(der)?)?;
    (tag == SEQUENCE).then_some(())?;
    let (name, groups) = subject(name)?;
    (!name.is_empty()).then(|| User::new(&name, groups))
}

/// The subject of a certificate, DER.
pub fn subject_der(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    // An explicit version, where there is one, comes before the serial number.
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.2;
    }
    // serialNumber, signature, issuer, validity.
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    Some(whole(rest)?.0)
}

/// Common name (empty where there is none) and organisations of the content of a Name.
pub(super) fn subject(subject: &[u8]) -> Option<(String, Vec<String>)> {
    let (mut name, mut groups) = (String::new(), Vec::new());
    let mut sets = subject;
    while let Some((SET, set, after)) = element(sets) {
        sets = after;
        let mut pairs = set;
        while let Some((SEQUENCE, pair, after)) = element(pairs) {
            pairs = after;
            let (OBJECT_ID, id, value) = element(pair)? else {
                return None;
            };
            let text = std::str::from_utf8(element(value)?.1).ok()?.to_owned();
            match id {
                COMMON_NAME => name = text,
                ORGANISATION => groups.push(text),
                _ => {}
            }
        }
    }
    Some((name, groups))
}

/// The first element with its tag and length, and what follows it.
pub(super) fn whole(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, _, after) = element(bytes)?;
    bytes.split_at_checked(bytes.len() - after.len())
}

/// Tag, content, and what follows the first element.
pub(super) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if *first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits.iter().fold(0, |n, d| n << 8 | usize::from(*d));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn common_name_and_organisations_are_user_and_groups() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CountryName, "AQ");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "dev");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let found = user(certificate.der()).unwrap();
        assert_eq!(found, User::new("ann", vec!["dev".into()]));
    }

    #[test]
    fn what_is_cut_off_or_no_certificate_is_nobody() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der().to_vec();
        let needed = (0..der.len()).find(|n| user(&der[..*n]).is_some());
        assert_eq!(needed, None);
        for byte in 0..der.len() {
            let mut bad = der.clone();
            bad[byte] ^= 0xff;
            let _ = user(&bad);
        }
    }
}
