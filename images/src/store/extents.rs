//! Which files of the unpacked layers have which bytes: for partial pulls.
//!
//! A record beside a layer, written from the table of contents that it came with. It is a hint:
//! who takes bytes by it verifies them. So it is not synced, and one that is damaged is as good
//! as none.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Store;
use crate::chunked::{Found, Toc};
use crate::error::FileContext;
use crate::{Digest, Result, files};

/// `digest size offset start end path`; start and end are those of the blob, 0 where it has no part
/// that is this alone.
const FIRST_LINE: &str = "rrun extents 2";
const NAME: &str = "extents";
/// Extents below this size are cheaper to fetch.
const LEAST: u64 = 4 << 10;
/// Longest line that is read.
const LINE_LIMIT: u64 = 8 << 10;

impl Store {
    /// Notes what a layer holds.
    pub(crate) fn note_extents(&self, chain: &Digest, toc: &Toc) -> Result<()> {
        let path = self.layer_dir(chain).join(NAME);
        let mut text = format!("{FIRST_LINE}\n");
        for extent in toc.extents.iter().filter(|e| e.size >= LEAST) {
            let Some(digest) = &extent.digest else {
                continue;
            };
            let name = plain_path(&extent.path);
            if let Some(name) = name.filter(|name| !name.contains('\n')) {
                let blob = extent.blob.clone().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{} {} {} {} {} {name}",
                    digest.hex(),
                    extent.size,
                    extent.offset,
                    blob.start,
                    blob.end
                );
            }
        }
        files::write_atomic(&path, text.as_bytes())
    }

    /// Forgets what a layer is said to hold, after it was found not to.
    pub(crate) fn forget_extents(layer: &Path) -> Result<()> {
        files::remove_all(&layer.join(NAME))
    }

    /// The blob of a layer's directory, where it is kept.
    pub(crate) fn blob_of(&self, layer: &Path) -> Option<PathBuf> {
        let meta = Self::layer_meta_at(layer).ok()?;
        let kept = self.has_blob(&meta.digest, meta.compressed_size);
        kept.then(|| self.blob_path(&meta.digest))
    }

    /// Where the store has bytes of these digests and sizes. A kept blob is the better place.
    pub(crate) fn find_extents(&self, toc: &Toc) -> Result<HashMap<(Digest, u64), Found>> {
        let wanted = toc.extents.iter().filter(|e| e.size >= LEAST);
        let wanted: HashSet<(&str, u64)> = wanted
            .filter_map(|e| Some((e.digest.as_ref()?.hex(), e.size)))
            .collect();
        let mut found = HashMap::new();
        let dir = self.root.join("layers");
        let mut noted = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let layer = entry.at("list", &dir)?.path();
            if let Ok(file) = File::open(layer.join(NAME)) {
                noted.push((self.blob_of(&layer).is_none(), layer, file));
            }
        }
        noted.sort_by_key(|(no_blob, ..)| *no_blob);
        for (_, layer, file) in noted {
            search(file, &layer, &wanted, &mut found);
        }
        Ok(found)
    }
}

/// Reads until the end, or the first line that makes no sense.
fn search(
    file: impl std::io::Read,
    layer: &Path,
    wanted: &HashSet<(&str, u64)>,
    found: &mut HashMap<(Digest, u64), Found>,
) {
    use std::io::Read;
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    let mut first = true;
    loop {
        line.clear();
        match reader.by_ref().take(LINE_LIMIT).read_line(&mut line) {
            Ok(n) if n > 0 && line.ends_with('\n') => {}
            _ => return,
        }
        let text = line.trim_end_matches('\n');
        if std::mem::take(&mut first) {
            if text != FIRST_LINE {
                return;
            }
            continue;
        }
        let Some((digest, [size, offset, start, end], path)) = parse(text) else {
            return;
        };
        if wanted.contains(&(digest, size))
            && let Ok(digest) = Digest::from_hex(digest)
        {
            found.entry((digest, size)).or_insert_with(|| Found {
                layer: layer.to_owned(),
                file: PathBuf::from(path),
                offset,
                blob: start..end,
            });
        }
    }
}

fn parse(line: &str) -> Option<(&str, [u64; 4], &str)> {
    let mut words = line.splitn(6, ' ');
    let digest = words.next()?;
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    Some((digest, numbers, words.next()?))
}

/// A path of the archive as it is below the tree.
fn plain_path(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunked::Extent;

    fn extent(path: &str, size: u64) -> Extent {
        Extent {
            digest: Some(Digest::of(path.as_bytes())),
            path: path.to_owned(),
            offset: 7,
            size,
            blob: Some(3..9),
        }
    }

    #[test]
    fn noted_extents_are_found_and_damaged_notes_are_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let chain = Digest::of(b"chain");
        fs::create_dir(store.layer_dir(&chain)).unwrap();
        let names = ["./a b", "small", "new\nline", "../up"];
        let sizes = [LEAST, 1, LEAST, LEAST];
        let extents = names.iter().zip(sizes).map(|(n, s)| extent(n, s)).collect();
        let toc = Toc { extents, end: 0 };
        store.note_extents(&chain, &toc).unwrap();
        let found = store.find_extents(&toc).unwrap();
        assert_eq!(found.len(), 1);
        let only = &found[&(Digest::of(b"./a b"), LEAST)];
        assert_eq!((only.file.as_path(), only.offset), (Path::new("a b"), 7));
        assert_eq!(only.blob, 3..9);
        let path = store.layer_dir(&chain).join(NAME);
        for bad in [&b"rrun extents 1\n"[..], b"", b"rrun extents 2\nx\xff"] {
            fs::write(&path, bad).unwrap();
            assert!(store.find_extents(&toc).unwrap().is_empty());
        }
        Store::forget_extents(&store.layer_dir(&chain)).unwrap();
        assert!(!path.exists());
    }
}
