//! A registry with TLS: trusted by its authority, and not without it.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kit::Tool;
use rrun_tests::{Need, find_program, require, wait_until};

struct Secure {
    child: Child,
    host: String,
}

impl Secure {
    /// docker-registry with a certificate of its own authority, written to `authority`.
    fn start(tool: &Tool) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        fs::write(tool.path("authority.pem"), certificate.pem()).unwrap();
        fs::write(tool.path("key.pem"), key.serialize_pem()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: 'localhost:{port}', tls: {{certificate: {}, key: {}}}}}\n",
            tool.path("data").display(),
            tool.path("authority.pem").display(),
            tool.path("key.pem").display(),
        );
        fs::write(tool.path("config.yml"), config).unwrap();
        let child = Command::new(find_program("docker-registry").unwrap())
            .arg("serve")
            .arg(tool.path("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let secure = Self {
            child,
            host: format!("localhost:{port}"),
        };
        wait_until("the registry to listen", Duration::from_secs(10), || {
            std::net::TcpStream::connect(&secure.host).is_ok()
        });
        secure
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn https_registries_are_verified() {
    require!(Need::Root, Need::Program("docker-registry"));
    let tool = Tool::new();
    let registry = Secure::start(&tool);
    let name = format!("{}/app:1", registry.host);
    let id = tool.build(&name);
    let authority = tool.path("authority.pem");
    let authority = authority.to_str().unwrap();
    assert!(
        tool.fails(&["push", "--quiet", &name])
            .contains("certificate")
    );
    tool.ok(&["push", "--quiet", "--ca-file", authority, &name]);
    tool.ok(&["remove", &name]);
    assert!(
        tool.fails(&["pull", "--quiet", &name])
            .contains("certificate")
    );
    assert_eq!(
        tool.ok(&["pull", "--quiet", "--ca-file", authority, &name]),
        id
    );
}
