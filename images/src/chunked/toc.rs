//! Tables of contents: which part of a blob is which part of which file.

use std::io::{self, Read};
use std::ops::Range;

use serde::Deserialize;

use crate::{Digest, Hasher};

/// Unpacked bytes of a table.
const UNPACKED_LIMIT: u64 = 150 << 20;
const ENTRY_LIMIT: usize = 4_000_000;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Of the unpacked bytes; `None` for zeros.
    pub digest: Option<Digest>,
    /// Path in the layer as the table has it.
    pub path: String,
    /// Where in the file.
    pub offset: u64,
    /// Unpacked bytes.
    pub size: u64,
    /// The bytes of the blob that hold this and nothing else; `None` where they hold headers of
    /// the archive too.
    pub blob: Option<Range<u64>>,
}

/// A table of contents, reduced to what a partial pull needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Toc {
    /// In no order.
    pub extents: Vec<Extent>,
    /// Where the compressed archive ends: behind it are tables only.
    pub end: u64,
}

#[derive(Deserialize)]
struct Table {
    version: u32,
    entries: Vec<Entry>,
}

/// Sizes and offsets are signed in the formats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Entry {
    r#type: String,
    name: String,
    size: u64,
    digest: String,
    offset: u64,
    end_offset: u64,
    chunk_size: u64,
    chunk_offset: u64,
    chunk_digest: String,
    chunk_type: String,
    inner_offset: u64,
}

pub(super) fn of_zstd(compressed: &[u8], end: u64) -> Result<Toc, String> {
    let decoder = zstd::stream::read::Decoder::with_buffer(compressed);
    of_json(decoder.map_err(text)?, end)
}

/// A gzip member with an archive of one file.
pub(super) fn of_stargz(
    compressed: &[u8],
    digest: &Digest,
    table: u64,
    size: u64,
) -> Result<Toc, String> {
    let inflated = flate2::bufread::GzDecoder::new(compressed).take(UNPACKED_LIMIT);
    let mut archive = tar::Archive::new(inflated);
    let mut entries = archive.entries().map_err(text)?;
    let file = entries.next().ok_or("no file in its archive")?;
    let mut hashed = Hashed {
        reader: file.map_err(text)?,
        hasher: Hasher::default(),
    };
    let mut toc = of_json(&mut hashed, table)?;
    io::copy(&mut hashed, &mut io::sink()).map_err(text)?;
    let got = hashed.hasher.finish().0;
    if got != *digest {
        return Err(format!("expected digest {digest}, got {got}"));
    }
    // The table is a file of the archive, and is fetched with the rest.
    toc.end = size;
    Ok(toc)
}

/// Reads the JSON text. No extent ends beyond `end`.
pub(super) fn of_json(reader: impl Read, end: u64) -> Result<Toc, String> {
    let reader = io::BufReader::with_capacity(64 << 10, reader.take(UNPACKED_LIMIT));
    let table: Table = serde_json::from_reader(reader).map_err(text)?;
    if table.version != 1 {
        return Err(format!("version {}, wanted 1", table.version));
    }
    if table.entries.len() > ENTRY_LIMIT {
        return Err(format!("more than {ENTRY_LIMIT} entries"));
    }
    let mut extents = Vec::new();
    let mut entries = table.entries.into_iter().peekable();
    while let Some(first) = entries.next() {
        if first.r#type != "reg" || first.size == 0 {
            continue;
        }
        let mut chunks = vec![first];
        while let Some(chunk) = entries.next_if(|e| e.r#type == "chunk") {
            chunks.push(chunk);
        }
        file(&chunks, end, &mut extents)?;
    }
    Ok(Toc { extents, end })
}

/// The extents of one file, whose entries follow each other.
fn file(chunks: &[Entry], end: u64, extents: &mut Vec<Extent>) -> Result<(), String> {
    let first = &chunks[0];
    let bad = |why: &str| format!("entry {:?}: {why}", first.name);
    for (i, chunk) in chunks.iter().enumerate() {
        let next = chunks.get(i + 1);
        let from = chunk.chunk_offset;
        let to = next.map_or(first.size, |next| next.chunk_offset);
        if to <= from || to > first.size {
            return Err(bad("its chunks are out of order"));
        }
        let digest = if chunks.len() == 1 && !first.digest.is_empty() {
            &first.digest
        } else {
            &chunk.chunk_digest
        };
        let zeros = chunk.chunk_type == "zeros";
        let digest = match digest.parse() {
            _ if zeros => None,
            Ok(digest) => Some(digest),
            Err(_) => return Err(bad("a digest is malformed")),
        };
        // eStargz tells no end: the next chunk's start is one, but behind the last there are
        // headers. Chunks that share a member (innerOffset) cannot be left out alone.
        let behind = match next {
            Some(next) if next.inner_offset == 0 => next.offset,
            Some(_) => 0,
            None => first.end_offset,
        };
        let alone = chunk.inner_offset == 0 && chunk.offset > 0 && behind > chunk.offset;
        if alone && behind > end {
            return Err(bad("it lies beyond the archive"));
        }
        extents.push(Extent {
            digest,
            path: first.name.clone(),
            offset: from,
            size: to - from,
            blob: alone.then_some(chunk.offset..behind),
        });
    }
    Ok(())
}

struct Hashed<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &str) -> Result<Toc, String> {
        let text = format!(r#"{{"version":1,"entries":[{entries}]}}"#);
        of_json(text.as_bytes(), 1000)
    }

    #[test]
    fn extents_have_their_place_in_file_and_blob() {
        let digest = Digest::of(b"x");
        let toc = parse(&format!(
            r#"{{"type":"dir","name":"d/"}},
            {{"type":"reg","name":"a","size":9,"digest":"{digest}","offset":10,"endOffset":20}},
            {{"type":"reg","name":"b","size":30,"digest":"{digest}","offset":30,"endOffset":90,
              "chunkSize":10,"chunkDigest":"{digest}"}},
            {{"type":"chunk","name":"b","chunkOffset":10,"offset":50,"chunkType":"zeros"}},
            {{"type":"chunk","name":"b","chunkOffset":20,"offset":60,"chunkDigest":"{digest}"}},
            {{"type":"reg","name":"empty"}}"#
        ))
        .unwrap();
        let of: Vec<_> = toc
            .extents
            .iter()
            .map(|e| (e.path.as_str(), e.offset, e.size, e.blob.clone()))
            .collect();
        assert_eq!(
            of,
            [
                ("a", 0, 9, Some(10..20)),
                ("b", 0, 10, Some(30..50)),
                ("b", 10, 10, Some(50..60)),
                ("b", 20, 10, Some(60..90)),
            ]
        );
        assert!(toc.extents[2].digest.is_none());
    }

    #[test]
    fn the_last_chunk_of_estargz_holds_headers_too() {
        let digest = Digest::of(b"x");
        let toc = parse(&format!(
            r#"{{"type":"reg","name":"a","size":9,"digest":"{digest}","offset":10,"chunkSize":5,
              "chunkDigest":"{digest}"}},
            {{"type":"chunk","name":"a","chunkOffset":5,"offset":20,"chunkDigest":"{digest}"}}"#
        ))
        .unwrap();
        assert_eq!(toc.extents[0].blob, Some(10..20));
        assert_eq!(toc.extents[1].blob, None);
    }

    #[test]
    fn tables_that_lie_are_refused() {
        let digest = Digest::of(b"x");
        for bad in [
            format!(
                r#"{{"type":"reg","name":"a","size":9,"digest":"{digest}","offset":10,"endOffset":1001}}"#
            ),
            r#"{"type":"reg","name":"a","size":9,"digest":"md5:1","offset":10,"endOffset":20}"#
                .into(),
            format!(
                r#"{{"type":"reg","name":"a","size":9,"chunkDigest":"{digest}"}},
                {{"type":"chunk","name":"a","chunkOffset":9,"chunkDigest":"{digest}"}}"#
            ),
            r#"{"type":"reg","name":"a","size":-1}"#.into(),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
        assert!(of_json(&br#"{"version":2,"entries":[]}"#[..], 1).is_err());
        assert!(of_json(&b"["[..], 1).is_err());
    }
}
