//! The entries of a tar stream: ustar, GNU and PAX headers made one kind of value.
//!
//! The tar crate parses single headers. The loop is our own, so that every length is bounded
//! and the data of files goes from the inflater's buffer to the file without a copy.

use std::io::{self, BufRead, Read};

use base64::Engine as _;
use tar::{EntryType, Header};

/// Long names and PAX records of one entry, in bytes. Linux paths have 4096.
const EXTENSION_LIMIT: u64 = 1 << 20;
const BLOCK: u64 = 512;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// One entry, its data not yet read.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a stream does not go on: which entry, as far as it is known, and what is wrong.
#[derive(Debug)]
pub(super) struct Refused {
    pub entry: Vec<u8>,
    pub why: String,
}

impl Refused {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give texts and errors alike"
    )]
    pub fn new(entry: &[u8], why: impl ToString) -> Self {
        Self {
            entry: entry.to_vec(),
            why: why.to_string(),
        }
    }
}

/// Reads the entries of a stream one after the other.
pub(super) struct Entries<R> {
    reader: R,
    /// Data of the current entry that nobody has read yet, then its padding.
    left: u64,
    padding: u64,
    last: Vec<u8>,
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: BufRead> Entries<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            left: 0,
            padding: 0,
            last: Vec::new(),
        }
    }

    /// The next entry, or `None` at the end, when the rest of the stream has been read too.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Refused> {
        self.skip_data()?;
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => extension.path = Some(self.long_name(&header)?),
                EntryType::GNULongLink => extension.link = Some(self.long_name(&header)?),
                EntryType::XHeader => {
                    let records = self.extension_data(&header)?;
                    extension
                        .read_pax(&records)
                        .map_err(|why| self.refuse(why))?;
                }
                EntryType::XGlobalHeader => drop(self.extension_data(&header)?),
                _ => return self.entry(&header, extension).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's data; empty at its end.
    pub fn data(&mut self) -> Result<&[u8], Refused> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        match self.reader.fill_buf() {
            Ok([]) => Err(Refused::new(
                &self.last,
                "the stream ends inside of its data",
            )),
            Ok(bytes) => Ok(&bytes[..bytes.len().min(left)]),
            Err(error) => Err(Refused::new(&self.last, broken(&error))),
        }
    }

    /// Marks bytes given by [`Entries::data`] as used.
    pub fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
        self.left -= amount as u64;
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give texts and errors alike"
    )]
    fn refuse(&self, why: impl ToString) -> Refused {
        let why = why.to_string();
        if self.last.is_empty() {
            return Refused::new(b"", why);
        }
        Refused::new(
            b"",
            format!(
                "after entry {:?}: {why}",
                String::from_utf8_lossy(&self.last)
            ),
        )
    }

    fn skip_data(&mut self) -> Result<(), Refused> {
        let mut rest = self.left + self.padding;
        self.left = 0;
        self.padding = 0;
        while rest > 0 {
            let n = match self.reader.fill_buf() {
                Ok([]) => {
                    return Err(Refused::new(
                        &self.last,
                        "the stream ends inside of its data",
                    ));
                }
                Ok(bytes) => bytes.len().min(usize::try_from(rest).unwrap_or(usize::MAX)),
                Err(error) => return Err(Refused::new(&self.last, broken(&error))),
            };
            self.reader.consume(n);
            rest -= n as u64;
        }
        Ok(())
    }

    /// The next header block with a right checksum, or `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, Refused> {
        let mut header = Header::new_old();
        let read = read_block(&mut self.reader, header.as_mut_bytes());
        match read.map_err(|error| self.refuse(broken(&error)))? {
            0 => return Ok(None),
            512 => {}
            _ => return Err(self.refuse("the stream ends inside of a header")),
        }
        if header.as_bytes().iter().all(|&b| b == 0) {
            io::copy(&mut self.reader, &mut io::sink())
                .map_err(|error| self.refuse(broken(&error)))?;
            return Ok(None);
        }
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(self.refuse("what follows is not a tar header (wrong checksum)"));
        }
        Ok(Some(header))
    }

    fn extension_data(&mut self, header: &Header) -> Result<Vec<u8>, Refused> {
        let size = header.entry_size().map_err(|error| self.refuse(error))?;
        if size > EXTENSION_LIMIT {
            let why = format!("an extension header of {size} bytes; {EXTENSION_LIMIT} are allowed");
            return Err(self.refuse(why));
        }
        let mut data = vec![0; (size + padding(size)) as usize];
        self.reader
            .read_exact(&mut data)
            .map_err(|error| self.refuse(broken(&error)))?;
        data.truncate(size as usize);
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Refused> {
        let mut name = self.extension_data(header)?;
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, Refused> {
        let path = extension
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.last.clone_from(&path);
        let refuse = |why: &str| Refused::new(&path, why);
        let number = |n: io::Result<u64>, what: &str| {
            n.map_err(|_| refuse(&format!("its {what} is not a number")))
        };
        let id = |n: io::Result<u64>, what: &str| {
            u32::try_from(number(n, what)?)
                .map_err(|_| refuse(&format!("its {what} has over 32 bits")))
        };
        let kind = kind_of(header, &path).map_err(|why| refuse(&why))?;
        let size = match extension.size {
            Some(size) => size,
            None => number(header.entry_size(), "size")?,
        };
        let has_data = kind == Kind::File;
        self.left = if has_data { size } else { 0 };
        // Old tars give hard links the size of their target, but no data.
        self.padding = if has_data { padding(size) } else { 0 };
        let device = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
        Ok(Entry {
            kind,
            mode: header
                .mode()
                .map_err(|_| refuse("its mode is not a number"))?
                & 0o7777,
            uid: extension
                .uid
                .map_or_else(|| id(header.uid(), "user id"), Ok)?,
            gid: extension
                .gid
                .map_or_else(|| id(header.gid(), "group id"), Ok)?,
            mtime: match extension.mtime {
                Some(mtime) => mtime,
                None => (number(header.mtime(), "time")?.cast_signed(), 0),
            },
            link: extension.link.unwrap_or_else(|| {
                header
                    .link_name_bytes()
                    .map_or(Vec::new(), std::borrow::Cow::into_owned)
            }),
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: extension.xattrs,
            path,
        })
    }
}

fn kind_of(header: &Header, path: &[u8]) -> Result<Kind, String> {
    Ok(match header.entry_type() {
        // Before POSIX a directory was a file whose name ends with a slash.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::GNUSparse => return Err("sparse files of GNU tar are not supported".into()),
        other => {
            return Err(format!(
                "entries of type {:?} are not supported",
                other.as_byte() as char
            ));
        }
    })
}

impl Extension {
    /// `<length> <key>=<value>\n`, the length counting itself; values may hold any byte.
    fn read_pax(&mut self, mut records: &[u8]) -> Result<(), String> {
        while !records.is_empty() && records[0] != 0 {
            let bad = || "a PAX record is malformed".to_owned();
            let space = records.iter().position(|&b| b == b' ').ok_or_else(bad)?;
            let length: usize = parse(&records[..space]).ok_or_else(bad)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bad = || format!("PAX record {} is malformed", String::from_utf8_lossy(key));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(parse(value).ok_or_else(bad)?),
            b"uid" => self.uid = Some(parse(value).ok_or_else(bad)?),
            b"gid" => self.gid = Some(parse(value).ok_or_else(bad)?),
            b"mtime" => self.mtime = Some(parse_time(value).ok_or_else(bad)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err("sparse files of GNU tar are not supported".into());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.")
                    && !self.xattrs.iter().any(|(known, _)| known == name)
                {
                    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                    let text = value.trim_ascii_end();
                    let text = text
                        .strip_suffix(b"==")
                        .or(text.strip_suffix(b"="))
                        .unwrap_or(text);
                    self.xattrs
                        .push((name.to_vec(), engine.decode(text).map_err(|_| bad())?));
                }
            }
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5` is 12.5 seconds before 1970: -13 seconds and half a second.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(if negative && nanos > 0 {
        (seconds.checked_sub(1)?, 1_000_000_000 - nanos)
    } else {
        (seconds, nanos)
    })
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

fn read_block(reader: &mut impl Read, block: &mut [u8; 512]) -> io::Result<usize> {
    let mut at = 0;
    while at < block.len() {
        match reader.read(&mut block[at..]) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

/// Sum of the header's bytes with the checksum itself as spaces (POSIX ustar).
fn checksum(block: &[u8; 512]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the stream is cut off".to_owned(),
        _ => format!("the stream is broken: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_may_hold_newlines_and_must_be_well_formed() {
        let mut extension = Extension::default();
        extension
            .read_pax(b"26 SCHILY.xattr.user.a=1\n2\n11 path=a\nb\n")
            .unwrap_err();
        let mut extension = Extension::default();
        let record = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let length = (1..9999)
                .find(|n| n.to_string().len() + rest.len() == *n)
                .unwrap();
            format!("{length}{rest}")
        };
        let text = record("SCHILY.xattr.user.a", "1\n2") + &record("mtime", "-1.25");
        extension.read_pax(text.as_bytes()).unwrap();
        assert_eq!(extension.xattrs, [(b"user.a".to_vec(), b"1\n2".to_vec())]);
        assert_eq!(extension.mtime, Some((-2, 750_000_000)));
        for bad in ["99 path=x\n", "x path=a\n", "9 pathxx\n", "3\n"] {
            assert!(
                Extension::default().read_pax(bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
    }
}
