//! A real registry (Debian's docker-registry) on a loopback port of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Port, find_program, wait_until};

/// Longest time until a registry listens, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports that are tried.
const TRIES: usize = 10;

/// A running `docker-registry` with its own storage, ended on drop.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: Port,
    name: &'static str,
    dir: TempDir,
}

impl Registry {
    /// Starts a registry over plain HTTP and waits until it listens.
    ///
    /// # Panics
    ///
    /// Where `docker-registry` is missing (guard with
    /// `require!(Need::Program("docker-registry"))`) or does not start.
    pub fn start() -> Self {
        Self::start_on_a_port("127.0.0.1", "")
    }

    /// The same with TLS, for `localhost`, which the certificate has to name. Both files are PEM.
    ///
    /// # Panics
    ///
    /// As [`Registry::start`].
    pub fn start_tls(certificate: &Path, key: &Path) -> Self {
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!(", tls: {{certificate: {certificate}, key: {key}}}");
        Self::start_on_a_port("localhost", &tls)
    }

    fn start_on_a_port(name: &'static str, http: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for _ in 0..TRIES {
            let port = Port::take();
            let number = port.number();
            let text = format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '127.0.0.1:{number}', secret: kept{http}}}\n",
                dir.path().join("data").display()
            );
            fs::write(dir.path().join("config.yml"), text)
                .expect("the registry's configuration is written");
            if let Some(child) = serve(dir.path()) {
                return Self {
                    child,
                    port,
                    name,
                    dir,
                };
            }
        }
        panic!("docker-registry does not start: {}", log(dir.path()));
    }

    /// Kills it, so that every connection breaks.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Registry::kill`], on the same port with the same storage.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    pub fn start_again(&mut self) {
        match serve(self.dir.path()) {
            Some(child) => self.child = child,
            None => panic!(
                "docker-registry does not start again: {}",
                log(self.dir.path())
            ),
        }
    }

    /// `127.0.0.1:<port>` or `localhost:<port>`, the host part of an image reference.
    pub fn host(&self) -> String {
        format!("{}:{}", self.name, self.port.number())
    }

    /// Where the registry stores blobs, for tests that break them.
    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// Starts the registry and waits until it says that it listens: that somebody answers at its port
/// would not tell who. `None` where it ended instead, as it does when the port is taken.
fn serve(dir: &Path) -> Option<Child> {
    let program = find_program("docker-registry").expect("docker-registry is installed");
    let output = File::create(dir.join("log")).expect("the registry's log is made");
    let mut child = Command::new(program)
        .arg("serve")
        .arg(dir.join("config.yml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .expect("docker-registry starts");
    let mut ended = false;
    wait_until("the registry to listen", PATIENCE, || {
        ended = child.try_wait().is_ok_and(|status| status.is_some());
        ended || log(dir).contains("listening on ")
    });
    (!ended).then_some(child)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
