//! `exec` and `attach`.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use rrun_streaming::client::{RemoteCommand, Target, remote_command};
use rrun_streaming::{Limits, StreamOptions, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::http::{Api, encode};
use super::logs::{default_container, pod_of};

/// `rrun-pods exec -it web -- sh`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods exec web -- ls /
  rrun-pods exec -it web -c sidecar -- sh
  tar c . | rrun-pods exec -i web -- tar x -C /tmp")]
pub struct Options {
    /// A pod, or `deployment/web`.
    what: String,
    /// The container, where the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Through a terminal.
    #[arg(short, long)]
    tty: bool,
    /// The command, after `--`.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `rrun-pods attach web`.
#[derive(Debug, Args)]
pub struct AttachOptions {
    /// A pod, or `deployment/web`.
    what: String,
    /// The container, where the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Through the container's terminal.
    #[arg(short, long)]
    tty: bool,
}

/// Runs a command; its exit code becomes the program's.
pub async fn exec(api: &Api, namespace: &str, options: Options) -> anyhow::Result<ExitCode> {
    let pod = pod_of(api, namespace, &options.what).await?;
    let words = options.command.iter();
    let words: Vec<String> = words.map(|c| format!("command={}&", encode(c))).collect();
    let command = words.concat();
    let (container, flags) = (options.container.as_deref(), (options.stdin, options.tty));
    session(api, namespace, &pod, "exec", &command, container, flags).await
}

/// Attaches to a container.
pub async fn attach(
    api: &Api,
    namespace: &str,
    options: AttachOptions,
) -> anyhow::Result<ExitCode> {
    let pod = pod_of(api, namespace, &options.what).await?;
    let (container, flags) = (options.container.as_deref(), (options.stdin, options.tty));
    session(api, namespace, &pod, "attach", "", container, flags).await
}

async fn session(
    api: &Api,
    namespace: &str,
    pod: &serde_json::Value,
    verb: &str,
    query: &str,
    container: Option<&str>,
    (stdin, tty): (bool, bool),
) -> anyhow::Result<ExitCode> {
    let tty = tty && {
        let terminal = std::io::stdin().is_terminal();
        if !terminal {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        terminal
    };
    let streams = StreamOptions {
        stdin,
        stdout: true,
        stderr: !tty,
        tty,
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let container = container
        .map(str::to_owned)
        .or_else(|| default_container(pod));
    let container = container
        .as_deref()
        .map(|c| format!("container={}&", encode(c)))
        .unwrap_or_default();
    let target = Target {
        host: api.authority(),
        path: format!(
            "/api/v1/namespaces/{namespace}/pods/{name}/{verb}?{query}{container}stdin={stdin}&stdout=true&stderr={}&tty={tty}",
            !tty
        ),
        ..Target::default()
    };
    let io = api.connect().await?;
    let session = remote_command(io, &target, streams, &Limits::default()).await?;
    let raw = if tty { Some(Raw::enter()?) } else { None };
    let code = carry(session, stdin, tty).await;
    drop(raw);
    code
}

/// Copies the streams until the command has ended.
async fn carry(mut session: RemoteCommand, stdin: bool, tty: bool) -> anyhow::Result<ExitCode> {
    if let (true, Some(to)) = (stdin, session.stdin.take()) {
        tokio::spawn(send(to));
    }
    if tty {
        tokio::spawn(sizes(session.resize.clone()));
    }
    let out = session
        .stdout
        .take()
        .map(|from| tokio::spawn(copy(from, tokio::io::stdout())));
    let err = session
        .stderr
        .take()
        .map(|from| tokio::spawn(copy(from, tokio::io::stderr())));
    for copied in [out, err].into_iter().flatten() {
        copied.await?.context("reading the command's output")?;
    }
    let status = session.status().await?;
    if status.status == "Success" || status.status.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    match status.exit_code() {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        None => anyhow::bail!("{}", status.message),
    }
}

async fn copy(
    mut from: rrun_streaming::ReadStream,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}

async fn send(mut to: rrun_streaming::WriteStream) {
    let mut from = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err()
        {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Tells the terminal's size now and whenever it changes.
async fn sizes(out: tokio::sync::mpsc::Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdin()) {
            let size = TerminalSize {
                width: size.ws_col,
                height: size.ws_row,
            };
            if out.send(size).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The terminal in raw mode, until dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .context("setting the terminal's mode")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
