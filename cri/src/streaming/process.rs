//! Ties a client's streams to those of a process.

use std::future::{Future, pending};
use std::time::Duration;

use anyhow::{Context, Result};
use rrun_streaming::server::RemoteCommand;
use rrun_streaming::{ReadStream, Status, TerminalSize, WriteStream};
use rrun_task_api::stdio::{HEADER, MAX_DATA, Stream, header, parse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Control, Session};

/// How long the output of an exec may be silent after the process's end, where a child that it
/// left behind holds the output open.
const LAST_WORDS: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 << 10;

/// Runs the session of an exec to its end: the exit code is told to the client.
pub async fn exec(client: RemoteCommand, session: Session) {
    run(client, session, true).await;
}

/// Runs the session of an attach to its end, which is that of the container or of the client.
pub async fn attach(client: RemoteCommand, session: Session) {
    run(client, session, false).await;
}

/// Tells the client that there is no process for it.
pub async fn refuse(client: RemoteCommand, error: &anyhow::Error) {
    report(client, Status::failure(format!("{error:#}"))).await;
}

async fn run(mut client: RemoteCommand, session: Session, exec: bool) {
    let Session {
        stdio,
        control,
        close_stdin,
    } = session;
    let (reader, writer) = tokio::io::split(stdio);
    let gone = client.gone();
    let stdin = client.stdin.take();
    let (stdout, stderr) = (client.stdout.take(), client.stderr.take());
    let (none, no_sizes) = mpsc::channel(1);
    drop(none);
    let sizes = std::mem::replace(&mut client.resize, no_sizes);
    let status = tokio::select! {
        status = output(reader, stdout, stderr, &*control, exec) => status,
        () = forever(input(stdin, writer, close_stdin)) => return,
        () = forever(resize(sizes, &*control)) => return,
        () = gone => {
            control.abandon();
            return;
        }
    };
    let status = status.unwrap_or_else(|error| Status::failure(format!("{error:#}")));
    report(client, status).await;
}

/// The ends of the input and of the sizes do not end the session.
async fn forever(part: impl Future<Output = ()>) {
    part.await;
    pending::<()>().await;
}

async fn report(client: RemoteCommand, status: Status) {
    if let Err(error) = client.finish(status).await {
        tracing::debug!("end a streaming session: {error}");
    }
}

async fn resize(mut sizes: mpsc::Receiver<TerminalSize>, control: &dyn Control) {
    while let Some(size) = sizes.recv().await {
        if let Err(error) = control.resize(size.width, size.height).await {
            tracing::debug!("resize a terminal: {error:#}");
        }
    }
}

/// Copies the client's input to the process, and its end where `close` says so.
async fn input(stdin: Option<ReadStream>, mut writer: impl AsyncWrite + Unpin, close: bool) {
    let Some(mut stdin) = stdin else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        // An error is a broken connection: the session learns of it elsewhere.
        let count = stdin.read(&mut chunk).await.unwrap_or(0);
        if count == 0 && !close {
            return;
        }
        let frame = [&header(Stream::Stdin, count)[..], &chunk[..count]].concat();
        // A process that has closed its input reads no more.
        if writer.write_all(&frame).await.is_err() || count == 0 {
            return;
        }
    }
}

/// Copies the process's output to the client, and gives how the session ended.
async fn output(
    reader: impl AsyncRead + Unpin,
    stdout: Option<WriteStream>,
    stderr: Option<WriteStream>,
    control: &dyn Control,
    exec: bool,
) -> Result<Status> {
    let mut frames = Frames {
        reader,
        stdout,
        stderr,
    };
    if !exec {
        frames.copy().await?;
        return Ok(Status::success());
    }
    let wait = control.wait();
    tokio::pin!(wait);
    tokio::select! {
        copied = frames.copy() => {
            copied?;
            Ok(Status::exited(wait.await?))
        }
        code = &mut wait => {
            let code = code?;
            frames.rest().await?;
            Ok(Status::exited(code))
        }
    }
}

struct Frames<R> {
    reader: R,
    stdout: Option<WriteStream>,
    stderr: Option<WriteStream>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Copies until the output's end.
    async fn copy(&mut self) -> Result<()> {
        while self.frame().await? {}
        Ok(())
    }

    /// Copies until the output's end, or until nothing has come for a while.
    async fn rest(&mut self) -> Result<()> {
        while let Ok(more) = timeout(LAST_WORDS, self.frame()).await {
            if !more? {
                break;
            }
        }
        Ok(())
    }

    /// Copies one frame; false at the end.
    async fn frame(&mut self) -> Result<bool> {
        let mut head = [0; HEADER];
        self.reader
            .read_exact(&mut head)
            .await
            .context("read the process's output")?;
        let (stream, length) = parse(head)?;
        debug_assert!(length <= MAX_DATA, "parse refuses more");
        let mut data = vec![0; length];
        self.reader
            .read_exact(&mut data)
            .await
            .context("read the process's output")?;
        let to = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin => &mut None,
            Stream::End => return Ok(false),
        };
        // A client that stops reading one output may go on reading the other.
        if let Some(writer) = to
            && writer.write_all(&data).await.is_err()
        {
            *to = None;
        }
        Ok(true)
    }
}
