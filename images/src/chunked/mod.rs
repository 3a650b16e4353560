//! Layers that say where each of their files lies (zstd:chunked, eStargz), and the partial pull
//! that they make possible.
//!
//! ```text
//! table of contents ─▶ plan: ranges to fetch, pieces that layers of the store have
//!                        └─▶ rebuild: the layer's archive, byte for byte ─▶ the pipeline
//! ```
//!
//! What is rebuilt is the unpacked archive as the whole blob would have given it: headers and
//! padding lie between the files and are fetched. So its diffID is verified like any other
//! layer's, and neither the table of contents nor the store's index of pieces has to be trusted:
//! where one of them is wrong, the layer is fetched whole.
//!
//! A blob that is to be kept cannot be made from unpacked files: another compressor gives other
//! bytes. It is put together from parts of kept blobs ([`Join`]), where the same tool compressed the
//! same file, and its digest tells whether that was so.

mod join;
mod plan;
mod rebuild;
mod toc;

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::body::Bytes;

pub(crate) use join::Join;
pub(crate) use plan::{Found, Plan, plan, plan_blob};
pub(crate) use rebuild::Rebuild;
pub(crate) use toc::{Extent, Toc};

use crate::registry::{BlobStream, Remote};
use crate::{Digest, Error, Layer, Result};

/// What annotations of zstd:chunked start with; the second is that of tools before 2023.
const PREFIXES: [&str; 2] = [
    "io.github.containers.zstd-chunked.",
    "io.containers.zstd-chunked.",
];
/// Position of the table of contents: `offset:length:unpacked length:1`.
const POSITION: &str = "manifest-position";
/// Digest of those compressed bytes.
const CHECKSUM: &str = "manifest-checksum";
/// Digest of the unpacked table of contents of eStargz.
const STARGZ: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The end of an eStargz blob: an empty gzip member that tells where the table begins.
const FOOTER: u64 = 51;
/// Header of a skippable frame of zstd.
const FRAME_HEADER: u64 = 8;
/// Compressed bytes of a table of contents.
const TABLE_LIMIT: u64 = 32 << 20;

/// Where a layer's table of contents is, by the manifest's annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// zstd:chunked: a skippable frame.
    Zstd {
        offset: u64,
        length: u64,
        digest: Digest,
    },
    /// eStargz: the footer tells the offset.
    Stargz { digest: Digest },
}

impl Place {
    /// `None` for a layer without a table of contents, or with annotations that make no sense.
    pub fn of(notes: &BTreeMap<String, String>, size: u64) -> Option<Self> {
        let note = |name: &str| {
            PREFIXES
                .iter()
                .find_map(|prefix| notes.get(&format!("{prefix}{name}")))
        };
        if let (Some(position), Some(digest)) = (note(POSITION), note(CHECKSUM)) {
            let numbers: Vec<u64> = position
                .split(':')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let [offset, length, _, 1] = numbers[..] else {
                return None;
            };
            let fits = offset >= FRAME_HEADER
                && length <= TABLE_LIMIT
                && offset.checked_add(length)? <= size;
            let digest = digest.parse().ok()?;
            return fits.then_some(Self::Zstd {
                offset,
                length,
                digest,
            });
        }
        let digest = notes.get(STARGZ)?.parse().ok()?;
        (size > FOOTER).then_some(Self::Stargz { digest })
    }

    /// Fetches and verifies the table of contents.
    pub async fn read(&self, remote: &Arc<Remote>, layer: &Layer) -> Result<Toc> {
        let size = layer.compressed_size;
        let bad = |why: String| {
            let what = format!("table of contents of layer {}", layer.digest);
            Error::document(what, why)
        };
        let part = |from, to| range(remote, layer, from, to);
        match self {
            Self::Zstd {
                offset,
                length,
                digest,
            } => {
                let bytes = part(*offset, offset + length).await?;
                let got = Digest::of(&bytes);
                if got != *digest {
                    return Err(bad(format!("expected digest {digest}, got {got}")));
                }
                toc::of_zstd(&bytes, offset - FRAME_HEADER).map_err(bad)
            }
            Self::Stargz { digest } => {
                let footer = part(size - FOOTER, size).await?;
                let offset = stargz_offset(&footer).filter(|&offset| offset < size - FOOTER);
                let offset = offset.ok_or_else(|| bad("the footer is not eStargz'".to_owned()))?;
                if size - FOOTER - offset > TABLE_LIMIT {
                    return Err(bad(format!("longer than {TABLE_LIMIT} bytes")));
                }
                let bytes = part(offset, size - FOOTER).await?;
                toc::of_stargz(&bytes, digest, offset, size).map_err(bad)
            }
        }
    }
}

/// Bytes `from..to` of a blob. Nothing of it is verified.
async fn range(remote: &Arc<Remote>, layer: &Layer, from: u64, to: u64) -> Result<Bytes> {
    let (digest, size) = (layer.digest.clone(), layer.compressed_size);
    let mut stream = BlobStream::new(Arc::clone(remote), digest, size, from).up_to(to);
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// `<16 hexadecimal digits>STARGZ` in the extra field (subfield `SG`) of an empty gzip member.
fn stargz_offset(footer: &[u8]) -> Option<u64> {
    let field = footer.get(12..38)?;
    let text = field.strip_prefix(b"SG\x16\x00")?.strip_suffix(b"STARGZ")?;
    let text = std::str::from_utf8(text).ok()?;
    u64::from_str_radix(text, 16).ok()
}

/// For the fuzz targets: a table of contents, and the plan for it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn parse_table(data: &[u8]) {
    let Ok(toc) = toc::of_json(data, 1 << 20) else {
        return;
    };
    let all = |extent: &Extent| {
        extent.digest.as_ref().map(|_| Found {
            file: std::path::PathBuf::from("f"),
            layer: std::path::PathBuf::from("l"),
            offset: 0,
            blob: 0..0,
        })
    };
    let plan = plan(&toc, all);
    // Every byte is fetched or skipped, in order, once.
    let mut at = 0;
    for range in &plan.ranges {
        assert!(range.start >= at && range.end > range.start);
        at = range.end;
    }
    assert!(at <= toc.end);
    let fetched: u64 = plan.ranges.iter().map(|r| r.end - r.start).sum();
    assert_eq!(fetched + plan.skipped, toc.end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn annotations_beyond_the_blob_are_no_place() {
        let digest = Digest::of(b"");
        let with = |prefix: &str, position: &str| {
            let (at, of) = (format!("{prefix}{POSITION}"), format!("{prefix}{CHECKSUM}"));
            let notes = notes(&[(&at, position), (&of, digest.as_str())]);
            Place::of(&notes, 1000)
        };
        let of = |position: &str| with(PREFIXES[0], position);
        assert!(of("100:50:500:1").is_some());
        assert_eq!(with(PREFIXES[1], "100:50:500:1"), of("100:50:500:1"));
        for bad in [
            "",
            "1",
            "100:50:500:2",
            "100:901:1:1",
            "1:5:5:1",
            "-1:5:5:1",
            "18446744073709551615:5:5:1",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(Place::of(&notes(&[(STARGZ, "sha256:x")]), 1000), None);
        assert_eq!(Place::of(&notes(&[(STARGZ, digest.as_str())]), 51), None);
    }

    /// Every byte of the blob is fetched or skipped once, whatever the table says.
    #[test]
    fn mutated_tables_make_sound_plans_or_none() {
        let digest = Digest::of(b"x");
        let table = format!(
            r#"{{"version":1,"entries":[{{"type":"reg","name":"a","size":9,"digest":"{digest}",
            "offset":10,"endOffset":99999}},{{"type":"reg","name":"b","size":30,
            "offset":99999,"endOffset":300000,"chunkDigest":"{digest}"}},{{"type":"chunk",
            "name":"b","chunkOffset":10,"offset":200000,"chunkType":"zeros"}}]}}"#
        );
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let mut bytes = table.clone().into_bytes();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = b"0123456789:,\"x"[random(14)];
            }
            parse_table(&bytes);
        }
    }

    #[test]
    fn an_estargz_footer_tells_the_offset() {
        let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
        footer.extend_from_slice(b"00000000000001ffSTARGZ\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
        assert_eq!(footer.len() as u64, FOOTER);
        assert_eq!(stargz_offset(&footer), Some(511));
        footer[12] = b'X';
        assert_eq!(stargz_offset(&footer), None);
        assert_eq!(stargz_offset(&[]), None);
    }
}
