//! The Kubernetes log format: `<RFC3339Nano> <stdout|stderr> <P|F> <line>\n`, lines split at
//! 16 KiB, all but the last part of a line marked P. Output that ends without a newline is marked P
//! as well, as containerd does: whoever reads the log then gets the very bytes.
//!
//! Writing goes to a regular file and so never waits for a reader. A disk that is full loses lines
//! rather than stop the container; what is lost is counted and said in the log when it can be.

use crate::uri::LogTarget;
use rrun_task_api::time::{now_nanos, rfc3339};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes of a line before it is split.
pub const MAX_LINE: usize = 16 * 1024;

/// One of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns bytes into lines of the format, without IO.
#[derive(Debug, Default)]
pub struct Lines {
    partial: [Vec<u8>; 2],
}

impl Lines {
    /// Calls `emit(stream, "P" or "F", line without newline)` for each line or part that is whole.
    fn push(&mut self, stream: Stream, data: &[u8], emit: &mut dyn FnMut(&str, &[u8])) {
        let partial = &mut self.partial[stream as usize];
        let mut rest = data;
        while !rest.is_empty() {
            let room = MAX_LINE - partial.len();
            let newline = rest.iter().take(room + 1).position(|b| *b == b'\n');
            let (take, tag) = match newline {
                Some(at) => (at, "F"),
                None if rest.len() > room => (room, "P"),
                None => {
                    partial.extend_from_slice(rest);
                    return;
                }
            };
            if partial.is_empty() {
                emit(tag, &rest[..take]);
            } else {
                partial.extend_from_slice(&rest[..take]);
                emit(tag, partial);
                *partial = Vec::new();
            }
            rest = &rest[take + usize::from(newline.is_some())..];
        }
    }

    /// Emits what has no newline yet: the stream has ended.
    fn end(&mut self, stream: Stream, emit: &mut dyn FnMut(&str, &[u8])) {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        if !partial.is_empty() {
            emit("P", &partial);
        }
    }
}

/// A token bucket of bytes.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    burst: u64,
    tokens: u64,
    filled_at: u64,
}

impl Bucket {
    fn new(rate: u64, burst: u64, now: u64) -> Self {
        Self {
            rate,
            burst,
            tokens: burst,
            filled_at: now,
        }
    }

    /// Whether `bytes` may pass at `now` (nanoseconds).
    fn take(&mut self, bytes: u64, now: u64) -> bool {
        if self.rate == 0 {
            return true;
        }
        let elapsed = now.saturating_sub(self.filled_at);
        let earned = u128::from(elapsed) * u128::from(self.rate) / 1_000_000_000;
        if earned > 0 {
            let tokens = u128::from(self.tokens) + earned;
            self.tokens = u64::try_from(tokens).unwrap_or(u64::MAX).min(self.burst);
            self.filled_at = now;
        }
        // A line longer than the bucket passes when the bucket is full, or it never would.
        let needed = bytes.min(self.burst);
        let passes = self.tokens >= needed;
        if passes {
            self.tokens -= needed;
        }
        passes
    }
}

/// A container's log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    lines: Lines,
    bucket: Bucket,
    dropped: u64,
    unsaid: u64,
}

impl Log {
    /// Opens the file, made where it is not there.
    pub fn open(target: &LogTarget) -> io::Result<Self> {
        let bucket = Bucket::new(target.rate, target.burst, now_nanos());
        let (path, file) = (target.path.clone(), open(&target.path)?);
        Ok(Self {
            path,
            file,
            lines: Lines::default(),
            bucket,
            dropped: 0,
            unsaid: 0,
        })
    }

    /// Opens the file again, at its own path or at a new one. On failure the old one stays.
    pub fn reopen(&mut self, path: Option<&Path>) -> io::Result<()> {
        let path = path.unwrap_or(&self.path).to_owned();
        self.file = open(&path)?;
        self.path = path;
        Ok(())
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes lost so far, to the rate limit or to a full disk.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes output of the container.
    pub fn write(&mut self, stream: Stream, data: &[u8]) {
        self.format(stream, |lines, emit| lines.push(stream, data, emit));
    }

    /// The stream has ended; a last line without newline is written too.
    pub fn end(&mut self, stream: Stream) {
        self.format(stream, |lines, emit| lines.end(stream, emit));
    }

    fn format(
        &mut self,
        stream: Stream,
        feed: impl FnOnce(&mut Lines, &mut dyn FnMut(&str, &[u8])),
    ) {
        let now = now_nanos();
        let stamp = rfc3339(now);
        let mut out = Vec::new();
        let Self {
            lines,
            bucket,
            unsaid,
            dropped,
            ..
        } = self;
        feed(lines, &mut |tag, line| {
            if !bucket.take(line.len() as u64 + 1, now) {
                *unsaid += line.len() as u64 + 1;
                *dropped += line.len() as u64 + 1;
                return;
            }
            let missing = std::mem::take(unsaid);
            if missing > 0 {
                let notice = format!("rrun: {missing} bytes of log dropped here");
                write_line(&mut out, &stamp, stream, "F", notice.as_bytes());
            }
            write_line(&mut out, &stamp, stream, tag, line);
        });
        if let Err(_full) = self.file.write_all(&out) {
            self.unsaid += out.len() as u64;
            self.dropped += out.len() as u64;
        }
    }
}

fn write_line(out: &mut Vec<u8>, stamp: &str, stream: Stream, tag: &str, line: &[u8]) {
    out.reserve(stamp.len() + line.len() + 11);
    for part in [stamp, " ", stream.name(), " ", tag, " "] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let mut emit = |tag: &str, line: &[u8]| out.push((tag.to_owned(), line.to_vec()));
        for chunk in chunks {
            lines.push(Stream::Stdout, chunk, &mut emit);
        }
        lines.end(Stream::Stdout, &mut emit);
        out
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let whole = lines(&[b"one\ntwo\n\nthree"]);
        let tags: Vec<_> = whole.iter().map(|(tag, _)| tag.as_str()).collect();
        assert_eq!(tags, ["F", "F", "F", "P"]);
        assert_eq!(whole[3].1, b"three");
        let bytes: Vec<&[u8]> = b"one\ntwo\n\nthree".chunks(1).collect();
        assert_eq!(lines(&bytes), whole);
    }

    #[test]
    fn long_lines_are_split_at_16_kib_and_their_parts_marked() {
        let mut text = vec![b'x'; 2 * MAX_LINE + 5];
        text.push(b'\n');
        let parts = lines(&[&text[..100], &text[100..]]);
        let shape: Vec<_> = parts
            .iter()
            .map(|(tag, line)| (tag.as_str(), line.len()))
            .collect();
        assert_eq!(shape, [("P", MAX_LINE), ("P", MAX_LINE), ("F", 5)]);
    }

    #[test]
    fn a_line_of_exactly_16_kib_is_not_split() {
        let mut text = vec![b'x'; MAX_LINE];
        text.push(b'\n');
        let shape: Vec<_> = lines(&[&text])
            .iter()
            .map(|(t, l)| (t.clone(), l.len()))
            .collect();
        assert_eq!(shape, [("F".to_owned(), MAX_LINE)]);
        // The newline may also come later than the rest.
        let shape: Vec<_> = lines(&[&text[..MAX_LINE], b"\n"])
            .iter()
            .map(|(t, l)| (t.clone(), l.len()))
            .collect();
        assert_eq!(shape, [("F".to_owned(), MAX_LINE)]);
    }

    #[test]
    fn the_bucket_lets_the_burst_through_and_then_the_rate() {
        let mut bucket = Bucket::new(100, 200, 0);
        assert!(bucket.take(200, 0));
        assert!(!bucket.take(1, 0));
        assert!(!bucket.take(100, 500_000_000));
        assert!(bucket.take(100, 1_000_000_000));
        // Longer than the bucket: passes when that is full.
        assert!(bucket.take(1000, 10_000_000_000));
        assert!(!bucket.take(1, 10_000_000_000));
    }
}
