//! CRIU's service protocol (`criu swrk`): protobuf messages over a SOCK_SEQPACKET
//! socket. Field numbers are those of CRIU's images/rpc.proto.

use crate::{Error, Result};

/// Kinds of requests and answers (`criu_req_type`).
pub mod kind {
    /// Dump, and kill unless told otherwise.
    pub const DUMP: u64 = 1;
    /// Restore.
    pub const RESTORE: u64 = 2;
    /// Dump memory only, and go on.
    pub const PRE_DUMP: u64 = 4;
    /// CRIU asks for something to be done.
    pub const NOTIFY: u64 = 6;
    /// Which features CRIU has on this kernel.
    pub const FEATURE_CHECK: u64 = 9;
    /// CRIU's version.
    pub const VERSION: u64 = 10;
}

/// A message being written.
#[derive(Debug, Default, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An integer.
    pub fn number(&mut self, field: u32, value: u64) -> &mut Self {
        self.raw(u64::from(field) << 3);
        self.raw(value);
        self
    }

    /// An int32, which is written with its sign extended.
    pub fn int(&mut self, field: u32, value: i32) -> &mut Self {
        self.number(field, i64::from(value) as u64)
    }

    /// A bool.
    pub fn flag(&mut self, field: u32, value: bool) -> &mut Self {
        self.number(field, u64::from(value))
    }

    /// A string or bytes.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.raw(u64::from(field) << 3 | 2);
        self.raw(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// A string.
    pub fn text(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes())
    }

    /// A message inside.
    pub fn inner(&mut self, field: u32, value: &Self) -> &mut Self {
        self.bytes(field, &value.0)
    }

    /// The fields of `other` as well.
    pub fn append(&mut self, other: &Self) -> &mut Self {
        self.0.extend(&other.0);
        self
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The parts of an answer that matter.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Answer {
    /// One of [`kind`].
    pub kind: u64,
    /// Whether CRIU did it.
    pub success: bool,
    /// What [`kind::NOTIFY`] is about, as "post-restore".
    pub script: String,
    /// The process that a notification is about.
    pub pid: i32,
    /// An errno, where there is one.
    pub errno: i32,
    /// Why, in newer versions.
    pub why: String,
    /// major, minor, sublevel.
    pub version: [u64; 3],
    /// Memory tracking, lazy pages.
    pub features: [bool; 2],
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Bytes(value)
        }
        1 | 5 => {
            let (_, rest) = bytes.split_at_checked(if key & 7 == 1 { 8 } else { 4 })?;
            *bytes = rest;
            Value::Number(0)
        }
        _ => return None,
    };
    Some((key >> 3, value))
}

fn fields(mut bytes: &[u8], mut each: impl FnMut(u64, Value<'_>) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let (number, value) = field(&mut bytes)?;
        each(number, value)?;
    }
    Some(())
}

/// Reads an answer.
pub fn answer(bytes: &[u8]) -> Result<Answer> {
    parse(bytes).ok_or_else(|| Error::Remote("criu answered what is no message of its".into()))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let mut answer = Answer::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields(bytes, |number, value| {
        match (number, value) {
            (1, Value::Number(n)) => answer.kind = n,
            (2, Value::Number(n)) => answer.success = n != 0,
            (7, Value::Number(n)) => answer.errno = n as i32,
            (9, Value::Bytes(b)) => answer.why = text(b),
            (5, Value::Bytes(b)) => fields(b, |number, value| {
                match (number, value) {
                    (1, Value::Bytes(b)) => answer.script = text(b),
                    (2, Value::Number(n)) => answer.pid = n as i32,
                    _ => {}
                }
                Some(())
            })?,
            (10, Value::Bytes(b)) => fields(b, |number, value| {
                if let (1 | 2 | 4, Value::Number(n)) = (number, value) {
                    answer.version[[0, 1, 1, 2][number as usize - 1]] = n;
                }
                Some(())
            })?,
            (8, Value::Bytes(b)) => fields(b, |number, value| {
                if let (1 | 2, Value::Number(n)) = (number, value) {
                    answer.features[number as usize - 1] = n != 0;
                }
                Some(())
            })?,
            _ => {}
        }
        Some(())
    })?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protobuf() {
        let mut message = Message::default();
        message.number(1, 300).int(2, -1).text(3, "ab");
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let mut expected = vec![0x08, 0xac, 0x02, 0x10];
        expected.extend(minus_one);
        expected.extend([0x1a, 2, b'a', b'b']);
        assert_eq!(message.as_bytes(), expected);
    }

    #[test]
    fn answers_are_read_and_cut_ones_refused() {
        let mut notify = Message::default();
        notify.text(1, "post-restore").number(2, 77);
        let mut version = Message::default();
        version.number(1, 3).number(2, 17).number(4, 1);
        let mut message = Message::default();
        message
            .number(1, kind::NOTIFY)
            .flag(2, true)
            .inner(5, &notify)
            .inner(10, &version);
        let read = answer(message.as_bytes()).unwrap();
        assert_eq!(
            (read.kind, read.success, read.pid),
            (kind::NOTIFY, true, 77)
        );
        assert_eq!(
            (read.script.as_str(), read.version),
            ("post-restore", [3, 17, 1])
        );
        for end in 1..message.as_bytes().len() {
            // Never a panic; a cut inside a field is refused.
            let _ = answer(&message.as_bytes()[..end]);
        }
        assert!(answer(&message.as_bytes()[..message.as_bytes().len() - 1]).is_err());
    }
}
