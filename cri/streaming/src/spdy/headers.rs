//! Header blocks: name/value pairs, deflated with one zlib stream per direction and connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// Longest inflated header block that is taken, in bytes. Kubernetes' streams carry under 200.
const LONGEST: usize = 16 << 10;

/// Names in lower case with their values, in the order of the wire. Values of one name are
/// separated by NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No header.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more header; the name is put in lower case, as SPDY wants.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// The first value of `name`, which is compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        found.1.split('\0').next()
    }

    fn encode(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    fn decode(block: &[u8]) -> Result<Self, &'static str> {
        let (count, mut rest) = take_length(block)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let (name, after) = take_text(rest)?;
            let (value, after) = take_text(after)?;
            if name.is_empty() {
                return Err("a header has no name");
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err("a header occurs twice");
            }
            pairs.push((name, value));
            rest = after;
        }
        if rest.is_empty() {
            Ok(Self(pairs))
        } else {
            Err("the header block is longer than its pairs")
        }
    }
}

const SHORT: &str = "the header block ends too early";

fn take_length(bytes: &[u8]) -> Result<(usize, &[u8]), &'static str> {
    let (length, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
    Ok((u32::from_be_bytes(*length) as usize, rest))
}

fn take_text(bytes: &[u8]) -> Result<(String, &[u8]), &'static str> {
    let (length, rest) = take_length(bytes)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
    let text = std::str::from_utf8(text).map_err(|_| "a header is not UTF-8")?;
    Ok((text.to_owned(), rest))
}

/// Deflates the header blocks of one direction of a connection.
pub struct Deflate(Compress);

impl Deflate {
    /// At the start of a connection.
    pub fn new() -> Self {
        let mut stream = Compress::new(Compression::best(), true);
        stream
            .set_dictionary(&dictionary())
            .expect("a fresh zlib stream takes a dictionary");
        Self(stream)
    }

    /// One block, which ends on a byte boundary (a sync flush).
    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.encode();
        let mut block = Vec::with_capacity(plain.len() + 128);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            self.0
                .compress_vec(&plain[done..], &mut block, FlushCompress::Sync)
                .expect("deflate with room for output does not fail");
            // A flush is complete when deflate leaves room in the output.
            if block.len() < block.capacity() {
                return block;
            }
            block.reserve(256);
        }
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Self::new()
    }
}

/// Inflates the header blocks of one direction of a connection.
pub struct Inflate {
    stream: Decompress,
    begun: bool,
}

impl Inflate {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self {
            stream: Decompress::new(true),
            begun: false,
        }
    }

    /// Inflates and takes apart one block. An error leaves the stream useless: the connection
    /// must be given up.
    pub fn block(&mut self, mut block: &[u8]) -> Result<Headers, &'static str> {
        let mut plain = Vec::with_capacity(1024);
        while !block.is_empty() {
            let before = self.stream.total_in();
            let length = plain.len();
            let step = self
                .stream
                .decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.stream.total_in() - before) as usize..];
            match step {
                Ok(Status::Ok | Status::BufError) if plain.len() == plain.capacity() => {
                    if plain.len() >= LONGEST {
                        return Err("the header block inflates to more than 16 KiB");
                    }
                    plain.reserve(plain.len());
                }
                Ok(Status::Ok) => {}
                Ok(Status::BufError)
                    if self.stream.total_in() == before && plain.len() == length =>
                {
                    return Err("the header block does not inflate");
                }
                Ok(Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err("the header stream ended"),
                Err(error) if error.needs_dictionary().is_some() && !self.begun => {
                    self.begun = true;
                    self.stream
                        .set_dictionary(&dictionary())
                        .map_err(|_| "the header block wants another dictionary")?;
                }
                Err(_) => return Err("the header block is not zlib"),
            }
        }
        Headers::decode(&plain)
    }
}

impl Default for Inflate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let start = Headers::new();
        pairs
            .iter()
            .fold(start, |all, (name, value)| all.with(name, value))
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
            let sent = headers(&[("streamType", kind), ("port", "80")]);
            let got = inflate.block(&deflate.block(&sent)).unwrap();
            assert_eq!(got, sent);
            assert_eq!(got.get("streamType"), Some(kind));
        }
    }

    #[test]
    fn an_empty_block_is_no_header() {
        let block = Deflate::new().block(&Headers::new());
        assert_eq!(Inflate::new().block(&block), Ok(Headers::new()));
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = headers(&[("a", &"x".repeat(10 << 20))]);
        let block = Deflate::new().block(&bomb);
        assert!(block.len() < 32 << 10);
        assert!(Inflate::new().block(&block).unwrap_err().contains("16 KiB"));
    }

    #[test]
    fn a_count_without_pairs_is_refused() {
        assert_eq!(Headers::decode(&[0xff; 4]), Err(SHORT));
        assert_eq!(
            Headers::decode(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            Err(SHORT)
        );
    }

    #[test]
    fn a_header_that_occurs_twice_is_refused() {
        let twice = headers(&[("port", "80"), ("port", "81")]);
        assert!(Headers::decode(&twice.encode()).is_err());
    }

    proptest! {
        #[test]
        fn every_block_survives(pairs in prop::collection::btree_map("[a-z]{1,9}", ".{0,40}", 0..9)) {
            let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
            let sent = Headers(pairs.into_iter().collect());
            for _ in 0..3 {
                prop_assert_eq!(&inflate.block(&deflate.block(&sent)).unwrap(), &sent);
            }
        }

        #[test]
        fn no_bytes_make_inflate_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Inflate::new().block(&bytes);
            let _ = Headers::decode(&bytes);
        }
    }
}
