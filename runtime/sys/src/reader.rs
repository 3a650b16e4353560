//! Many small files, read one after the other with two system calls each: one buffer for
//! all, and descriptors that are closed together.

use crate::fd::{Used, read};
use crate::{Result, path};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Where reading starts; it grows to the longest file.
const STEP: usize = 16 * 1024;

/// Reads small files of procfs, cgroupfs and others.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    used: Used,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            buffer: vec![0; STEP],
            used: Used::default(),
        }
    }
}

impl Reader {
    /// The whole of file `name` below `dir` (which an absolute name does without). What is
    /// well below a page comes in one read(2), as by [`crate::fd::read_small`].
    pub fn read(&mut self, dir: BorrowedFd<'_>, name: &Path) -> Result<&[u8]> {
        let file = path::open_at(dir, name, libc::O_RDONLY)?;
        let whole = self.fill(file.as_fd());
        self.used.put(file);
        Ok(&self.buffer[..whole?])
    }

    fn fill(&mut self, file: BorrowedFd<'_>) -> Result<usize> {
        let mut length = 0;
        loop {
            let read = read(file, &mut self.buffer[length..])?;
            length += read;
            if read == 0 || read < crate::fd::WHOLE {
                return Ok(length);
            }
            if self.buffer.len() - length < STEP / 2 {
                self.buffer.resize(self.buffer.len() + STEP, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_come_whole_one_after_the_other() {
        let dir = std::env::temp_dir().join(format!("rrun-reader-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut reader = Reader::default();
        for length in [0, 1, 2047, 2048, 4096, STEP, 5 * STEP + 1, 3] {
            let text = vec![b'x'; length];
            std::fs::write(dir.join("file"), &text).unwrap();
            let open = path::open(&dir, path::O_DIRECTORY).unwrap();
            assert_eq!(reader.read(open.as_fd(), Path::new("file")).unwrap(), text);
        }
        assert!(reader.read(path::cwd(), &dir.join("none")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
