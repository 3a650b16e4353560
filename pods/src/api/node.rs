//! What the API asks of the node agent: the parts of a pod's API that need the pod's containers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::status::Result;

/// A boxed future, so that the trait can be an object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// `GET …/pods/{name}/log`.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Empty: the pod's only container, or the one that its default-container annotation names.
    pub container: String,
    /// Keep on sending what is written.
    pub follow: bool,
    /// The last instance before the running one.
    pub previous: bool,
    /// Each line starts with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only what is newer than this many seconds.
    pub since_seconds: Option<u64>,
    /// Only what is newer than this RFC 3339 time.
    pub since_time: Option<String>,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr`, or both together when empty or `All`.
    pub stream: String,
}

/// `…/exec` and `…/attach`.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// As in [`LogOptions::container`].
    pub container: String,
    /// Empty for attach.
    pub command: Vec<String>,
    /// Connect stdin.
    pub stdin: bool,
    /// Connect stdout.
    pub stdout: bool,
    /// Connect stderr.
    pub stderr: bool,
    /// Through a terminal.
    pub tty: bool,
}

/// What is used of CPU and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Billionths of a CPU.
    pub nano_cores: u64,
    /// Bytes of memory in use, without what the kernel could take back (the working set).
    pub memory: u64,
}

/// What a container uses.
#[derive(Debug, Clone, Default)]
pub struct ContainerUsage {
    /// The uid of its pod.
    pub uid: String,
    /// Its name in the pod.
    pub name: String,
    /// How much.
    pub used: Used,
}

/// What is used, measured over a while.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The while.
    pub window: Duration,
    /// Each running container.
    pub containers: Vec<ContainerUsage>,
    /// The machine.
    pub node: Used,
}

/// The node agent, as the API needs it.
pub trait NodeAgent: Send + Sync {
    /// The log as it is read; the channel closes at its end, and the reader's going away ends
    /// following. Failures before the first byte are the result's.
    fn logs(&self, ns: &str, pod: &str, options: LogOptions) -> Pending<'_, mpsc::Receiver<Bytes>>;

    /// URL of CRI's streaming server for an exec session: requests are relayed to it as they are.
    fn exec(&self, ns: &str, pod: &str, options: ExecOptions) -> Pending<'_, String>;

    /// The same for an attach session.
    fn attach(&self, ns: &str, pod: &str, options: ExecOptions) -> Pending<'_, String>;

    /// The same for a port-forward session; the ports are those of the WebSocket protocol, empty
    /// for SPDY, which names them per stream.
    fn port_forward(&self, ns: &str, pod: &str, ports: Vec<u16>) -> Pending<'_, String>;

    /// What containers and the machine use now.
    fn usage(&self) -> Pending<'_, Usage>;

    /// What containers that failed left, the newest first.
    fn capsules(&self) -> Pending<'_, Vec<serde_json::Value>>;
}
