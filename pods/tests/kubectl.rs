//! The real kubectl: the one on PATH, or the one that `KUBECTL` names.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use rrun_tests::{Need, require};
use support::Server;

struct Kubectl {
    server: Server,
    program: String,
}

impl Kubectl {
    fn new() -> Self {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        Self {
            server: Server::with_tls(),
            program,
        }
    }

    /// Runs it with words and standard input; whether it succeeded, and all that it said.
    fn run(&self, words: &str, input: &str) -> (bool, String) {
        use std::io::Write as _;
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(self.server.kubeconfig())
            .arg("--cache-dir")
            .arg(self.server.path().join("cache"))
            .args(words.split(' '))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let done = child.wait_with_output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (
            done.status.success(),
            text(&done.stdout) + &text(&done.stderr),
        )
    }

    fn ok(&self, words: &str, input: &str, want: &str) -> String {
        let (ok, said) = self.run(words, input);
        assert!(ok && said.contains(want), "kubectl {words}: {said}");
        said
    }

    fn refused(&self, words: &str, input: &str, want: &str) {
        let (ok, said) = self.run(words, input);
        assert!(!ok && said.contains(want), "kubectl {words}: {said}");
    }
}

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        ports: [{containerPort: 80}]
        livenessProbe: {httpGet: {port: 80}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
";

#[test]
fn a_day_with_kubectl() {
    require!(Need::Program("kubectl"));
    let k = Kubectl::new();
    k.ok("version", "", "v1.36");
    k.ok("get namespaces", "", "kube-system");
    k.ok("apply -f -", MANIFEST, "deployment.apps/web created");
    k.ok("apply -f -", MANIFEST, "deployment.apps/web unchanged");
    k.ok(
        "apply -f -",
        &MANIFEST.replace("web:1", "web:2"),
        "deployment.apps/web configured",
    );
    k.ok("get deploy,svc -o wide", "", "web:2");
    k.ok("describe deployment web", "", "RollingUpdate");
    k.ok("scale deployment web --replicas=2", "", "scaled");
    k.ok("get deployment web -o jsonpath={.spec.replicas}", "", "2");
    k.ok("set image deployment/web web=web:3", "", "image updated");
    k.ok("label deployment web tier=front", "", "labeled");
    k.ok("annotate svc web note=x", "", "annotated");
    k.ok("get all --show-labels", "", "tier=front");
    k.ok("explain deployment.spec.strategy", "", "rollingUpdate");
    k.ok("api-resources", "", "endpointslices");
    k.ok("auth can-i delete pods", "", "yes");
    k.ok("create configmap conf --from-literal=a=b", "", "created");
    k.ok("create secret generic s --from-literal=p=q", "", "created");
    k.ok("get secret s -o yaml", "", "p: cQ==");
    k.ok("create namespace other", "", "created");
    k.ok("delete namespace other --timeout=20s", "", "deleted");
    k.ok("delete deployment,service web --timeout=20s", "", "deleted");
    k.refused("get deployment web", "", "NotFound");
}

#[test]
fn server_side_apply_with_kubectl() {
    require!(Need::Program("kubectl"));
    let k = Kubectl::new();
    k.ok(
        "apply --server-side -f -",
        MANIFEST,
        "deployment.apps/web serverside-applied",
    );
    k.ok(
        "apply --server-side -f -",
        MANIFEST,
        "deployment.apps/web serverside-applied",
    );
    k.ok("scale deployment web --replicas=1", "", "scaled");
    k.refused("apply --server-side -f -", MANIFEST, ".spec.replicas");
    k.ok(
        "apply --server-side --force-conflicts -f -",
        MANIFEST,
        "serverside-applied",
    );
    k.ok("get deployment web -o jsonpath={.spec.replicas}", "", "0");
    let less = MANIFEST.replace("        livenessProbe: {httpGet: {port: 80}}\n", "");
    k.ok("apply --server-side -f -", &less, "serverside-applied");
    let left = k.ok("get deployment web -o yaml", "", "image: web:1");
    assert!(!left.contains("livenessProbe"), "{left}");
}

#[test]
fn kubectl_shows_what_is_wrong_with_a_manifest() {
    require!(Need::Program("kubectl"));
    let k = Kubectl::new();
    let typo = MANIFEST.replace("image:", "imagee:");
    k.refused("apply -f -", &typo, "imagee");
    let invalid = MANIFEST.replace("app: web}}\n    spec", "app: other}}\n    spec");
    k.refused("apply -f -", &invalid, "does not match template");
    k.refused(
        "create -f -",
        &MANIFEST.replace("name: web, labels", "name: Web_, labels"),
        "RFC 1123",
    );
}
