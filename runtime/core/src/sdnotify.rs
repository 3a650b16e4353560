//! The container's word to systemd that it is ready (sd_notify(3)).
//!
//! With NOTIFY_SOCKET in the caller's environment the container gets a socket of its own, in a
//! directory of its state that is mounted at /run/notify. `run` and `start` listen to it, and pass a
//! READY message on, with the container's first process as the one that systemd is to watch.

use crate::container::Container;
use crate::{Context, Error, Result};
use oci_spec::runtime::{MountBuilder, Spec};
use rrun_sys::{fd, path, socket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below the container's directory.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the container finds it.
const INSIDE: &str = "/run/notify";
/// How long systemd may take to have read what it was told.
const BARRIER: Duration = Duration::from_secs(30);

/// The socket that the caller was given.
pub fn host() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET")
        .filter(|socket| !socket.is_empty())
        .map(PathBuf::from)
}

/// Adds the mount and the variable to the configuration of container `id` below `root`.
pub fn add_to(spec: &mut Spec, root: &Path, id: &str) -> Result<()> {
    let root = std::path::absolute(root).map_err(|e| Error::file("resolve", root, e))?;
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    let mount = MountBuilder::default()
        .destination(INSIDE)
        .source(root.join(id).join(DIRECTORY))
        .options(options)
        .build()
        .map_err(|e| Error::config("mounts", e.to_string()))?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let variable = format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}");
        process.env_mut().get_or_insert_default().push(variable);
    }
    Ok(())
}

/// Makes the directory that is mounted.
pub fn make_directory(dir: &Path) -> Result<()> {
    let dir = dir.join(DIRECTORY);
    std::fs::create_dir(&dir).map_err(|e| Error::file("mkdir", &dir, e))?;
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))
        .map_err(|e| Error::file("chmod", &dir, e))
}

/// A container's socket, listened to.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    host: PathBuf,
}

impl Listener {
    /// Opens the socket of `container`; `None` where it was created without one, or nobody asks.
    pub fn open(container: &Container) -> Result<Option<Self>> {
        let dir = container.dir.join(DIRECTORY);
        let Some(host) = host().filter(|_| dir.is_dir()) else {
            return Ok(None);
        };
        let open = path::open(&dir, path::O_PATH | path::O_DIRECTORY)?;
        // By way of the descriptor: the whole path may be too long for a socket's address.
        let short = format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd());
        let failed = |call, e| Error::file(call, dir.join(SOCKET), e);
        let socket = UnixDatagram::bind(&short).map_err(|e| failed("bind", e))?;
        std::fs::set_permissions(&short, PermissionsExt::from_mode(0o777))
            .map_err(|e| failed("chmod", e))?;
        Ok(Some(Self { socket, host }))
    }

    /// Waits for READY, and passes it on; or for the end of the container.
    pub fn relay(&self, container: &Container) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let Some(init) = container.init()? else {
                return Ok(());
            };
            let [told, ended] = fd::wait_any([Some(self.socket.as_fd()), Some(init.as_fd())])?;
            if !told {
                if ended {
                    return Ok(());
                }
                continue;
            }
            let length = self
                .socket
                .recv(&mut buffer)
                .map_err(|e| Error::file("read", SOCKET, e))?;
            if let Some(ready) = ready(&buffer[..length]) {
                return self
                    .tell(&ready, container.record.init_process_pid)
                    .with_context(|| format!("notify {}", self.host.display()));
            }
        }
    }

    fn tell(&self, ready: &str, pid: i32) -> Result<()> {
        let client = connect(&self.host).map_err(|e| Error::file("connect", &self.host, e))?;
        for line in [format!("{ready}\n"), format!("MAINPID={pid}\n")] {
            client
                .send(line.as_bytes())
                .map_err(|e| Error::file("write", &self.host, e))?;
        }
        // Its end is closed when all before it has been read.
        let (read, write) = fd::pipe()?;
        socket::send_fds(client.as_fd(), b"BARRIER=1", &[write.as_fd()])?;
        drop(write);
        if !fd::wait_readable(read.as_fd(), Some(BARRIER))? {
            crate::warning!("{} does not answer the barrier", self.host.display());
        }
        Ok(())
    }
}

fn connect(host: &Path) -> std::io::Result<UnixDatagram> {
    let client = UnixDatagram::unbound()?;
    match host.to_string_lossy().strip_prefix('@') {
        Some(name) => client.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => client.connect(host)?,
    }
    Ok(client)
}

/// The READY line of a message.
fn ready(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let mut lines = text.lines();
    lines
        .find(|line| line.starts_with("READY="))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_is_passed_on() {
        assert_eq!(ready(b"STATUS=x\nREADY=1\n").as_deref(), Some("READY=1"));
        assert_eq!(ready(b"MAINPID=1\nWATCHDOG=1"), None);
        assert_eq!(ready(b"XREADY=1"), None);
    }

    #[test]
    fn the_configuration_gets_a_mount_and_a_variable() {
        let text = r#"{"ociVersion":"1.3.0","process":{"cwd":"/","user":{"uid":0,"gid":0}}}"#;
        let mut spec: Spec = serde_json::from_str(text).unwrap();
        add_to(&mut spec, Path::new("/run/x"), "c1").unwrap();
        let mount = &spec.mounts().as_ref().unwrap()[0];
        assert_eq!(
            mount.source().as_deref(),
            Some(Path::new("/run/x/c1/notify"))
        );
        let env = spec.process().as_ref().unwrap().env().as_ref().unwrap();
        assert!(env.contains(&"NOTIFY_SOCKET=/run/notify/notify.sock".to_owned()));
    }
}
