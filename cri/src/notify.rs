//! sd_notify(3) and sd_listen_fds(3), without systemd's library.

use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use anyhow::{Context, Result, bail};

/// What the service manager set, which no shim or plugin is to inherit: it would speak for us.
pub const VARIABLES: [&str; 4] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Tells the service manager, where there is one. A daemon is not stopped by a manager that
/// does not listen.
pub fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|p| !p.is_empty()) else {
        return;
    };
    let path = path.to_string_lossy().into_owned();
    if let Err(error) = send(&path, state) {
        tracing::warn!("tell the service manager at {path}: {error:#}");
    }
}

fn send(path: &str, state: &str) -> Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    let socket = UnixDatagram::unbound().context("make a socket")?;
    socket.send_to_addr(state.as_bytes(), &address.context("its address")?)?;
    Ok(())
}

/// RELOADING=1 has to come with the time of CLOCK_MONOTONIC in µs (systemd 253).
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
}

/// The socket that the service manager hands over, where it does.
pub fn listener() -> Result<Option<UnixListener>> {
    let var = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if var("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match var("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let fd = rrun_sys::fd::inherit(3).context("the socket that was handed over")?;
            let listener = UnixListener::from(fd);
            listener
                .set_nonblocking(true)
                .context("set the socket non-blocking")?;
            Ok(Some(listener))
        }
        Some(many) => bail!("LISTEN_FDS={many}: one socket is expected, for CRI"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_a_path_and_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n").display().to_string();
        let name = format!("rrun-cri-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (path.clone(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}"),
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
            ),
        ];
        for (address, socket) in sockets {
            send(&address, "READY=1").unwrap();
            let mut buffer = [0; 32];
            let count = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"READY=1");
        }
        assert!(send("/nowhere/at/all", "READY=1").is_err());
    }
}
