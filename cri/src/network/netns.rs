//! Work inside a pod's network namespace. A thread enters it and ends there: the threads of the
//! async runtime stay where they are.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// How long a connection inside a pod may take to be made.
const DIAL: Duration = Duration::from_secs(10);

/// Runs `work` on a thread of its own inside the network namespace that `path` pins.
pub fn inside<T, F>(path: &Path, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let netns =
        File::open(path).with_context(|| format!("network namespace {}", path.display()))?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let entered = setns(&netns, CloneFlags::CLONE_NEWNET).context("setns");
            // The receiver is there: it waits below.
            let _ = sender.send(entered.and_then(|()| work()));
        })
        .context("start a thread for the network namespace")?;
    receiver
        .recv()
        .map_err(|_| anyhow!("the thread ended early"))
        .flatten()
        .with_context(|| format!("in network namespace {}", path.display()))
}

/// Connects to a port on the loopback of a network namespace: IPv4 first, then IPv6.
pub fn dial(path: &Path, port: u16) -> Result<TcpStream> {
    inside(path, move || {
        let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&four, DIAL)
            .or_else(|error| TcpStream::connect_timeout(&six, DIAL).map_err(|_| error))
            .with_context(|| format!("connect to localhost:{port} inside the pod"))
    })
}
