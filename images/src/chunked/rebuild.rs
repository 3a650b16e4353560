//! The unpacked archive of a layer, put together from what was fetched and what the store has.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use hyper::body::{Buf, Bytes};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::plan::{Found, Part};
use crate::error::FileContext;
use crate::manifest::Compression;
use crate::{Digest, Error, Hasher, Result};

const PIECE: usize = 256 << 10;

/// Gives the archive in pieces.
pub(crate) struct Rebuild<'a> {
    parts: VecDeque<Part>,
    fetched: Rc<RefCell<Fetched<'a>>>,
    current: Option<Current<'a>>,
}

enum Current<'a> {
    Fetched {
        reader: Box<dyn Read + 'a>,
        /// How far the ranges must have been read at its end.
        end: u64,
    },
    Local {
        file: File,
        found: Found,
        at: u64,
        left: u64,
        hasher: Box<Hasher>,
        digest: Digest,
    },
    Zeros(u64),
}

/// The fetched ranges as one stream.
struct Fetched<'a> {
    pieces: &'a mut dyn Iterator<Item = Result<Bytes>>,
    current: Bytes,
    read: u64,
    /// What ended the stream: the registry's own words, not those of a decoder that it broke.
    failed: Option<Error>,
}

impl<'a> Rebuild<'a> {
    /// `pieces` are the plan's ranges, in order.
    pub fn new(parts: Vec<Part>, pieces: &'a mut dyn Iterator<Item = Result<Bytes>>) -> Self {
        let fetched = Fetched {
            pieces,
            current: Bytes::new(),
            read: 0,
            failed: None,
        };
        Self {
            parts: parts.into(),
            fetched: Rc::new(RefCell::new(fetched)),
            current: None,
        }
    }

    fn start(&self, part: Part) -> Result<Current<'a>> {
        Ok(match part {
            Part::Copied { .. } => return Err(broken("a part of a blob in an archive")),
            Part::Zeros(size) => Current::Zeros(size),
            Part::Local {
                found,
                size,
                digest,
            } => Current::Local {
                file: open(&found)?,
                at: found.offset,
                found,
                left: size,
                hasher: Box::default(),
                digest,
            },
            Part::Fetched(size) => {
                let end = self.fetched.borrow().read + size;
                let mut reader = Limited {
                    fetched: Rc::clone(&self.fetched),
                    left: size,
                    start: Vec::new(),
                };
                let start = reader.peek().map_err(|error| self.broken(error))?;
                let reader: Box<dyn Read + 'a> = match Compression::sniff(&start) {
                    Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
                    Compression::Zstd => Box::new(
                        zstd::stream::read::Decoder::new(reader)
                            .map_err(|error| self.broken(error))?,
                    ),
                    Compression::None => {
                        return Err(broken("a range starts inside of a compressed part"));
                    }
                };
                Current::Fetched { reader, end }
            }
        })
    }

    fn broken(&self, error: io::Error) -> Error {
        let failed = self.fetched.borrow_mut().failed.take();
        failed.unwrap_or_else(|| broken(error))
    }

    /// The next bytes of the current part, empty at its end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let n = match self.current.as_mut() {
            None => return Ok(0),
            Some(Current::Fetched { reader, end }) => {
                let end = *end;
                let n = reader.read(buffer);
                let n = n.map_err(|error| self.broken(error))?;
                if n == 0 && self.fetched.borrow().read != end {
                    return Err(broken("a range was not used up"));
                }
                n
            }
            Some(Current::Zeros(left)) => {
                let n = buffer
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                buffer[..n].fill(0);
                *left -= n as u64;
                n
            }
            Some(local @ Current::Local { .. }) => local.read_local(buffer)?,
        };
        Ok(n)
    }

    fn piece(&mut self) -> Result<Option<Bytes>> {
        let mut buffer = vec![0; PIECE];
        let mut filled = 0;
        while filled < buffer.len() {
            let n = self.read(&mut buffer[filled..])?;
            filled += n;
            if n == 0 {
                let Some(part) = self.parts.pop_front() else {
                    self.current = None;
                    break;
                };
                self.current = Some(self.start(part)?);
            }
        }
        buffer.truncate(filled);
        Ok((filled > 0).then(|| Bytes::from(buffer)))
    }
}

impl Current<'_> {
    fn read_local(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Self::Local {
            file,
            found,
            at,
            left,
            hasher,
            digest,
        } = self
        else {
            return Ok(0);
        };
        if *left == 0 {
            let (got, _) = std::mem::take(hasher.as_mut()).finish();
            return if got == *digest {
                Ok(0)
            } else {
                Err(Error::DigestMismatch {
                    what: format!("{} of a layer of the store", found.file.display()),
                    expected: digest.clone(),
                    got,
                })
            };
        }
        let n = buffer
            .len()
            .min(usize::try_from(*left).unwrap_or(usize::MAX));
        let n = file
            .read_at(&mut buffer[..n], *at)
            .at("read", &found.file)?;
        if n == 0 {
            let what = found.file.display().to_string();
            return Err(Error::document(what, "it is shorter than it was"));
        }
        hasher.update(&buffer[..n]);
        *at += n as u64;
        *left -= n as u64;
        Ok(n)
    }
}

impl Iterator for Rebuild<'_> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        self.piece().transpose()
    }
}

/// A regular file of a layer; no link leads out of it, or to another file.
fn open(found: &Found) -> Result<File> {
    let tree = crate::Store::tree_at(&found.layer)?;
    let root = File::open(&*tree).at("open", &tree)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = openat2(&root, &found.file, flags, Mode::empty(), within);
    let file = file.at("open", &found.file)?;
    let stat = fstat(&file).at("stat", &found.file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let what = found.file.display().to_string();
        return Err(Error::document(what, "it is no regular file"));
    }
    Ok(file.into())
}

pub(super) fn broken(why: impl ToString) -> Error {
    Error::document("the layer's parts", why)
}

/// One range of the fetched stream.
struct Limited<'a> {
    fetched: Rc<RefCell<Fetched<'a>>>,
    left: u64,
    /// What was looked at.
    start: Vec<u8>,
}

impl Limited<'_> {
    fn peek(&mut self) -> io::Result<Vec<u8>> {
        let mut start = vec![0; 4];
        let mut filled = 0;
        while filled < start.len() {
            match self.read(&mut start[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        start.truncate(filled);
        self.start.clone_from(&start);
        Ok(start)
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.start.is_empty() {
            let n = self.start.as_slice().read(buffer)?;
            self.start.drain(..n);
            return Ok(n);
        }
        let limit = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if limit == 0 {
            return Ok(0);
        }
        let mut fetched = self.fetched.borrow_mut();
        let available = fetched.fill_buf()?;
        let n = available.len().min(limit);
        buffer[..n].copy_from_slice(&available[..n]);
        fetched.consume(n);
        self.left -= n as u64;
        Ok(n)
    }
}

impl Read for Fetched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Fetched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    let text = error.to_string();
                    self.failed = Some(error);
                    return Err(io::Error::other(text));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
        self.read += amount as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(parts: Vec<Part>, pieces: Vec<Result<Bytes>>) -> Result<Vec<u8>> {
        let mut pieces = pieces.into_iter();
        let rebuilt: Result<Vec<Bytes>> = Rebuild::new(parts, &mut pieces).collect();
        Ok(rebuilt?.concat())
    }

    #[test]
    fn parts_come_together_whatever_the_pieces() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("fs")).unwrap();
        std::fs::write(dir.path().join("fs/f"), "..local..").unwrap();
        let local = |digest: &[u8]| Part::Local {
            found: Found {
                layer: dir.path().to_owned(),
                file: "f".into(),
                offset: 2,
                blob: 0..0,
            },
            size: 5,
            digest: Digest::of(digest),
        };
        let (one, two) = (
            [gzip(b"one"), gzip(b"more")].concat(),
            zstd::encode_all(&b"two"[..], 1),
        );
        let two = two.unwrap();
        let stream = [one.clone(), two.clone()].concat();
        let parts = vec![
            Part::Fetched(one.len() as u64),
            local(b"local"),
            Part::Zeros(2),
            Part::Fetched(two.len() as u64),
        ];
        for size in [1, 7, 1000] {
            let pieces = stream.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c)));
            let got = all(parts.clone(), pieces.collect()).unwrap();
            assert_eq!(got, b"onemorelocal\0\0two");
        }
        let lie = all(vec![local(b"other")], Vec::new()).unwrap_err();
        assert!(matches!(lie, Error::DigestMismatch { .. }), "{lie}");
        let short = all(parts, vec![Ok(Bytes::copy_from_slice(&stream[..5]))]);
        assert!(short.is_err());
        // The rest of a range may not be left over.
        let rest = [&two[..], b"rest"].concat();
        let left = all(
            vec![Part::Fetched(rest.len() as u64)],
            vec![Ok(rest.into())],
        );
        assert!(left.is_err());
    }
}
