//! What of a layer is fetched, and what is taken from layers of the store.

use std::ops::Range;
use std::path::PathBuf;

use super::toc::{Extent, Toc};
use crate::Digest;

/// Bytes of the blob that are worth a request of their own.
const WORTH: u64 = 32 << 10;
/// Requests of one layer; with more, only longer parts are left out.
const REQUESTS: usize = 1000;

/// Where the store has the bytes of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The layer's directory in the store.
    pub layer: PathBuf,
    /// Path below its tree.
    pub file: PathBuf,
    pub offset: u64,
    /// Of the layer's blob, the part that holds this and nothing else; empty where there is none.
    pub blob: Range<u64>,
}

/// A part of the unpacked archive, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What the next `0` bytes of the fetched ranges unpack to.
    Fetched(u64),
    /// Bytes of a file of the store, to be verified.
    Local {
        found: Found,
        size: u64,
        digest: Digest,
    },
    Zeros(u64),
    /// Bytes of a blob of the store, as they are there: for a blob that is to be kept.
    Copied {
        blob: PathBuf,
        from: u64,
        size: u64,
    },
}

/// A partial pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub parts: Vec<Part>,
    /// Ranges of the blob to fetch, in order.
    pub ranges: Vec<Range<u64>>,
    /// Bytes of the blob that are not fetched.
    pub skipped: u64,
}

/// Leaves out what `find` gives, where that is worth a request.
pub(crate) fn plan(toc: &Toc, find: impl Fn(&Extent) -> Option<Found>) -> Plan {
    let local = |extent: &Extent| {
        let part = match &extent.digest {
            None => Part::Zeros(extent.size),
            Some(digest) => Part::Local {
                found: find(extent)?,
                size: extent.size,
                digest: digest.clone(),
            },
        };
        Some((extent.blob.clone()?, part))
    };
    assemble(toc.extents.iter().filter_map(local).collect(), toc.end)
}

/// The same for a blob that is to be kept, tables of contents included: `find` gives a blob of the
/// store and where in it the same bytes were compressed to as many.
pub(crate) fn plan_blob(
    toc: &Toc,
    size: u64,
    find: impl Fn(&Extent) -> Option<(PathBuf, u64)>,
) -> Plan {
    let copied = |extent: &Extent| {
        let range = extent.blob.clone()?;
        let (blob, from) = find(extent)?;
        let size = range.end - range.start;
        Some((range, Part::Copied { blob, from, size }))
    };
    assemble(toc.extents.iter().filter_map(copied).collect(), size)
}

/// Fetches what lies between what is known.
fn assemble(mut known: Vec<(Range<u64>, Part)>, end: u64) -> Plan {
    known.sort_by_key(|(range, _)| (range.start, range.end));
    let mut runs: Vec<(Range<u64>, Vec<Part>)> = Vec::new();
    for (range, part) in known {
        match runs.last_mut() {
            // Tables may lie: what overlaps is fetched.
            Some((run, _)) if range.start < run.end => {}
            Some((run, parts)) if range.start == run.end => {
                run.end = range.end;
                parts.push(part);
            }
            _ => runs.push((range, vec![part])),
        }
    }
    let mut worth = WORTH;
    let length = |run: &(Range<u64>, Vec<Part>)| run.0.end - run.0.start;
    runs.retain(|run| length(run) >= worth);
    while runs.len() > REQUESTS {
        worth *= 2;
        runs.retain(|run| length(run) >= worth);
    }
    let mut plan = Plan::default();
    let mut at = 0;
    for (run, parts) in runs {
        plan.fetch(at..run.start);
        plan.parts.extend(parts);
        plan.skipped += run.end - run.start;
        at = run.end;
    }
    plan.fetch(at..end);
    plan
}

impl Plan {
    fn fetch(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.parts.push(Part::Fetched(range.end - range.start));
            self.ranges.push(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(path: &str, size: u64, blob: Range<u64>) -> Extent {
        Extent {
            digest: Some(Digest::of(path.as_bytes())),
            path: path.to_owned(),
            offset: 0,
            size,
            blob: Some(blob),
        }
    }

    fn found(extent: &Extent) -> Found {
        Found {
            layer: "l".into(),
            file: (&extent.path).into(),
            offset: extent.offset,
            blob: 0..0,
        }
    }

    #[test]
    fn runs_that_are_worth_it_are_left_out() {
        let k = 1 << 10;
        let toc = Toc {
            extents: vec![
                extent("b", 7, 130 * k..150 * k),
                extent("a", 5, 100 * k..130 * k),
                extent("small", 3, 200 * k..201 * k),
                extent("gone", 9, 300 * k..400 * k),
            ],
            end: 500 * k,
        };
        let plan = plan(&toc, |e| (e.path != "gone").then(|| found(e)));
        assert_eq!(plan.ranges, [0..100 * k, 150 * k..500 * k]);
        assert_eq!(plan.skipped, 50 * k);
        let sizes: Vec<u64> = plan
            .parts
            .iter()
            .map(|part| match part {
                Part::Fetched(n) | Part::Zeros(n) => *n,
                Part::Local { size, .. } | Part::Copied { size, .. } => *size,
            })
            .collect();
        assert_eq!(sizes, [100 * k, 5, 7, 350 * k]);
    }

    #[test]
    fn parts_that_overlap_are_fetched() {
        let toc = Toc {
            extents: vec![extent("a", 5, 0..100_000), extent("b", 5, 50_000..150_000)],
            end: 200_000,
        };
        let plan = plan(&toc, |e| Some(found(e)));
        assert_eq!(plan.ranges, vec![100_000..200_000]);
    }

    #[test]
    fn requests_are_bounded() {
        let step = 100_000;
        let extents = (0..5000)
            .map(|i| extent("a", 5, i * step..i * step + 40_000 + i * 10))
            .collect();
        let toc = Toc {
            extents,
            end: 5000 * step,
        };
        let plan = plan(&toc, |e| Some(found(e)));
        assert!(plan.ranges.len() <= REQUESTS + 1, "{}", plan.ranges.len());
        let fetched: u64 = plan.ranges.iter().map(|r| r.end - r.start).sum();
        assert_eq!(fetched + plan.skipped, toc.end);
    }
}
