//! What an operator meets: the configuration, the service manager, metrics, runtime handlers.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::{Cri, LIMIT, create, remove_pod, script, start, wait_exited};
use rrun_cri_api::v1;
use rrun_tests::{Need, require, wait_until};

fn rrun_cri() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rrun-cri"))
}

#[test]
fn the_default_configuration_is_a_good_one_and_a_bad_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cri.toml");
    let printed = rrun_cri().args(["config", "default"]).output().unwrap();
    assert!(printed.status.success());
    fs::write(&file, &printed.stdout).unwrap();
    let check = |flags: &[&str]| {
        let mut command = rrun_cri();
        command.args([
            "config",
            "check",
            "--runtime",
            "/bin/sh",
            "--shim",
            "/bin/sh",
        ]);
        command
            .arg("--config")
            .arg(&file)
            .args(flags)
            .output()
            .unwrap()
    };
    let good = check(&["--bridge", "other0"]);
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    assert!(String::from_utf8_lossy(&good.stdout).contains("bridge = \"other0\""));
    let text = String::from_utf8(printed.stdout).unwrap();
    fs::write(&file, text.replace("enable = true", "enable = \"yes\"")).unwrap();
    let line = 1 + text.lines().position(|l| l == "enable = true").unwrap();
    let bad = check(&[]);
    assert!(!bad.status.success());
    let error = String::from_utf8_lossy(&bad.stderr).into_owned();
    let place = format!("rrun-cri: {}:{line}: nri.enable: ", file.display());
    assert!(error.starts_with(&place), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// What a GET of /metrics on a unix socket gives.
fn metrics(socket: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_service_manager_hands_over_the_socket_and_is_told_when_it_is_served() {
    require!(Need::Root);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let notify = UnixDatagram::bind(path("notify")).unwrap();
    notify.set_read_timeout(Some(kit::patience())).unwrap();
    let handed = UnixListener::bind(path("handed.sock")).unwrap();
    let config = format!(
        "root = {:?}\nstate = {:?}\nlisten = \"unix:///handed\"\nmetrics_listen = \"unix://{}\"\n\
         [images]\nstore = {:?}\n[nri]\nenable = false\n[network]\ncni_conf_dir = {:?}\n",
        path("root"),
        path("state"),
        path("metrics.sock").display(),
        path("images"),
        path("no-cni"),
    );
    fs::write(path("cri.toml"), &config).unwrap();
    // The shell gives the socket the number under which it is looked for.
    let shell = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
    let mut daemon = Command::new("/bin/sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_rrun-cri"), "--config"])
        .arg(path("cri.toml"))
        .arg("--runtime")
        .arg(rrun_tests::program("rrun"))
        .arg("--shim")
        .arg(rrun_tests::program("containerd-shim-rrun-v2"))
        .env("NOTIFY_SOCKET", path("notify"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(handed)))
        .stderr(fs::File::create(path("log")).unwrap())
        .spawn()
        .unwrap();
    let told = || {
        let mut buffer = [0; 64];
        let count = notify.recv(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(
        told(),
        "READY=1",
        "{}",
        fs::read_to_string(path("log")).unwrap()
    );
    let mut client = kit::connect(path("handed.sock")).await;
    client.version(v1::VersionRequest::default()).await.unwrap();
    let page = metrics(&path("metrics.sock"));
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let line = "rrun_cri_rpc_duration_seconds_count{rpc=\"version\",code=\"Ok\"} 1";
    assert!(page.contains(line), "{page}");
    // A handler that is added counts from the reload on; a broken file changes nothing.
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    for (text, known) in [
        (
            format!("{config}[runtimes.other]\npath = \"/bin/sh\"\n"),
            true,
        ),
        (format!("{config}nonsense = 1\n"), true),
        (config.clone(), false),
    ] {
        fs::write(path("cri.toml"), text).unwrap();
        signal(nix::sys::signal::Signal::SIGHUP);
        assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(told(), "READY=1");
        let request = v1::StatusRequest { verbose: true };
        let status = client.status(request).await.unwrap().into_inner();
        assert_eq!(status.info["config"].contains("\"other\""), known);
    }
    let log = fs::read_to_string(path("log")).unwrap();
    assert!(log.contains("nonsense: unknown field"), "{log}");
    signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
    assert!(daemon.wait().unwrap().success());
    assert!(
        path("handed.sock").exists(),
        "a socket of the manager's is not ours to remove"
    );
}

#[tokio::test]
async fn a_runtime_handler_runs_containers_by_another_runtime() {
    require!(Need::Root, Need::Program("runc"));
    let runc = Command::new("sh")
        .args(["-c", "command -v runc"])
        .output()
        .unwrap();
    let runc = String::from_utf8(runc.stdout).unwrap();
    let config = format!("[runtimes.runc]\npath = {:?}\n", runc.trim());
    let cri = Cri::start_with(&config);
    let mut client = cri.client().await;
    let pod_config = cri.pod("handler", false);
    let request = |handler: &str| v1::RunPodSandboxRequest {
        config: Some(pod_config.clone()),
        runtime_handler: handler.into(),
    };
    let refused = client.run_pod_sandbox(request("kata")).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "runtime_handler \"kata\": known are rrun, runc"
    );
    let id = client.run_pod_sandbox(request("runc")).await.unwrap();
    let pod = (id.into_inner().pod_sandbox_id, pod_config);
    let text = "cat /proc/mounts | grep ' / '; sleep 1000";
    let container = create(&mut client, &pod, script("main", text))
        .await
        .unwrap();
    start(&mut client, &container).await.unwrap();
    let log = cri.path("logs/main.log");
    wait_until("output", LIMIT, || {
        fs::read_to_string(&log).is_ok_and(|t| t.contains("stdout F overlay / overlay"))
    });
    let state = cri.path("state/runtimes/runc/rrun-cri").join(&container);
    assert!(state.join("state.json").exists(), "runc has no state of it");
    kit::stop(&mut client, &container, 0).await;
    assert_eq!(wait_exited(&mut client, &container).await.exit_code, 137);
    remove_pod(&mut client, &pod.0).await;
    wait_until("an end without traces", Duration::from_secs(5), || {
        cri.leftovers().is_empty()
    });
}

/// Debian's shim of containerd, behind ours.
#[tokio::test]
async fn a_runtime_handler_runs_containers_by_another_shim() {
    const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
    require!(Need::Root, Need::Program("runc"), Need::Path(SHIM));
    let config = format!("[runtimes.other]\ntask_shim = {SHIM:?}\n");
    let mut cri = Cri::start_with(&config);
    let mut client = cri.client().await;
    let pod_config = cri.pod("behind", false);
    let request = v1::RunPodSandboxRequest {
        config: Some(pod_config.clone()),
        runtime_handler: "other".into(),
    };
    let id = client.run_pod_sandbox(request).await.unwrap();
    let pod = (id.into_inner().pod_sandbox_id, pod_config);
    let text = "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let main = create(&mut client, &pod, script("main", text))
        .await
        .unwrap();
    start(&mut client, &main).await.unwrap();
    let log = cri.path("logs/main.log");
    wait_until("both outputs in the log", kit::patience(), || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("stdout F out\n") && text.contains("stderr F err\n")
    });
    let told = kit::exec(&mut client, &main, "echo from exec; exit 3").await;
    assert_eq!((told.exit_code, &told.stdout[..]), (3, &b"from exec\n"[..]));
    let usage = v1::ContainerStatsRequest {
        container_id: main.clone(),
    };
    let stats = client.container_stats(usage).await.unwrap().into_inner();
    assert!(
        stats
            .stats
            .unwrap()
            .memory
            .unwrap()
            .working_set_bytes
            .is_some()
    );
    cri.kill();
    cri.restart();
    let mut client = cri.client().await;
    let told = kit::exec(&mut client, &main, "cat /proc/1/comm").await;
    assert_eq!(told.stdout, b"sh\n");
    kit::stop(&mut client, &main, 20).await;
    assert_eq!(wait_exited(&mut client, &main).await.exit_code, 7);
    // The other shim is killed: its container is over, and is told so.
    let second = kit::run(&mut client, &pod, script("second", "sleep 1000")).await;
    let bundle = cri
        .path("state/containers")
        .join(&second)
        .join("task")
        .join(&second);
    let shim = shim_in(&bundle);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(wait_exited(&mut client, &second).await.exit_code, 137);
    let failed = script("third", "true");
    let failed = v1::ContainerConfig {
        command: vec!["/no/such/program".into()],
        ..failed
    };
    let third = create(&mut client, &pod, failed).await.unwrap();
    let error = start(&mut client, &third).await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    remove_pod(&mut client, &pod.0).await;
    wait_until("an end without traces", kit::patience(), || {
        cri.leftovers().is_empty()
    });
}

/// The process that works in a bundle, which is the shim of containerd's that serves there.
fn shim_in(bundle: &std::path::Path) -> i32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let works_there = |pid: &i32| {
        let at = |what: &str| fs::read_link(format!("/proc/{pid}/{what}"));
        at("cwd").is_ok_and(|dir| dir == bundle)
            && at("exe").is_ok_and(|exe| exe.ends_with("containerd-shim-runc-v2"))
    };
    pids.into_iter()
        .find(works_there)
        .expect("no shim works in the bundle")
}
