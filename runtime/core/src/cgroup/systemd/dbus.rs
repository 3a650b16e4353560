//! A D-Bus client of one connection, one call at a time: what it takes to ask
//! systemd for a unit (D-Bus specification 0.43: authentication EXTERNAL, type
//! system, little-endian marshalling).

use crate::{Error, Result};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for an answer, as runc's.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest message that is read; systemd's are far below.
const LONGEST: u32 = 1 << 20;

/// Values that systemd's unit properties have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `s`.
    Text(String),
    /// `b`.
    Bool(bool),
    /// `t`.
    U64(u64),
    /// `x`.
    I64(i64),
    /// `u`.
    U32(u32),
    /// `i`.
    I32(i32),
    /// `as`.
    Texts(Vec<String>),
    /// `au`.
    U32s(Vec<u32>),
    /// `ay`.
    Bytes(Vec<u8>),
    /// `a(ss)`.
    Pairs(Vec<(String, String)>),
}

/// Bytes being marshalled, aligned from the start of the message or body.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    /// `u`.
    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    /// `b`.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// `s` or `o`.
    pub fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that are aligned to `to`.
    fn array(&mut self, to: usize, write: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(to);
        let start = self.0.len();
        write(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `v`.
    fn variant(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Bool(value) => {
                self.signature("b");
                self.bool(*value);
            }
            Value::U64(value) => {
                self.signature("t");
                self.align(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::I64(value) => {
                self.signature("x");
                self.align(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::U32(value) => {
                self.signature("u");
                self.u32(*value);
            }
            Value::I32(value) => {
                self.signature("i");
                self.align(4);
                self.0.extend(value.to_le_bytes());
            }
            Value::Texts(texts) => {
                self.signature("as");
                self.array(4, |w| texts.iter().for_each(|t| w.text(t)));
            }
            Value::U32s(values) => {
                self.signature("au");
                self.array(4, |w| values.iter().for_each(|v| w.u32(*v)));
            }
            Value::Pairs(pairs) => {
                self.signature("a(ss)");
                self.array(8, |w| {
                    for (first, second) in pairs {
                        w.align(8);
                        w.text(first);
                        w.text(second);
                    }
                });
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |w| w.0.extend(bytes));
            }
        }
    }

    /// `a(sv)`.
    pub fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |w| {
            for (name, value) in properties {
                w.align(8);
                w.text(name);
                w.variant(value);
            }
        });
    }

    /// `a(sa(sv))`, empty: no auxiliary units.
    pub fn no_auxiliary_units(&mut self) {
        self.array(8, |_| {});
    }
}

/// A message being read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

/// What matters of a received message.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    reply_to: u32,
    error: String,
    member: String,
    body: Vec<u8>,
}

impl Message {
    /// All texts (`s`, `o`) of a body that begins with `skip` numbers (`u`).
    fn texts(&self, skip: usize, count: usize) -> Option<Vec<String>> {
        let mut reader = Reader {
            bytes: &self.body,
            at: 0,
        };
        for _ in 0..skip {
            reader.u32()?;
        }
        (0..count).map(|_| reader.text()).collect()
    }
}

fn parse_fields(bytes: &[u8], message: &mut Message) -> Option<()> {
    let mut reader = Reader { bytes, at: 0 };
    while reader.at < bytes.len() {
        reader.align(8);
        if reader.at >= bytes.len() {
            break;
        }
        let code = reader.u8()?;
        match reader.signature()?.as_str() {
            "s" | "o" => {
                let text = reader.text()?;
                match code {
                    3 => message.member = text,
                    4 => message.error = text,
                    _ => {}
                }
            }
            "g" => drop(reader.signature()?),
            "u" => {
                let number = reader.u32()?;
                if code == 5 {
                    message.reply_to = number;
                }
            }
            _ => return None,
        }
    }
    Some(())
}

/// A connection to the bus that systemd is on.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    path: PathBuf,
    serial: u32,
}

impl Bus {
    /// Connects to the system bus, or to the user's.
    pub fn connect(user: bool) -> Result<Self> {
        let path = address(user);
        let stream = UnixStream::connect(&path).map_err(|e| Error::file("connect", &path, e))?;
        let mut bus = Self {
            stream,
            path,
            serial: 0,
        };
        bus.stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|e| Error::file("setsockopt", &bus.path, e))?;
        bus.authenticate()?;
        bus.call_bus("Hello", "", Writer::default())?;
        Ok(bus)
    }

    fn io(&self, call: &'static str, error: std::io::Error) -> Error {
        Error::file(call, &self.path, error)
    }

    fn protocol(&self, what: &str) -> Error {
        Error::State(format!("D-Bus at {}: {what}", self.path.display()).into())
    }

    fn authenticate(&mut self) -> Result<()> {
        use std::fmt::Write as _;
        let mut hex = String::new();
        for byte in rrun_sys::cred::euid().to_string().bytes() {
            let _ = write!(hex, "{byte:02x}");
        }
        let hello = format!("\0AUTH EXTERNAL {hex}\r\n");
        self.stream
            .write_all(hello.as_bytes())
            .map_err(|e| self.io("write", e))?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0];
            self.stream
                .read_exact(&mut byte)
                .map_err(|e| self.io("read", e))?;
            line.push(byte[0]);
        }
        if !line.starts_with(b"OK ") {
            return Err(self.protocol("authentication is refused"));
        }
        self.stream
            .write_all(b"BEGIN\r\n")
            .map_err(|e| self.io("write", e))
    }

    /// A call to the bus itself.
    pub fn call_bus(&mut self, member: &str, signature: &str, body: Writer) -> Result<()> {
        let name = "org.freedesktop.DBus";
        self.call(
            [name, "/org/freedesktop/DBus", name],
            member,
            signature,
            body,
        )
        .map(drop)
    }

    /// A call to systemd's manager; the first text of the answer, if it has one.
    pub fn call_systemd(&mut self, member: &str, signature: &str, body: Writer) -> Result<String> {
        let interface = "org.freedesktop.systemd1.Manager";
        let to = [
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            interface,
        ];
        let answer = self.call(to, member, signature, body)?;
        Ok(answer
            .texts(0, 1)
            .and_then(|mut t| t.pop())
            .unwrap_or_default())
    }

    /// systemd's version, as 252.
    pub fn systemd_version(&mut self) -> Result<u32> {
        let to = [
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.DBus.Properties",
        ];
        let mut body = Writer::default();
        body.text("org.freedesktop.systemd1.Manager");
        body.text("Version");
        let answer = self.call(to, "Get", "ss", body)?;
        version(&answer.body).ok_or_else(|| self.protocol("a version that is no number"))
    }

    fn call(
        &mut self,
        [destination, path, interface]: [&str; 3],
        member: &str,
        signature: &str,
        body: Writer,
    ) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        // Little-endian, method call, no flags, version 1.
        let mut message = Writer(vec![b'l', 1, 0, 1]);
        message.u32(body.0.len() as u32);
        message.u32(serial);
        message.array(8, |w| {
            let fields = [
                (1, "o", path),
                (2, "s", interface),
                (3, "s", member),
                (6, "s", destination),
            ];
            for (code, kind, text) in fields {
                w.align(8);
                w.0.push(code);
                w.signature(kind);
                w.text(text);
            }
            if !signature.is_empty() {
                w.align(8);
                w.0.push(8);
                w.signature("g");
                w.signature(signature);
            }
        });
        message.align(8);
        message.0.extend(body.0);
        self.stream
            .write_all(&message.0)
            .map_err(|e| self.io("write", e))?;
        loop {
            let answer = self.receive()?;
            match answer.kind {
                2 if answer.reply_to == serial => return Ok(answer),
                3 if answer.reply_to == serial => {
                    let why = answer
                        .texts(0, 1)
                        .and_then(|mut t| t.pop())
                        .unwrap_or_default();
                    let text = format!("{member}: {}: {why}", answer.error);
                    return Err(Error::Remote(text));
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut head = [0; 16];
        self.stream
            .read_exact(&mut head)
            .map_err(|e| self.io("read", e))?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, fields) = (number(4), number(12));
        if head[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(self.protocol("a message that this client does not understand"));
        }
        let padded = fields.next_multiple_of(8) as usize;
        let mut rest = vec![0; padded + body as usize];
        self.stream
            .read_exact(&mut rest)
            .map_err(|e| self.io("read", e))?;
        let mut message = Message {
            kind: head[1],
            body: rest.split_off(padded),
            ..Message::default()
        };
        parse_fields(&rest[..fields as usize], &mut message)
            .ok_or_else(|| self.protocol("a header that this client does not understand"))?;
        Ok(message)
    }

    /// Waits for the end of `job`; systemd's word for how it ended.
    pub fn job_result(&mut self, job: &str) -> Result<String> {
        loop {
            let message = self.receive()?;
            if message.kind != 4 || message.member != "JobRemoved" {
                continue;
            }
            // Number, job, unit, result.
            if let Some(texts) = message.texts(1, 3)
                && texts[0] == job
            {
                return Ok(texts[2].clone());
            }
        }
    }
}

/// The number that a variant of a text begins with.
fn version(body: &[u8]) -> Option<u32> {
    let mut reader = Reader { bytes: body, at: 0 };
    reader.signature().filter(|kind| kind == "s")?;
    let text = reader.text()?;
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().ok()
}

/// The socket of the bus: the address of the environment where it is a plain path.
fn address(user: bool) -> PathBuf {
    let (variable, default) = if user {
        let dir = std::env::var_os("XDG_RUNTIME_DIR")
            .unwrap_or_else(|| format!("/run/user/{}", rrun_sys::cred::euid()).into());
        ("DBUS_SESSION_BUS_ADDRESS", PathBuf::from(dir).join("bus"))
    } else {
        (
            "DBUS_SYSTEM_BUS_ADDRESS",
            PathBuf::from("/run/dbus/system_bus_socket"),
        )
    };
    let given = std::env::var(variable).unwrap_or_default();
    match given.strip_prefix("unix:path=") {
        Some(path) => PathBuf::from(path.split(',').next().unwrap_or(path)),
        None => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_aligned_as_the_specification_says() {
        let mut writer = Writer::default();
        writer.properties(&[("A", Value::Bool(true)), ("B", Value::U64(7))]);
        let mut expected = vec![];
        // Length, padding to 8; "A", signature b, padding to 4, true.
        expected.extend([40, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0]);
        // "B", signature t, padding to 8, 7.
        expected.extend([1, 0, 0, 0, b'B', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(writer.0, expected);
    }

    #[test]
    fn versions_are_the_number_that_the_text_begins_with() {
        let variant = |text: &str| {
            let mut body = Writer::default();
            body.variant(&Value::Text(text.to_owned()));
            body.0
        };
        assert_eq!(super::version(&variant("252.39-1~deb12u1")), Some(252));
        assert_eq!(super::version(&variant("257")), Some(257));
        assert_eq!(super::version(&variant("v257")), None);
        assert_eq!(super::version(&[1, b'u', 0, 0, 9, 0, 0, 0]), None);
    }

    #[test]
    fn header_fields_are_read_and_cut_ones_refused() {
        let mut writer = Writer::default();
        writer.0.push(3);
        writer.signature("s");
        writer.text("JobRemoved");
        writer.align(8);
        writer.0.push(5);
        writer.signature("u");
        writer.u32(9);
        let mut message = Message::default();
        parse_fields(&writer.0, &mut message).unwrap();
        assert_eq!(
            (message.member.as_str(), message.reply_to),
            ("JobRemoved", 9)
        );
        assert!(parse_fields(&writer.0[..10], &mut Message::default()).is_none());
    }
}
