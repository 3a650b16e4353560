//! The streaming server: single-use URLs for exec, attach and port-forward, served over SPDY and
//! WebSocket on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::BoxFuture;
use rrun_cri_api::v1;
use tokio::net::{TcpStream, UnixStream};

/// The stdio of a running exec or container.
pub struct Session {
    /// Frames of ARCHITECTURE.md (`rrun_task_api::stdio`): stdin to it, the rest from it, until
    /// its end-of-stream frame.
    pub stdio: UnixStream,
    /// What goes beside the bytes.
    pub control: Box<dyn Control>,
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

/// The running server.
pub struct Streaming {
    _backend: Arc<dyn Backend>,
    address: SocketAddr,
}

impl Streaming {
    /// Listens on `address` (port 0 picks one) and serves in a task of its own.
    pub async fn serve(address: SocketAddr, backend: Arc<dyn Backend>) -> Result<Self> {
        Ok(Self {
            _backend: backend,
            address,
        })
    }

    /// A URL for one exec. The request has been checked: the container runs.
    pub fn exec_url(&self, request: v1::ExecRequest) -> Result<String> {
        let _ = request;
        anyhow::bail!("exec at {} is not implemented yet", self.address)
    }

    /// A URL for one attach.
    pub fn attach_url(&self, request: v1::AttachRequest) -> Result<String> {
        let _ = request;
        anyhow::bail!("attach at {} is not implemented yet", self.address)
    }

    /// A URL for one port-forward.
    pub fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String> {
        let _ = request;
        anyhow::bail!("port-forward at {} is not implemented yet", self.address)
    }
}
