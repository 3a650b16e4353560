//! A blob, put together from what was fetched and parts of blobs that the store keeps.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use hyper::body::Bytes;

use super::plan::Part;
use super::rebuild::broken;
use crate::Result;
use crate::error::FileContext;

const PIECE: u64 = 256 << 10;

/// Gives the blob in pieces. Nothing is verified: that is who takes the blob's to do.
pub(crate) struct Join<'a> {
    parts: VecDeque<Part>,
    pieces: &'a mut dyn Iterator<Item = Result<Bytes>>,
    /// Fetched, and of a later part.
    rest: Bytes,
    open: Option<(PathBuf, File)>,
}

impl<'a> Join<'a> {
    /// `pieces` are the plan's ranges, in order.
    pub fn new(parts: Vec<Part>, pieces: &'a mut dyn Iterator<Item = Result<Bytes>>) -> Self {
        Self {
            parts: parts.into(),
            pieces,
            rest: Bytes::new(),
            open: None,
        }
    }

    fn piece(&mut self) -> Result<Option<Bytes>> {
        match self.parts.pop_front() {
            None => Ok(None),
            Some(Part::Fetched(size)) => {
                if self.rest.is_empty() {
                    let next = self.pieces.next();
                    self.rest = next.ok_or_else(|| broken("a range ended early"))??;
                }
                let take = size.min(self.rest.len() as u64);
                if take < size {
                    self.parts.push_front(Part::Fetched(size - take));
                }
                // At most the length of what is there.
                Ok(Some(self.rest.split_to(take as usize)))
            }
            Some(Part::Copied { blob, from, size }) => {
                let take = size.min(PIECE);
                let bytes = self.read(&blob, from, take)?;
                if take < size {
                    let (from, size) = (from + take, size - take);
                    self.parts.push_front(Part::Copied { blob, from, size });
                }
                Ok(Some(bytes))
            }
            Some(_) => Err(broken("a part of an archive in a blob")),
        }
    }

    fn read(&mut self, blob: &PathBuf, from: u64, size: u64) -> Result<Bytes> {
        if self.open.as_ref().is_none_or(|(path, _)| path != blob) {
            self.open = Some((blob.clone(), File::open(blob).at("open", blob)?));
        }
        let (_, file) = self.open.as_ref().expect("it was opened just before");
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, from).at("read", blob)?;
        Ok(bytes.into())
    }
}

impl Iterator for Join<'_> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        self.piece().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order_whatever_the_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blob");
        std::fs::write(&blob, "..kept..").unwrap();
        let parts = vec![
            Part::Fetched(3),
            Part::Copied {
                blob: blob.clone(),
                from: 2,
                size: 4,
            },
            Part::Fetched(4),
        ];
        for size in [1, 2, 5, 7] {
            let mut pieces = b"newmore"
                .chunks(size)
                .map(|c| Ok(Bytes::copy_from_slice(c)));
            let joined: Result<Vec<Bytes>> = Join::new(parts.clone(), &mut pieces).collect();
            assert_eq!(joined.unwrap().concat(), b"newkeptmore");
        }
        let mut short = [Ok(Bytes::from_static(b"ne"))].into_iter();
        assert!(Join::new(parts, &mut short).any(|piece| piece.is_err()));
        let from = 6;
        let beyond = vec![Part::Copied {
            blob,
            from,
            size: 4,
        }];
        let mut none = std::iter::empty();
        assert!(Join::new(beyond, &mut none).any(|piece| piece.is_err()));
    }
}
