//! The seccomp listener's way to its agent (runtime-spec,
//! config-linux.md#containerprocessstate).

use crate::seccomp::Filter;
use crate::{Context, Error, Result};
use std::os::fd::{AsFd, OwnedFd};

/// Sends the listener of `filter` to its `listenerPath`, with the state of the
/// process. The descriptor of that socket was opened before the root changed.
pub fn send_listener(filter: &Filter, listener: OwnedFd) -> Result<()> {
    let Some(target) = &filter.listener else {
        return Err(Error::config(
            "linux.seccomp.listenerPath",
            "is missing for SCMP_ACT_NOTIFY",
        ));
    };
    let _ = (target, listener.as_fd());
    Err(Error::Unsupported(
        "seccomp listeners are not there yet".into(),
    ))
    .with_context(|| format!("send seccomp listener to {}", target.path.display()))
}
