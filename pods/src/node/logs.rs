//! Container logs as the CRI writes them: `<time> <stdout|stderr> <P|F> <text>`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, Take};

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The last lines alone.
    pub tail: Option<usize>,
    /// Not what is older.
    pub since: Option<Timestamp>,
    /// What is written from now on, too.
    pub follow: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<String>,
}

/// Where the log of a container is: of its current run, or of the one before.
pub fn path(
    dirs: &super::Dirs,
    pod: &k8s_openapi::api::core::v1::Pod,
    name: &str,
    restarts: u32,
) -> PathBuf {
    dirs.logs(pod).join(super::Dirs::log_file(name, restarts))
}

/// One log record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// As it was written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line goes on in the next record of the stream.
    pub partial: bool,
    /// The text, without the newline that ends the record.
    pub text: &'a [u8],
}

/// Reads one record; `None` where it is not one.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    Some(Record {
        time,
        stream,
        partial: tag.first() == Some(&b'P'),
        text,
    })
}

/// Reads a log from its start, or its last lines, and on while it grows.
pub struct Reader {
    file: BufReader<Take<File>>,
    options: Options,
    line: Vec<u8>,
    /// The next record begins a line.
    fresh: bool,
    left: u64,
}

impl Reader {
    /// Opens the log.
    pub async fn open(path: &Path, options: Options) -> std::io::Result<Self> {
        let mut file = File::open(path).await?;
        let size = file.metadata().await?.len();
        let mut length = if options.follow { u64::MAX } else { size };
        if let Some(lines) = options.tail {
            let at = tail_start(path.to_owned(), size, lines).await?;
            file.seek(std::io::SeekFrom::Start(at)).await?;
            length -= at;
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Self {
            file: BufReader::new(file.take(length)),
            options,
            line: Vec::new(),
            fresh: true,
            left,
        })
    }

    /// The next piece of output; `None` at the end, for now, or for good where the limit is reached
    /// (see [`is_over`](Self::is_over)).
    pub async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        while !self.is_over() {
            let count = self.file.read_until(b'\n', &mut self.line).await?;
            if count == 0 || self.line.last() != Some(&b'\n') {
                // A record that is being written is read on next time.
                return Ok(None);
            }
            let line = std::mem::take(&mut self.line);
            if let Some(piece) = self.piece(&line) {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Whether nothing more will be given, however the log grows.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    fn piece(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let record = parse(line)?;
        if self
            .options
            .stream
            .as_deref()
            .is_some_and(|only| only != record.stream)
        {
            return None;
        }
        if let Some(since) = self.options.since
            && record.time.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return None;
        }
        let mut out = Vec::with_capacity(record.text.len() + 40);
        if self.options.timestamps && self.fresh {
            out.extend(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend(record.text);
        if !record.partial {
            out.push(b'\n');
        }
        self.fresh = !record.partial;
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX);
        out.truncate(allowed);
        self.left -= out.len() as u64;
        Some(out)
    }
}

/// Where the last `lines` of the lines in the first `size` bytes begin.
async fn tail_start(path: PathBuf, size: u64, lines: usize) -> std::io::Result<u64> {
    let work = move || tail_offset(&path, size, lines);
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

/// Reads blocks backwards until enough ends of lines were seen.
fn tail_offset(path: &Path, size: u64, lines: usize) -> std::io::Result<u64> {
    use std::io::{Read, Seek, SeekFrom};
    const BLOCK: u64 = 64 << 10;
    let mut file = std::fs::File::open(path)?;
    if lines == 0 {
        return Ok(size);
    }
    let (mut end, mut seen) = (size, 0);
    let mut after: Vec<u8> = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact(&mut block)?;
        block.extend(std::mem::take(&mut after));
        // Ends of records in this block, last first; those of a part of a line do not count.
        let ends: Vec<usize> = (0..block.len())
            .rev()
            .filter(|i| block[*i] == b'\n')
            .collect();
        for pair in ends.windows(2) {
            let record = &block[pair[1] + 1..=pair[0]];
            // Output may end without a newline; what there is of its last line is a line.
            let last = pair[0] as u64 + start + 1 == size;
            let full = last || parse(record).is_some_and(|r| !r.partial);
            seen += usize::from(full);
            if seen > lines {
                return Ok(start + pair[0] as u64 + 1);
            }
        }
        let kept = ends.last().map_or(block.len(), |at| at + 1);
        if start == 0 {
            let first = parse(&block[..kept]).is_some_and(|r| !r.partial);
            seen += usize::from(first);
            return Ok(if seen > lines { kept as u64 } else { 0 });
        }
        // The first record of the block begins in the one before it, and its predecessor's end is
        // needed to know where.
        after = block[..kept].to_vec();
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const T: &str = "2026-11-21T10:00:00.000000001Z";

    async fn all(path: &Path, options: Options) -> String {
        let mut reader = Reader::open(path, options).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            text.extend(piece);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn lines_come_whole_and_tail_counts_lines_not_records() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{T} stdout F one").unwrap();
        writeln!(file, "{T} stdout P tw").unwrap();
        writeln!(file, "{T} stdout F o").unwrap();
        writeln!(file, "{T} stderr F three").unwrap();
        let path = file.path();
        assert_eq!(all(path, Options::default()).await, "one\ntwo\nthree\n");
        for (lines, text) in [
            (0, ""),
            (1, "three\n"),
            (2, "two\nthree\n"),
            (3, "one\ntwo\nthree\n"),
            (9, "one\ntwo\nthree\n"),
        ] {
            let options = Options {
                tail: Some(lines),
                ..Options::default()
            };
            assert_eq!(all(path, options).await, text, "tail {lines}");
        }
        let options = Options {
            timestamps: true,
            limit_bytes: Some(33),
            ..Options::default()
        };
        assert_eq!(all(path, options).await, format!("{T} on"));
    }

    #[tokio::test]
    async fn a_record_that_is_being_written_is_waited_for() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{T} stdout F ha").unwrap();
        let options = Options {
            follow: true,
            ..Options::default()
        };
        let mut reader = Reader::open(file.path(), options).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
        writeln!(file, "lf").unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), b"half\n");
    }

    #[tokio::test]
    async fn what_is_written_while_it_is_read_is_for_who_follows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{T} stdout F one").unwrap();
        for follow in [false, true] {
            let options = Options {
                tail: Some(1),
                follow,
                ..Options::default()
            };
            let mut reader = Reader::open(file.path(), options).await.unwrap();
            writeln!(file, "{T} stdout F more").unwrap();
            assert!(reader.next().await.unwrap().is_some());
            assert_eq!(reader.next().await.unwrap().is_some(), follow);
        }
    }

    #[tokio::test]
    async fn output_without_a_newline_at_its_end_ends_in_a_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{T} stdout F one").unwrap();
        writeln!(file, "{T} stdout P two").unwrap();
        let options = Options {
            tail: Some(1),
            ..Options::default()
        };
        assert_eq!(all(file.path(), options).await, "two");
    }

    #[test]
    fn tail_of_a_long_log_reads_only_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for n in 0..10_000 {
            writeln!(file, "{T} stdout F line {n}").unwrap();
        }
        let size = file.as_file().metadata().unwrap().len();
        let at = tail_offset(file.path(), size, 3).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text[at as usize..].lines().count(), 3);
        assert!(text[at as usize..].starts_with(&format!("{T} stdout F line 9997")));
        let most = tail_offset(file.path(), size, 5000).unwrap();
        assert_eq!(text[most as usize..].lines().count(), 5000);
    }
}
