//! ExecSync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rrun_cri_api::v1;
use rrun_task_api::stdio::{self, HEADER, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::exec::{Command, Exec, Synced};
use crate::store::{ContainerPhase, ContainerRecord};

/// Bytes of both streams together that are kept; the rest is read and dropped. A kubelet takes
/// messages of 16 MiB, so a little less leaves room for the fields around them.
const LIMIT: usize = (16 << 20) - 4096;

/// How long the output is waited for after the process has ended: a child of it that went on in
/// the background may hold it open for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a command to its end and gives what it wrote.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse> {
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty"));
    }
    let Ok(seconds) = u64::try_from(request.timeout) else {
        return Err(Error::invalid(format!(
            "timeout {} is negative",
            request.timeout
        )));
    };
    let record = running(daemon, &request.container_id)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut exec = match in_one_call(daemon, &record, &request.cmd, seconds).await? {
        Some(Synced::Ended(answer)) if !answer.timed_out => {
            return Ok(v1::ExecSyncResponse {
                stdout: answer.stdout,
                stderr: answer.stderr,
                exit_code: answer.exit_status as i32,
            });
        }
        None | Some(Synced::Ended(_)) => return Err(late(&request.cmd, seconds)),
        Some(Synced::Goes(exec)) => exec,
        Some(Synced::Unknown) => start(daemon, &record, &request.cmd).await?,
    };
    let left = until.saturating_duration_since(Instant::now());
    if let Some(result) = within(seconds, left, run(&mut exec)).await {
        return result;
    }
    exec.kill().await?;
    // Whoever is told so finds it gone; on a busy machine the answer could be there before its end.
    let _ = tokio::time::timeout(DRAIN, exec.wait()).await;
    Err(late(&request.cmd, seconds))
}

/// Lets the shim run it, and kill it in time; some seconds later the shim is not to be relied on.
async fn in_one_call(
    daemon: &Arc<Daemon>,
    record: &ContainerRecord,
    cmd: &[String],
    seconds: u64,
) -> Result<Option<Synced>> {
    let limit = Duration::from_secs(seconds);
    let synced = Exec::sync(daemon, record, cmd, limit);
    let synced = within(seconds, limit + DRAIN * 2, synced).await;
    Ok(synced.transpose()?)
}

/// Starts it in several calls.
async fn start(daemon: &Arc<Daemon>, record: &ContainerRecord, cmd: &[String]) -> Result<Exec> {
    let command = Command {
        cmd,
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
    };
    Ok(Exec::start(daemon, record, command).await?)
}

fn late(cmd: &[String], seconds: u64) -> Error {
    let cmd = cmd.join(" ");
    Error::Deadline(format!(
        "{cmd:?} did not end within {seconds} s and was killed"
    ))
}

/// The result, where it comes within `limit` or (zero seconds) there is none.
async fn within<T>(seconds: u64, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    if seconds == 0 {
        return Some(work.await);
    }
    tokio::time::timeout(limit, work).await.ok()
}

/// The record of a running container.
pub(super) fn running(daemon: &Daemon, id: &str) -> Result<Arc<ContainerRecord>> {
    let record = daemon.container(id)?.get();
    match record.phase() {
        ContainerPhase::Running => Ok(record),
        phase => Err(Error::State(format!(
            "container {} is {}, not running",
            record.id, phase
        ))),
    }
}

async fn run(exec: &mut Exec) -> Result<v1::ExecSyncResponse> {
    let mut stdio = exec.stdio.take().context("the exec has no stdio")?;
    let mut output = Output::default();
    // The output is read while the process runs: a full pipe would hold it.
    let exit_code = tokio::select! {
        biased;
        read = output.read(&mut stdio) => {
            read?;
            exec.wait().await?
        }
        code = exec.wait() => {
            let code = code?;
            if let Ok(read) = tokio::time::timeout(DRAIN, output.read(&mut stdio)).await {
                read?;
            }
            code
        }
    };
    Ok(v1::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code,
    })
}

/// What came so far. A read that is dropped in the middle goes on where it was.
#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    head: [u8; HEADER],
    have: usize,
    /// Stream and bytes left of the frame that is being read.
    frame: Option<(Stream, usize)>,
    ended: bool,
}

impl Output {
    async fn read(&mut self, stdio: &mut UnixStream) -> anyhow::Result<()> {
        let mut chunk = vec![0; 16 * 1024];
        while !self.ended {
            if let Some((stream, left)) = self.frame.filter(|(_, left)| *left > 0) {
                let want = left.min(chunk.len());
                let count = stdio
                    .read(&mut chunk[..want])
                    .await
                    .context("read the output")?;
                if count == 0 {
                    anyhow::bail!("the output ended in the middle of a frame");
                }
                self.keep(stream, &chunk[..count]);
                self.frame = Some((stream, left - count));
                continue;
            }
            let count = stdio
                .read(&mut self.head[self.have..])
                .await
                .context("read the output")?;
            self.have += count;
            // A shim that ends with the container closes the stream instead of ending it.
            self.ended = count == 0;
            if self.have == HEADER {
                let (stream, length) = stdio::parse(self.head)?;
                self.ended = stream == Stream::End;
                self.frame = Some((stream, length));
                self.have = 0;
            }
        }
        Ok(())
    }

    fn keep(&mut self, stream: Stream, data: &[u8]) {
        let room = LIMIT - self.stdout.len() - self.stderr.len();
        let kept = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin | Stream::End => return,
        };
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn feed(bytes: Vec<u8>) -> anyhow::Result<Output> {
        let (mut near, mut far) = UnixStream::pair()?;
        let writer = tokio::spawn(async move { near.write_all(&bytes).await });
        let mut output = Output::default();
        output.read(&mut far).await?;
        drop(far);
        let _ = writer.await;
        Ok(output)
    }

    fn frame(stream: Stream, data: &[u8]) -> Vec<u8> {
        [&stdio::header(stream, data.len())[..], data].concat()
    }

    #[tokio::test]
    async fn streams_are_told_apart_and_the_end_ends() {
        let bytes = [
            frame(Stream::Stdout, b"out"),
            frame(Stream::Stderr, b"err"),
            frame(Stream::Stdout, b"put"),
            frame(Stream::End, b""),
            frame(Stream::Stdout, b"late"),
        ];
        let output = feed(bytes.concat()).await.unwrap();
        assert_eq!(
            (output.stdout, output.stderr),
            (b"output".to_vec(), b"err".to_vec())
        );
    }

    #[tokio::test]
    async fn output_above_the_limit_is_read_and_dropped() {
        let data = vec![7; 1 << 20];
        let mut bytes = Vec::new();
        for _ in 0..18 {
            bytes.extend(frame(Stream::Stdout, &data));
        }
        bytes.extend(frame(Stream::End, b""));
        assert_eq!(feed(bytes).await.unwrap().stdout.len(), LIMIT);
    }

    #[tokio::test]
    async fn half_a_frame_is_an_error() {
        let mut bytes = frame(Stream::Stdout, b"output");
        bytes.pop();
        assert!(feed(bytes).await.is_err());
    }
}
