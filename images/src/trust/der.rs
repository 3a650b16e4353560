//! As much of DER (X.690) as keys and certificates need. Lengths are checked; nothing is copied.

const INTEGER: u8 = 0x02;
const NULL: u8 = 0x05;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const BOOLEAN: u8 = 0x01;
/// Of a certificate: `[0]`, and a number follows.
const VERSION: u8 = 0xa0;
/// Of a certificate: `[3]`.
pub(super) const EXTENSIONS: u8 = 0xa3;

/// Elements one after the other.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(pub &'a [u8]);

impl<'a> Der<'a> {
    /// The tag and content of the next element.
    pub fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 || rest.len() < count {
                return None;
            }
            let (bytes, rest) = rest.split_at(count);
            let length = bytes.iter().fold(0, |sum, &b| sum << 8 | usize::from(b));
            (length, rest)
        };
        if rest.len() < length {
            return None;
        }
        let (content, rest) = rest.split_at(length);
        self.0 = rest;
        Some((tag, content))
    }

    /// The same, and the element as it stands there.
    pub fn next_whole(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let before = self.0;
        let (tag, content) = self.next()?;
        Some((tag, content, &before[..before.len() - self.0.len()]))
    }

    /// The content of the next element, which must have this tag.
    pub fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    /// The elements within the next one.
    pub fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }
}

/// An element of this tag and content.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[content.len().leading_zeros() as usize / 8..];
    let head = match length {
        [] => vec![tag, 0],
        [short @ 0..0x80] => vec![tag, *short],
        long => [&[tag, 0x80 | long.len() as u8], long].concat(),
    };
    [&head, content].concat()
}

/// RSAPublicKey (RFC 8017, A.1.1): modulus and exponent.
pub(super) fn is_rsa_key(key: &[u8]) -> bool {
    let numbers = || {
        let mut fields = Der(key).enter(SEQUENCE)?;
        fields.take(INTEGER)?;
        fields.take(INTEGER)?;
        Some(fields.0.is_empty())
    };
    numbers() == Some(true)
}

/// The same as SubjectPublicKeyInfo, with the OID of its algorithm.
pub(super) fn rsa_spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = [element(OID, algorithm), element(NULL, &[])].concat();
    let bits = [&[0], key].concat();
    let fields = [element(SEQUENCE, &algorithm), element(BIT_STRING, &bits)];
    element(SEQUENCE, &fields.concat())
}

/// Algorithm, its parameters if they are an OID, and the key's bits.
pub(super) fn public_key(spki: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut fields = Der(spki).enter(SEQUENCE)?;
    let mut algorithm = fields.enter(SEQUENCE)?;
    let name = algorithm.take(OID)?;
    let parameters = algorithm.take(OID).unwrap_or_default();
    let (unused, bits) = fields.take(BIT_STRING)?.split_first()?;
    (*unused == 0).then_some((name, parameters, bits))
}

/// The extensions of a certificate (RFC 5280, 4.1): OID and value.
pub(super) fn extensions(certificate: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    let mut found = Vec::new();
    while let Some((tag, content)) = fields.next() {
        if tag != EXTENSIONS {
            continue;
        }
        let mut list = Der(content).enter(SEQUENCE)?;
        while let Some(mut extension) = list.enter(SEQUENCE) {
            let name = extension.take(OID)?;
            let (tag, value) = extension.next()?;
            let value = if tag == BOOLEAN {
                extension.take(OCTET_STRING)?
            } else {
                value
            };
            found.push((name, value));
        }
    }
    Some(found)
}

/// Whether a certificate names itself as who gave it (RFC 5280, 4.1).
pub(super) fn is_self_issued(certificate: &[u8]) -> bool {
    let names = || {
        let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
        let (first, _) = fields.next()?;
        if first == VERSION {
            fields.next()?;
        }
        fields.take(SEQUENCE)?;
        let issuer = fields.take(SEQUENCE)?;
        fields.take(SEQUENCE)?;
        Some((issuer, fields.take(SEQUENCE)?))
    };
    names().is_some_and(|(issuer, subject)| issuer == subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_written_as_they_are_read() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let written = element(SEQUENCE, &content);
            let mut read = Der(&written);
            let whole = Some((SEQUENCE, &content[..], &written[..]));
            assert_eq!(read.next_whole(), whole, "{length}");
        }
        assert_eq!(element(OID, &[1; 130])[..3], [OID, 0x81, 130]);
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        for bad in [
            &[0x30][..],
            &[0x30, 1],
            &[0x30, 0x80],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert!(Der(bad).next().is_none(), "{bad:x?}");
        }
        let mut good = Der(&[0x30, 0x81, 1, 7, 6, 0]);
        assert_eq!(good.next(), Some((0x30, &[7][..])));
        assert_eq!(good.take(OID), Some(&[][..]));
        assert!(good.next().is_none());
        assert!(extensions(&[0x30, 2, 0x30, 0]).unwrap().is_empty());
        assert!(public_key(&[0x30, 0]).is_none());
    }
}
