//! Commands in running containers: the stdio of an exec, its end, and the streaming server's view
//! of both.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nix::sched::{CloneFlags, setns};
use rrun_cri_api::v1;
use rrun_task_api::Code;
use rrun_task_api::client::Client;
use rrun_task_api::pb::{shim, task};
use tokio::net::{TcpStream, UnixStream};
use tracing::{Instrument, debug_span};

use crate::bundle;
use crate::container;
use crate::daemon::{Daemon, blocking};
use crate::error::Error;
use crate::sandbox;
use crate::store::{ContainerPhase, ContainerRecord, SandboxPhase};
use crate::streaming::{Backend, Control, Session};

/// A process beside a container's first one.
pub struct Exec {
    client: Client,
    container: String,
    id: String,
    /// Frames of its stdio.
    pub stdio: Option<UnixStream>,
    /// Its exit code, once that is known.
    code: Option<i32>,
    /// The shim has forgotten it, or somebody else sees to that.
    ended: bool,
}

/// What came of a command that was to run to its end.
pub enum Synced {
    /// That.
    Ended(shim::ExecSyncResponse),
    /// It writes more than an answer holds; its stdio is connected.
    Goes(Exec),
    /// The shim cannot do it; nothing was run.
    Unknown,
}

/// What to run.
pub struct Command<'a> {
    /// The program and its arguments.
    pub cmd: &'a [String],
    /// On a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
}

impl Exec {
    /// Starts a command.
    pub async fn start(
        daemon: &Arc<Daemon>,
        record: &ContainerRecord,
        command: Command<'_>,
    ) -> Result<Self> {
        let (own, id) = (daemon.clone(), record.id.clone());
        let spec = blocking(move || container::read_spec(&own, &id)).await?;
        let process = bundle::exec_process(&spec, command.cmd, command.tty)?;
        let client = daemon.shims.get(&record.id, &record.shim_address).await?;
        let request = shim::ExecRequest {
            id: record.id.clone(),
            process: serde_json::to_vec(&process).context("serialize the process")?,
            terminal: command.tty,
            stdin: command.stdin,
            stdout: command.stdout,
            stderr: command.stderr && !command.tty,
            ..Default::default()
        };
        let started = client.exec_attached(&request);
        let started = started.instrument(debug_span!("start exec")).await?;
        let mut exec = Self::named(client, record.id.clone(), started.exec_id);
        exec.connect(&started.path).await?;
        Ok(exec)
    }

    fn named(client: Client, container: String, id: String) -> Self {
        Self {
            client,
            container,
            id,
            stdio: None,
            code: None,
            ended: false,
        }
    }

    async fn connect(&mut self, path: &str) -> Result<()> {
        let stdio = UnixStream::connect(path).await;
        self.stdio = Some(stdio.with_context(|| format!("connect to {path}"))?);
        Ok(())
    }

    /// Runs a command to its end in one call of the shim, that kills it after `limit` (none: zero).
    pub async fn sync(
        daemon: &Arc<Daemon>,
        record: &ContainerRecord,
        cmd: &[String],
        limit: Duration,
    ) -> Result<Synced> {
        let client = daemon.shims.get(&record.id, &record.shim_address).await?;
        let request = shim::ExecSyncRequest {
            id: record.id.clone(),
            exec_id: daemon.shims.exec_id(),
            args: cmd.to_vec(),
            timeout: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
        };
        // Killed where this call is dropped.
        let mut exec = Self::named(client, record.id.clone(), request.exec_id.clone());
        let answered = exec.client.exec_sync(&request);
        match answered.instrument(debug_span!("exec")).await {
            Ok(answer) if answer.path.is_empty() => {
                exec.ended = true;
                Ok(Synced::Ended(answer))
            }
            Ok(answer) => {
                exec.connect(&answer.path).await?;
                Ok(Synced::Goes(exec))
            }
            Err(error) => {
                exec.ended = true;
                // Another shim runs the container, or ours is of a version before this.
                let old = error.status().map(|s| s.code) == Some(Code::Unimplemented);
                if old {
                    return Ok(Synced::Unknown);
                }
                Err(error.into())
            }
        }
    }

    /// Waits for the end and gives the exit code, 128 + signal where one ended it. A wait that is
    /// dropped in the middle may be begun again.
    pub async fn wait(&mut self) -> Result<i32> {
        let code = match self.code {
            Some(code) => code,
            None => self.ask().await?,
        };
        self.code = Some(code);
        if !self.ended {
            delete(&self.client, &self.container, &self.id).await;
            self.ended = true;
        }
        Ok(code)
    }

    async fn ask(&self) -> Result<i32> {
        let request = task::WaitRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
        };
        let answer = self.client.wait(&request, None).await?;
        Ok(answer.exit_status as i32)
    }

    /// Ends the process.
    pub async fn kill(&self) -> Result<()> {
        let request = kill_request(&self.container, &self.id);
        match self.client.kill(&request).await {
            Err(error) if !error.is_not_found() && !error.is_gone() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// An exec that nobody waits for any more is ended, so that a probe whose client went away does
/// not pile up processes.
impl Drop for Exec {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (client, container, id) = (
            self.client.clone(),
            std::mem::take(&mut self.container),
            std::mem::take(&mut self.id),
        );
        tokio::spawn(async move {
            // It may have ended meanwhile.
            let _ = client.kill(&kill_request(&container, &id)).await;
            let request = task::WaitRequest {
                id: container.clone(),
                exec_id: id.clone(),
            };
            let _ = client.wait(&request, Some(Duration::from_mins(1))).await;
            delete(&client, &container, &id).await;
        });
    }
}

fn kill_request(container: &str, id: &str) -> task::KillRequest {
    task::KillRequest {
        id: container.to_owned(),
        exec_id: id.to_owned(),
        signal: 9,
        // With what it started, as far as that is still in its process group.
        all: true,
    }
}

/// Execs that a daemon before this one began: their sessions are gone, they run on. Each is forgotten
/// when it has ended.
pub fn forget_ended(client: &Client, container: &str, execs: Vec<String>) {
    for id in execs {
        tokio::spawn(forget_ended_one(client.clone(), container.to_owned(), id));
    }
}

/// Lets the shim forget an exec once it has ended.
async fn forget_ended_one(client: Client, container: String, id: String) {
    let request = task::WaitRequest {
        id: container.clone(),
        exec_id: id.clone(),
    };
    if client.wait(&request, None).await.is_ok() {
        delete(&client, &container, &id).await;
    }
}

async fn delete(client: &Client, container: &str, id: &str) {
    let request = task::DeleteRequest {
        id: container.to_owned(),
        exec_id: id.to_owned(),
    };
    if let Err(error) = client.delete(&request).await
        && !error.is_gone()
        && !error.is_not_found()
    {
        tracing::warn!(container, exec = id, "delete an exec: {error}");
    }
}

/// The daemon as the streaming server sees it.
pub struct Streams(pub Weak<Daemon>);

impl Streams {
    fn daemon(&self) -> Result<Arc<Daemon>> {
        self.0.upgrade().context("the daemon is ending")
    }

    fn container(&self, id: &str) -> Result<(Arc<Daemon>, Arc<ContainerRecord>)> {
        let daemon = self.daemon()?;
        let record = daemon.container(id)?.get();
        if record.phase() != ContainerPhase::Running {
            return Err(Error::State(format!("container {id} is not running")).into());
        }
        Ok((daemon, record))
    }
}

impl Backend for Streams {
    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<Session>> {
        async move {
            let (daemon, record) = self.container(&request.container_id)?;
            let command = Command {
                cmd: &request.cmd,
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            let mut exec = Exec::start(&daemon, &record, command).await?;
            let stdio = exec.stdio.take().context("the exec has no stdio")?;
            let control = ProcessControl {
                client: exec.client.clone(),
                container: record.id.clone(),
                exec_id: exec.id.clone(),
            };
            // From here on the session decides about its end.
            exec.ended = true;
            Ok(Session {
                stdio,
                control: Box::new(control),
                close_stdin: true,
            })
        }
        .boxed()
    }

    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<Session>> {
        async move {
            let (daemon, record) = self.container(&request.container_id)?;
            let client = daemon.shims.get(&record.id, &record.shim_address).await?;
            let attach = shim::AttachRequest {
                id: record.id.clone(),
                stdin: request.stdin && record.config().stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                ..Default::default()
            };
            let path = client.attach(&attach).await?.path;
            let stdio = UnixStream::connect(&path).await;
            let control = ProcessControl {
                client,
                container: record.id.clone(),
                exec_id: String::new(),
            };
            Ok(Session {
                stdio: stdio.with_context(|| format!("connect to {path}"))?,
                control: Box::new(control),
                close_stdin: record.config().stdin_once && !record.config().tty,
            })
        }
        .boxed()
    }

    fn dial(&self, pod_sandbox_id: String, port: u16) -> BoxFuture<'_, Result<TcpStream>> {
        async move {
            let daemon = self.daemon()?;
            let record = daemon.sandbox(&pod_sandbox_id)?.get();
            if record.phase() != SandboxPhase::Ready {
                bail!("pod sandbox {pod_sandbox_id} is not ready");
            }
            if record.host_network() {
                return dial_machine(port).await;
            }
            let dir = daemon.config.sandbox_dir(&record.id);
            let pin = sandbox::pin(&dir, "net");
            let stream = blocking(move || dial_pod(&pin, port)).await?;
            TcpStream::from_std(stream).context("watch a socket")
        }
        .boxed()
    }
}

/// Connects to the machine's own loopback, for a pod in its network.
async fn dial_machine(port: u16) -> Result<TcpStream> {
    let four = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    let error = match four {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let six = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await;
    six.map_err(|_| error)
        .with_context(|| format!("connect to port {port} of the pod"))
}

/// Connects to the loopback of a pod. A socket stays in the network namespace in which it was
/// made, so a thread that enters it and ends is enough.
fn dial_pod(pin: &Path, port: u16) -> Result<std::net::TcpStream> {
    const CONNECT: Duration = Duration::from_secs(10);
    let file = File::open(pin).with_context(|| format!("open {}", pin.display()))?;
    let connect = || {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", pin.display()))?;
        let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&(ip, port).into(), CONNECT);
        let stream = to(Ipv4Addr::LOCALHOST.into())
            .or_else(|error| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
            .with_context(|| format!("connect to port {port} of the pod"))?;
        stream
            .set_nonblocking(true)
            .context("set a socket non-blocking")?;
        Ok(stream)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(connect);
        thread
            .join()
            .unwrap_or_else(|_| bail!("the thread that connects panicked"))
    })
}

struct ProcessControl {
    client: Client,
    container: String,
    /// Empty for the container itself.
    exec_id: String,
}

impl Control for ProcessControl {
    fn resize(&self, width: u16, height: u16) -> BoxFuture<'_, Result<()>> {
        async move {
            let request = task::ResizePtyRequest {
                id: self.container.clone(),
                exec_id: self.exec_id.clone(),
                width: width.into(),
                height: height.into(),
            };
            Ok(self.client.resize_pty(&request).await?)
        }
        .boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Result<i32>> {
        async move {
            let request = task::WaitRequest {
                id: self.container.clone(),
                exec_id: self.exec_id.clone(),
            };
            let code = self.client.wait(&request, None).await?.exit_status;
            if !self.exec_id.is_empty() {
                delete(&self.client, &self.container, &self.exec_id).await;
            }
            Ok(code as i32)
        }
        .boxed()
    }

    fn abandon(&self) {
        if self.exec_id.is_empty() {
            return;
        }
        let (container, id) = (self.container.clone(), self.exec_id.clone());
        tokio::spawn(forget_ended_one(self.client.clone(), container, id));
    }
}
