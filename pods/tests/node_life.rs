//! What a node does beside running pods, with real ones: static pods, capsules, claims, backups,
//! eviction, and the ways in from outside.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rrun_tests::{Line, Need, PATIENCE, Port, require, wait_until};

fn pod(name: &str, command: &str, more: &str) -> String {
    let image = Line::IMAGE;
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {image}
    command: [sh, -c, \"{command}\"]
{more}"
    )
}

#[test]
fn static_pods_come_back_and_their_config_follows_the_directory() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let line = Line::start_with(&["--static-pods", "{dir}/static"]);
    let dir = line.path("static");
    fs::create_dir(&dir).unwrap();
    let config = |text: &str| {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{k: {text}}}\n"
        );
        // As an editor does: a new file, moved into place.
        fs::write(dir.join(".new"), map).unwrap();
        fs::rename(dir.join(".new"), dir.join("map.yaml")).unwrap();
    };
    config("first");
    let volume = "    volumeMounts: [{name: v, mountPath: /etc/m}]\n  volumes: [{name: v, configMap: {name: m}}]\n";
    fs::write(dir.join("web.yaml"), pod("web", "sleep 100000", volume)).unwrap();
    let node = line.get(&["nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let name = format!("web-{node}");
    line.await_ready("default", &name);
    let uid = || line.get(&["pod", &name, "-o", "jsonpath={.metadata.uid}"]);
    let reads = |text: &str| {
        let read = || line.shell("default", &name, "cat /etc/m/k").1;
        wait_until(text, PATIENCE, || read() == text);
    };
    reads("first");
    config("second");
    reads("second");
    // Broken files take nothing away.
    fs::write(dir.join("map.yaml"), "kind: [").unwrap();
    let before = uid();
    line.must(&["delete", "pod", &name]);
    wait_until("a new mirror", PATIENCE, || {
        !uid().is_empty() && uid() != before
    });
    line.await_ready("default", &name);
    reads("second");
    fs::remove_file(dir.join("web.yaml")).unwrap();
    wait_until("no pod", PATIENCE, || {
        line.get(&["pods", "-o", "name"]).is_empty()
    });
}

#[test]
fn what_a_crash_leaves_is_kept_and_the_state_is_saved_and_restored() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let mut line = Line::start();
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n";
    let volume = "    volumeMounts: [{name: v, mountPath: /data}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]\n";
    let crash = pod(
        "crash",
        "echo last words; echo x > /core; rm /bin/nc; sleep 1; exit 3",
        "",
    );
    line.apply(&format!(
        "{claim}{}{crash}",
        pod("writer", "echo kept > /data/note; sleep 100000", volume)
    ));
    line.await_ready("default", "writer");
    wait_until("a capsule", PATIENCE, || {
        line.run(&["capsule", "crash"]).status.success()
    });
    let capsule = line.must(&["capsule", "crash"]);
    for part in [
        "Exit Code:    3",
        "A /core  2 B",
        "D /bin/nc",
        "stdout F last words",
    ] {
        assert!(capsule.contains(part), "{part} in {capsule}");
    }
    assert!(
        line.must(&["describe", "pod", "crash"])
            .contains("Capsules:")
    );
    line.must(&["delete", "pod", "crash"]);
    assert!(
        line.run(&["capsule", "crash"]).status.success(),
        "it outlives its pod"
    );

    // Data outlives the pod.
    line.must(&["delete", "pod", "writer", "--wait"]);
    line.apply(&pod("reader", "sleep 100000", volume));
    line.await_ready("default", "reader");
    wait_until("the note", PATIENCE, || {
        line.shell("default", "reader", "cat /data/note").1.trim() == "kept"
    });

    let file = line.path("state.backup").display().to_string();
    line.must(&["backup", &file]);
    let root = line.path("restored").display().to_string();
    let restore = |file: &str| {
        let mut command = std::process::Command::new(rrun_tests::program("rrun-pods"));
        command.args(["--socket", "/nonexistent", "restore", file, "--root", &root]);
        command.output().unwrap()
    };
    let text = fs::read_to_string(&file).unwrap();
    let broken = line.path("broken.backup");
    fs::write(&broken, &text[..text.len() / 2]).unwrap();
    assert!(!restore(&broken.display().to_string()).status.success());
    let done = restore(&file);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    // The restored state is one that rrun-pods starts on, and finds the pod that runs.
    let uid = line.get(&["pod", "reader", "-o", "jsonpath={.metadata.uid}"]);
    line.kill_pods();
    let there = line.path("pods");
    fs::rename(there.join("state.redb"), there.join("lost.redb")).unwrap();
    fs::rename(line.path("restored/state.redb"), there.join("state.redb")).unwrap();
    line.start_pods();
    line.await_ready("default", "reader");
    assert_eq!(
        line.get(&["pod", "reader", "-o", "jsonpath={.metadata.uid}"]),
        uid
    );
}

#[test]
fn a_pod_that_asked_for_nothing_is_evicted_when_memory_lacks() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    // More than any machine has left.
    let line = Line::start_with(&["--eviction-hard", "memory.available<100%"]);
    // Before the first look or after it: without that, a pod that asked for nothing waits.
    let copes = "  tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]\n";
    line.apply(&pod("modest", "sleep 100000", copes));
    let reason = || {
        line.get(&[
            "pod",
            "modest",
            "-o",
            "jsonpath={.status.phase}/{.status.reason}",
        ])
    };
    wait_until("the eviction", PATIENCE, || reason() == "Failed/Evicted");
    let pressure = "jsonpath={.items[0].status.conditions[?(@.type==\"MemoryPressure\")].status}";
    assert_eq!(line.get(&["nodes", "-o", pressure]), "True");
    // Nothing of it runs, and nothing else of its kind comes.
    line.apply(&pod("late", "sleep 100000", ""));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        line.get(&["pod", "late", "-o", "jsonpath={.status.phase}"]),
        "Pending"
    );
}

#[test]
fn requests_count_between_pods_and_limits_of_whole_pods_hold() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let line = Line::start();
    let asks = |name: &str, cpu: &str| {
        let resources = format!("    resources: {{requests: {{cpu: {cpu}}}}}\n");
        pod(name, "sleep 100000", &resources)
    };
    let whole = "  resources: {limits: {memory: 96Mi}}\n";
    let limited = pod("whole", "sleep 100000", whole);
    line.apply(&format!(
        "{}{}{limited}",
        asks("few", "100m"),
        asks("many", "400m")
    ));
    let cgroup = |name: &str, v2: &str, v1: &str| {
        let uid = line.get(&["pod", name, "-o", "jsonpath={.metadata.uid}"]);
        let own = format!("kubepods/burstable/pod{uid}");
        let files = [
            format!("/sys/fs/cgroup/{own}/{v2}"),
            format!("/sys/fs/cgroup/{v1}/{own}/{}", file_of(v1)),
        ];
        let mut found = files.iter().map(fs::read_to_string);
        let value = found.find_map(Result::ok).unwrap_or_default();
        value.trim().parse::<u64>().unwrap_or_default()
    };
    for name in ["few", "many", "whole"] {
        line.await_ready("default", name);
    }
    let share = |name: &str| cgroup(name, "cpu.weight", "cpu");
    let memory = || cgroup("whole", "memory.max", "memory");
    wait_until("shares of 100m and 400m", PATIENCE, || {
        [[4, 16], [102, 409]].contains(&[share("few"), share("many")])
    });
    wait_until("the limit", PATIENCE, || memory() == 96 << 20);
}

/// The file of version 1 that has what a controller gives.
fn file_of(controller: &str) -> &'static str {
    match controller {
        "cpu" => "cpu.shares",
        _ => "memory.limit_in_bytes",
    }
}

/// Sends a request and gives the whole answer.
fn ask(to: SocketAddr, host: &str, path: &str) -> String {
    let Ok(mut io) = TcpStream::connect(to) else {
        return String::new();
    };
    io.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = io.write_all(request.as_bytes());
    let _ = io.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn ingress_and_load_balancers_lead_to_pods() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let held = [Port::take(), Port::take(), Port::take()];
    let [http, https, open] = held.each_ref().map(Port::number);
    let (plain, tls) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{https}"));
    let line = Line::start_with(&["--ingress-http", &plain, "--ingress-https", &tls]);
    let at = SocketAddr::from(([127, 0, 0, 1], http));
    assert!(TcpStream::connect(at).is_err(), "no Ingress, no port");
    // A program of the machine has this one.
    let own = TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = own.local_addr().unwrap().port();
    let services = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: {open}, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: taken}}
spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: {taken}, targetPort: 8080}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web}}
spec: {{rules: [{{host: web.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: {open}}}}}}}}}]}}}}]}}
"
    );
    let serve = "mkdir -p /www; echo here > /www/index.html; httpd -f -p 8080 -h /www";
    line.apply(&format!("{services}{}", pod("web", serve, "")));
    line.await_ready("default", "web");
    wait_until("the Ingress", PATIENCE, || {
        ask(at, "web.example.com", "/").ends_with("here\n")
    });
    assert!(ask(at, "other.example.com", "/").starts_with("HTTP/1.1 404"));
    assert!(ask(at, "web.example.com", "/a/../b").starts_with("HTTP/1.1 400"));
    let address = |kind: &str, name: &str| {
        line.get(&[
            kind,
            name,
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ])
    };
    let node = address("service", "web");
    assert_eq!(address("ingress", "web"), node);
    let balancer = SocketAddr::new(node.parse().unwrap(), open);
    // A machine without a network has its loopback alone, which nobody comes from.
    let alone = balancer.ip().is_loopback();
    wait_until("the balancer", PATIENCE, || {
        alone || ask(balancer, "any", "/").ends_with("here\n")
    });
    assert_eq!(
        address("service", "taken"),
        "",
        "a port of the machine is not given away"
    );
    wait_until("an event", PATIENCE, || {
        line.get(&["events"])
            .contains("a program of the machine listens on port")
    });
    // Whoever calls it comes to the program, not to the pod.
    let caller = TcpStream::connect(SocketAddr::new(node.parse().unwrap(), taken));
    assert!(caller.is_ok() && own.accept().is_ok());
    line.must(&["delete", "ingress", "web"]);
    wait_until("the port free again", PATIENCE, || {
        TcpStream::connect(at).is_err()
    });
}
