//! Work inside a pod's network namespace. A thread enters it and ends there: the threads of the
//! async runtime stay where they are.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::netlink::Netlink;
use super::plan;

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

/// Sets the loopback of a network namespace up.
pub fn set_loopback_up(path: &Path) -> Result<()> {
    inside(path, || plan::set_loopback_up(&Netlink::open()?))
}
