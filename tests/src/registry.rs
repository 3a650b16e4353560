//! A real registry (Debian's docker-registry) on a loopback port of its own.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{find_program, wait_until};

/// A running `docker-registry` over plain HTTP, with its own storage, ended on drop.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Registry {
    /// Starts a registry and waits until it answers.
    ///
    /// # Panics
    ///
    /// Where `docker-registry` is missing (guard with
    /// `require!(Need::Program("docker-registry"))`) or does not start.
    pub fn start() -> Self {
        let program = find_program("docker-registry").expect("docker-registry is installed");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            dir.path().join("data").display()
        );
        fs::write(&config, text).expect("the registry's configuration is written");
        let child = serve(&program, &config);
        let registry = Self { child, port, dir };
        registry.await_it();
        registry
    }

    fn await_it(&self) {
        wait_until("the registry to listen", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
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
        let program = find_program("docker-registry").expect("docker-registry is installed");
        self.child = serve(&program, &self.dir.path().join("config.yml"));
        self.await_it();
    }

    /// `127.0.0.1:<port>`, the host part of an image reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where the registry stores blobs, for tests that break them.
    pub fn storage(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }
}

fn serve(program: &std::path::Path, config: &std::path::Path) -> Child {
    Command::new(program)
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}
