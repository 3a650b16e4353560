//! Handshakes, events, faults: what the shim is to containerd.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{SHIM, Shim, command, kill_by_pid, runs, runtimes};
use rrun_task_api::client::Client;
use rrun_task_api::exit::Exit;
use rrun_task_api::frame;
use rrun_task_api::pb::bootstrap::{BootstrapParams, BootstrapResult};
use rrun_task_api::pb::events_service::ForwardRequest;
use rrun_task_api::pb::{sandbox, shim, task, ttrpc};
use rrun_task_api::prost::Message;
use rrun_task_api::service::SANDBOX;
use rrun_tests::{Bundle, Need, require, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn shut_down(address: &str) -> u32 {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let client = Client::connect(address).await.unwrap();
        let pid = client
            .connect_task(&task::ConnectRequest::default())
            .await
            .unwrap()
            .shim_pid;
        client
            .shutdown(&task::ShutdownRequest::default())
            .await
            .unwrap();
        pid
    })
}

#[test]
fn an_old_containerd_reads_the_bare_address_and_a_second_start_finds_the_first() {
    let bundle = Bundle::new(&["true"]);
    let dir = bundle.write();
    let start = || {
        let output = command(dir, "old")
            .args(["-address", "/nowhere.sock", "start"])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let address = start();
    assert_eq!(address, format!("unix://{}/shim.sock", dir.display()));
    assert_eq!(address, fs::read_to_string(dir.join("address")).unwrap());
    assert_eq!(start(), address);
    let pid = shut_down(&address);
    wait_until("the shim's end", LIMIT, || !runs(pid));
    assert!(!dir.join("shim.sock").exists());
}

#[test]
fn a_new_containerd_speaks_protobuf_both_ways() {
    let bundle = Bundle::new(&["true"]);
    let dir = bundle.write();
    let sockets = tempfile::tempdir().unwrap();
    let params = BootstrapParams {
        instance_id: "new".into(),
        namespace: "test".into(),
        socket_dir: Some(sockets.path().display().to_string()),
        ..Default::default()
    };
    let mut child = command(dir, "new")
        .arg("start")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&params.encode_to_vec())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let result = BootstrapResult::decode(&output.stdout[..]).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    let path = result.address.strip_prefix("unix://").unwrap();
    assert!(Path::new(path).starts_with(sockets.path()), "{path}");
    let pid = shut_down(&result.address);
    wait_until("the shim's end", LIMIT, || !runs(pid));
    assert!(fs::read_dir(sockets.path()).unwrap().next().is_none());
}

/// containerd's events service: answers every Forward and hands on its topic.
fn events_service(path: &Path) -> Receiver<(String, String)> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                buffer.extend_from_slice(&chunk[..length]);
                while let Some(frame) = frame::take(&mut buffer).unwrap() {
                    let request = ttrpc::Request::decode(&frame.data[..]).unwrap();
                    let forward = ForwardRequest::decode(&request.payload[..]).unwrap();
                    let envelope = forward.envelope.unwrap();
                    let kind = envelope.event.unwrap().type_url;
                    stream
                        .write_all(&frame::response(frame.stream, Ok(Vec::new())))
                        .unwrap();
                    let _ = sender.send((envelope.topic, kind));
                }
            }
        }
    });
    receiver
}

#[test]
fn events_come_in_order_even_from_before_containerd_was_back() {
    require!(Need::Root);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("events.sock");
    let shim = {
        // The shim inherits its environment through `start`.
        let bundle = Bundle::new(&["sh", "-c", "exit 3"]);
        let runtime = runtimes()[0].clone();
        Shim::start_in(bundle, &runtime, |start| {
            start.env("TTRPC_ADDRESS", &socket);
        })
    };
    shim.run();
    assert_eq!(shim.wait(""), 3);
    let events = events_service(&socket);
    shim.delete("").unwrap();
    let topics: Vec<_> = (0..4)
        .map(|_| events.recv_timeout(LIMIT * 10).unwrap())
        .collect();
    let expected = [
        ("create", "Create"),
        ("start", "Start"),
        ("exit", "Exit"),
        ("delete", "Delete"),
    ]
    .map(|(topic, kind)| {
        (
            format!("/tasks/{topic}"),
            format!("containerd.events.Task{kind}"),
        )
    });
    assert_eq!(topics, expected);
    let request = task::ShutdownRequest {
        id: shim.id.clone(),
        now: false,
    };
    shim.call(shim.client.shutdown(&request)).unwrap();
    let pid = shim.shim_pid();
    wait_until("the shim's end", LIMIT, || !runs(pid));
}

#[test]
fn execs_and_kills_for_memory_are_told_in_order() {
    require!(Need::Root);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("events.sock");
    let events = events_service(&socket);
    let mut bundle = Bundle::new(&["sh", "-c", "read x; x=a; while :; do x=$x$x; done"]);
    bundle.config["linux"]["resources"] =
        serde_json::json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let runtime = runtimes()[0].clone();
    let shim = Shim::start_in(bundle, &runtime, |start| {
        start.env("TTRPC_ADDRESS", &socket);
    });
    let mut request = shim.create_request();
    request.stdin = "attach:".into();
    shim.run_as(&request);
    let (id, mut attached) = shim.exec(&["true"], false, false);
    attached.read_to_end();
    shim.wait(&id);
    shim.delete(&id).unwrap();
    let attach = shim::AttachRequest {
        id: shim.id.clone(),
        stdin: true,
        ..Default::default()
    };
    let path = shim.call(shim.client.attach(&attach)).unwrap().path;
    common::Attached::to(&path).send(b"go\n");
    assert_eq!(shim.wait(""), 137);
    let topics: Vec<_> = (0..7)
        .map(|_| events.recv_timeout(LIMIT * 10).unwrap().0)
        .collect();
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "oom",
        "exit",
    ]
    .map(|topic| format!("/tasks/{topic}"));
    assert_eq!(topics, expected);
    shim.finish();
}

#[test]
fn delete_cleans_up_after_a_shim_that_was_killed() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["sh", "-c", "sleep 1000 & sleep 1000"]);
        let other = tempfile::tempdir().unwrap();
        rrun_tests::busybox_rootfs(other.path());
        let mut request = shim.create_request();
        request.rootfs = vec![rrun_task_api::pb::types::Mount {
            r#type: "bind".into(),
            source: other.path().display().to_string(),
            options: vec!["rbind".into()],
            ..Default::default()
        }];
        let pid = shim.run_as(&request);
        kill_by_pid(&shim.shim_pid().to_string(), "KILL");
        wait_until("the shim's end", LIMIT, || !runs(shim.shim_pid()));
        assert!(runs(pid), "the container outlives its shim");
        let delete = || {
            let output = command(&shim.dir, &shim.id).arg("delete").output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            task::DeleteResponse::decode(&output.stdout[..]).unwrap()
        };
        let response = delete();
        assert_eq!((response.pid, response.exit_status), (pid, 137));
        wait_until("the container's end", LIMIT, || !runs(pid));
        shim.assert_clean();
        // Again is as good as once.
        delete();
        fs::remove_file(shim.dir.join("shim.pid")).unwrap();
    }
}

#[test]
fn delete_tells_the_recorded_exit_of_a_container_that_ended_before_its_shim() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", "exit 42"]);
    let pid = shim.run();
    assert_eq!(shim.wait(""), 42);
    kill_by_pid(&shim.shim_pid().to_string(), "KILL");
    let output = command(&shim.dir, &shim.id).arg("delete").output().unwrap();
    let response = task::DeleteResponse::decode(&output.stdout[..]).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 42));
    assert_eq!(Exit::read(&shim.dir).unwrap().unwrap().code, 42);
    shim.assert_clean();
    fs::remove_file(shim.dir.join("shim.pid")).unwrap();
}

#[test]
fn a_callers_end_does_not_end_what_it_called_for() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    let request = ttrpc::Request {
        service: "containerd.task.v2.Task".into(),
        method: "Create".into(),
        payload: shim.create_request().encode_to_vec(),
        ..Default::default()
    };
    let mut caller = UnixStream::connect(shim.dir.join("shim.sock")).unwrap();
    caller
        .write_all(&frame::request(1, &request).unwrap())
        .unwrap();
    // Gone before the answer; the next one finds the container.
    std::thread::sleep(Duration::from_millis(5));
    drop(caller);
    let start = task::StartRequest {
        id: shim.id.clone(),
        ..Default::default()
    };
    wait_until("a container that can be started", LIMIT, || {
        shim.call(shim.client.start(&start)).is_ok()
    });
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn a_sandbox_holds_several_containers_in_one_shim() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    let sandbox_id = "pod".to_owned();
    let limit = Some(LIMIT * 10);
    let create = sandbox::CreateSandboxRequest {
        sandbox_id: sandbox_id.clone(),
        ..Default::default()
    };
    shim.call(
        shim.client
            .call::<_, ()>(SANDBOX, "CreateSandbox", &create, limit),
    )
    .unwrap();
    let start = sandbox::StartSandboxRequest {
        sandbox_id: sandbox_id.clone(),
    };
    let started: sandbox::StartSandboxResponse = shim
        .call(shim.client.call(SANDBOX, "StartSandbox", &start, limit))
        .unwrap();
    assert_eq!(started.pid, shim.shim_pid());
    shim.run();
    // A second container of the pod, in a bundle of its own.
    let mut other = Bundle::new(&["sh", "-c", "exit 4"]);
    let id = format!("{}-b", shim.id);
    other.config["linux"]["cgroupsPath"] = format!("/{id}").into();
    let mut request = shim.create_request();
    request.id.clone_from(&id);
    request.bundle = other.write().display().to_string();
    shim.call(shim.client.create(&request)).unwrap();
    let request = task::StartRequest {
        id: id.clone(),
        ..Default::default()
    };
    shim.call(shim.client.start(&request)).unwrap();
    let wait = task::WaitRequest {
        id: id.clone(),
        ..Default::default()
    };
    assert_eq!(
        shim.call(shim.client.wait(&wait, limit))
            .unwrap()
            .exit_status,
        4
    );
    let down = sandbox::ShutdownSandboxRequest {
        sandbox_id: sandbox_id.clone(),
    };
    let early = shim.call(
        shim.client
            .call::<_, ()>(SANDBOX, "ShutdownSandbox", &down, limit),
    );
    assert!(
        early
            .unwrap_err()
            .to_string()
            .contains("still has 2 containers")
    );
    let delete = task::DeleteRequest {
        id,
        ..Default::default()
    };
    assert_eq!(
        shim.call(shim.client.delete(&delete)).unwrap().exit_status,
        4
    );
    // Stopping the sandbox ends what is left in it.
    let stop = sandbox::StopSandboxRequest {
        sandbox_id,
        timeout_secs: 10,
    };
    shim.call(
        shim.client
            .call::<_, ()>(SANDBOX, "StopSandbox", &stop, limit),
    )
    .unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.delete("").unwrap();
    shim.call(
        shim.client
            .call::<_, ()>(SANDBOX, "ShutdownSandbox", &down, limit),
    )
    .unwrap();
    let pid = shim.shim_pid();
    wait_until("the shim's end", LIMIT, || !runs(pid));
    shim.assert_clean();
}

#[test]
fn hostile_bytes_end_their_connection_and_nothing_else() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    let socket = shim.dir.join("shim.sock");
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![0xff; 100],
        vec![0, 0, 0, 0, 0, 0, 0, 1, 9, 0],
        b"\x00\x00\x00\x04\x00\x00\x00\x01\x01\x00\xff\xff\xff\xff".to_vec(),
        vec![0; 3],
    ];
    for method in ["Create", "Wait", "Nothing"] {
        let request = ttrpc::Request {
            service: "containerd.task.v3.Task".into(),
            method: method.into(),
            payload: vec![0xff; 50],
            ..Default::default()
        };
        garbage.push(frame::request(1, &request).unwrap());
    }
    for bytes in garbage {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&bytes).unwrap();
        drop(stream);
    }
    let request = shim::StatusRequest {
        id: shim.id.clone(),
    };
    assert_eq!(shim.call(shim.client.status(&request)).unwrap().id, shim.id);
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn bad_command_lines_say_what_is_wrong_in_one_line() {
    for (args, word) in [
        (&["start"][..], "-namespace"),
        (&["-namespace", "n", "-id", "a/b", "start"], "a/b"),
        (&["-namespace", "n", "-id", "a", "fly"], "fly"),
    ] {
        let output = Command::new(SHIM).args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(word), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
