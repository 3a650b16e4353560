//! The seccomp listener's way to its agent (runtime-spec,
//! config-linux.md#containerprocessstate).

use crate::hooks::State;
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxSeccomp;
use std::os::fd::{AsFd, BorrowedFd};

/// What the agent is told of the process.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a State<'a>,
}

/// Takes descriptor `number` of process `pid` and sends it to the profile's
/// `listenerPath`, with the state of the container.
pub fn send_listener(
    seccomp: &LinuxSeccomp,
    state: &State<'_>,
    pid: i32,
    pidfd: BorrowedFd<'_>,
    number: i32,
) -> Result<()> {
    let Some(path) = seccomp.listener_path() else {
        let why = "is missing: SCMP_ACT_NOTIFY needs an agent to ask";
        return Err(Error::config("linux.seccomp.listenerPath", why));
    };
    let listener = rrun_sys::process::pidfd_getfd(pidfd, number)?;
    let message = ContainerProcessState {
        oci_version: state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: seccomp.listener_metadata().as_deref(),
        state,
    };
    let message =
        serde_json::to_vec(&message).expect("a state has no map with other keys than text");
    let send = || {
        let agent = rrun_sys::socket::connect_unix(path)?;
        rrun_sys::socket::send_fds(agent.as_fd(), &message, &[listener.as_fd()])
    };
    send().with_context(|| format!("failed to connect with seccomp agent {}", path.display()))
}
