//! A registry with TLS: trusted by its authority, and not without it.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;

use kit::Tool;
use rrun_tests::{Need, Registry, require};

/// A registry with a certificate of its own authority, which is written to `authority.pem`.
fn secure(tool: &Tool) -> Registry {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (authority, secret) = (tool.path("authority.pem"), tool.path("key.pem"));
    fs::write(&authority, certificate.pem()).unwrap();
    fs::write(&secret, key.serialize_pem()).unwrap();
    Registry::start_tls(&authority, &secret)
}

#[test]
fn https_registries_are_verified() {
    require!(Need::Root, Need::Program("docker-registry"));
    let tool = Tool::new();
    let registry = secure(&tool);
    let name = format!("{}/app:1", registry.host());
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
