//! The streaming server: single-use URLs for exec, attach and port-forward, served over SPDY and
//! WebSocket on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use rrun_cri_api::v1;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use http::Service;
use tokens::Tokens;

mod http;
mod process;
#[cfg(test)]
mod tests;
mod tokens;

/// The stdio of a running exec or container.
pub struct Session {
    /// Frames of ARCHITECTURE.md (`rrun_task_api::stdio`): stdin to it, the rest from it, until
    /// its end-of-stream frame.
    pub stdio: UnixStream,
    /// What goes beside the bytes.
    pub control: Box<dyn Control>,
    /// Whether the end of the client's input is the end of the process's: for an exec always, for
    /// an attach where the container's stdin_once says so.
    pub close_stdin: bool,
}

/// What a session can do beside moving bytes.
pub trait Control: Send + Sync {
    /// Sets the size of the terminal, in characters.
    fn resize(&self, width: u16, height: u16) -> BoxFuture<'_, Result<()>>;

    /// Waits for the process of an exec to end and gives its exit code (128 + signal where one
    /// ended it), after which the exec is gone. For an attach: of the container.
    fn wait(&self) -> BoxFuture<'_, Result<i32>>;

    /// Called when the client goes away before the process ended: an exec's process stays, as
    /// with the peers, but its record is dropped once it ends. Does nothing for an attach.
    fn abandon(&self);
}

/// What the streaming server needs of the containers.
pub trait Backend: Send + Sync + 'static {
    /// Starts an exec.
    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<Session>>;

    /// Attaches to a running container.
    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<Session>>;

    /// Connects to a port on the loopback of the pod's network namespace.
    fn dial(&self, pod_sandbox_id: String, port: u16) -> BoxFuture<'_, Result<TcpStream>>;
}

/// A request that waits for its client.
enum Waiting {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest),
    PortForward(v1::PortForwardRequest),
}

/// The running server.
pub struct Streaming {
    address: SocketAddr,
    tokens: Arc<Tokens<Waiting>>,
}

impl Streaming {
    /// Listens on `address` (port 0 picks one) and serves in a task of its own.
    pub async fn serve(address: SocketAddr, backend: Arc<dyn Backend>) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listen for streams on {address}"))?;
        let address = listener
            .local_addr()
            .context("the streaming server's address")?;
        let tokens = Arc::new(Tokens::default());
        let service = Arc::new(Service {
            backend,
            tokens: tokens.clone(),
        });
        tokio::spawn(http::accept(listener, service));
        Ok(Self { address, tokens })
    }

    /// A URL for one exec. The request has been checked: the container runs.
    pub fn exec_url(&self, request: v1::ExecRequest) -> Result<String> {
        self.url("exec", Waiting::Exec(request))
    }

    /// A URL for one attach.
    pub fn attach_url(&self, request: v1::AttachRequest) -> Result<String> {
        self.url("attach", Waiting::Attach(request))
    }

    /// A URL for one port-forward.
    pub fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String> {
        self.url("portforward", Waiting::PortForward(request))
    }

    fn url(&self, kind: &str, waiting: Waiting) -> Result<String> {
        Ok(format!(
            "http://{}/{kind}/{}",
            self.address,
            self.tokens.put(waiting)?
        ))
    }
}
