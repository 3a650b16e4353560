//! kill -9 of the daemon, at rest and in the middle of things.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kit::wait_exited;
use kit::{Client, Cri, LIMIT, create, pid, remove_pod, run, run_pod, script, start, status};
use rrun_cri_api::v1;
use rrun_tests::{Need, Port, require, wait_until};

fn lines(path: &std::path::Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn containers_outlive_the_daemon_and_are_found_again() {
    require!(Need::Root);
    let mut cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "outlive").await;
    let tick = "while :; do echo tick; sleep 0.1; done";
    let runs = run(&mut client, &pod, script("runs", tick)).await;
    let ends = run(&mut client, &pod, script("ends", "sleep 1; exit 9")).await;
    let idle = create(&mut client, &pod, script("idle", "exit 0"))
        .await
        .unwrap();
    let before = pid(&mut client, &runs).await;
    cri.kill();
    let log = cri.path("logs/runs.log");
    let seen = lines(&log);
    wait_until("the log to grow without a daemon", LIMIT, || {
        lines(&log) > seen + 2
    });
    let exit = cri.path("state/containers").join(&ends).join("exit.json");
    wait_until("an exit without a daemon", LIMIT, || exit.exists());
    cri.restart();
    let mut client = cri.client().await;
    assert_eq!(pid(&mut client, &runs).await, before);
    let now = status(&mut client, &runs).await;
    assert_eq!(now.state(), v1::ContainerState::ContainerRunning);
    let end = status(&mut client, &ends).await;
    assert_eq!(
        (end.state(), end.exit_code),
        (v1::ContainerState::ContainerExited, 9)
    );
    // What was created before can be started after.
    start(&mut client, &idle).await.unwrap();
    assert_eq!(wait_exited(&mut client, &idle).await.exit_code, 0);
    // And what runs can still be watched to its end.
    kit::stop(&mut client, &runs, 0).await;
    assert_eq!(status(&mut client, &runs).await.exit_code, 137);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// Begins an exec at a URL and gives the status line and what comes with it.
fn begin_exec(url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_before_a_restart_says_so_and_a_new_one_works() {
    require!(Need::Root);
    // The same again after the restart: by another one an old URL leads nowhere at all.
    let port = Port::take();
    let mut cri = Cri::start_with(&format!(
        "stream_listen = \"127.0.0.1:{}\"\n",
        port.number()
    ));
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "urls").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let request = v1::ExecRequest {
        container_id: id,
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let old = client.exec(request.clone()).await.unwrap().into_inner().url;
    cri.kill();
    cri.restart();
    let mut client = cri.client().await;
    let refused = begin_exec(&old);
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    let new = client.exec(request).await.unwrap().into_inner().url;
    let begun = begin_exec(&new);
    assert!(begun.starts_with("HTTP/1.1 101"), "{begun}");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn an_exit_whose_shim_was_killed_is_not_taken_for_a_success() {
    require!(Need::Root);
    let mut cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "orphan").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let first = pid(&mut client, &id).await;
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let shim: i32 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap()
        .parse()
        .unwrap();
    cri.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).unwrap();
    cri.restart();
    let mut client = cri.client().await;
    let end = wait_exited(&mut client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (255, "Unknown"));
    let process = format!("/proc/{first}");
    wait_until("the orphan's end", LIMIT, || {
        !std::path::Path::new(&process).exists()
    });
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// One pod's whole life, with every call that changes something; errors are the kill's.
/// Whether a process with this argument runs.
fn runs_with(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| fs::read(p.path().join("cmdline")).ok())
        .any(|line| line.split(|b| *b == 0).any(|a| a == argument.as_bytes()))
}

#[tokio::test]
async fn a_command_whose_daemon_is_killed_ends() {
    require!(Need::Root);
    let mut cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "probed").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let mark = format!("7654{}", std::process::id());
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into(), mark.clone()],
        timeout: 0,
    };
    let mut other = client.clone();
    let call = tokio::spawn(async move { other.exec_sync(request).await });
    let (probe, sought) = (mark.clone(), LIMIT);
    let begun = move || wait_until("the command", sought, || runs_with(&probe));
    tokio::task::spawn_blocking(begun).await.unwrap();
    cri.kill();
    call.await.unwrap().unwrap_err();
    wait_until("the command's end", LIMIT, || !runs_with(&mark));
    cri.restart();
    let mut client = cri.client().await;
    let said = kit::exec(&mut client, &id, "echo again").await;
    assert_eq!(said.stdout, b"again\n");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

async fn life(mut client: Client, config: v1::PodSandboxConfig) -> Result<(), tonic::Status> {
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let id = Box::pin(client.run_pod_sandbox(request)).await?;
    let id = id.into_inner().pod_sandbox_id;
    let pod = (id.clone(), config);
    let container = create(&mut client, &pod, script("main", "exec sleep 1000")).await?;
    start(&mut client, &container).await?;
    let limit = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let update = v1::UpdateContainerResourcesRequest {
        container_id: container.clone(),
        linux: Some(limit.clone()),
        ..Default::default()
    };
    client.update_container_resources(update).await?;
    let update = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.clone(),
        resources: Some(limit),
        ..Default::default()
    };
    client.update_pod_sandbox_resources(update).await?;
    let stop = v1::StopContainerRequest {
        container_id: container.clone(),
        timeout: 0,
    };
    client.stop_container(stop).await?;
    let remove = v1::RemoveContainerRequest {
        container_id: container,
    };
    client.remove_container(remove).await?;
    let second = create(&mut client, &pod, script("second", "exec sleep 1000")).await?;
    start(&mut client, &second).await?;
    let stop = v1::StopPodSandboxRequest {
        pod_sandbox_id: id.clone(),
    };
    client.stop_pod_sandbox(stop).await?;
    let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
    client.remove_pod_sandbox(remove).await?;
    Ok(())
}

#[tokio::test]
async fn a_kill_at_any_instant_leaves_whole_objects_or_none() {
    require!(Need::Root);
    let mut cri = Cri::start();
    // Growing steps meet every part of a life that takes about 300 ms.
    let mut delay = 2.0_f64;
    let mut round = 0;
    while delay < 400.0 {
        let client = cri.client().await;
        let config = cri.pod(&format!("kill-{round}"), false);
        let life = tokio::spawn(life(client, config));
        tokio::time::sleep(Duration::from_secs_f64(delay / 1000.0)).await;
        cri.kill();
        let _ = life.await.unwrap();
        cri.restart();
        let mut client = cri.client().await;
        check_and_clear(&mut client).await;
        assert_eq!(cri.leftovers(), Vec::<String>::new(), "after {delay} ms");
        delay *= 1.7;
        round += 1;
    }
}

/// In a build with debug assertions, which cargo's tests are: before and after each of them in turn.
#[tokio::test]
async fn a_kill_at_every_durable_write_leaves_whole_objects_or_none() {
    require!(Need::Root);
    let mut cri = Cri::start();
    // Some of them where everything takes twenty times as long.
    let slow = std::env::var("RRUN_TIME_SCALE").is_ok();
    for point in (1..).step_by(if slow { 9 } else { 1 }) {
        cri.kill();
        cri.restart_to_die_at(point);
        let client = cri.client().await;
        let config = cri.pod(&format!("write-{point}"), false);
        let Err(error) = life(client, config).await else {
            assert!(point > 30, "a life has more than 15 durable writes");
            break;
        };
        let dead = format!("the daemon's death at point {point} ({error})");
        wait_until(&dead, LIMIT, || cri.has_ended());
        cri.restart();
        let mut client = cri.client().await;
        check_and_clear(&mut client).await;
        assert_eq!(cri.leftovers(), Vec::<String>::new(), "at point {point}");
    }
}

/// Everything that is listed is whole: it has a status, and can be removed.
async fn check_and_clear(client: &mut Client) {
    let containers = client
        .list_containers(v1::ListContainersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .containers;
    for container in containers {
        let status = status(client, &container.id).await;
        assert_ne!(status.state(), v1::ContainerState::ContainerUnknown);
        if status.state() == v1::ContainerState::ContainerCreated {
            // Whole means that it can be started, where its sandbox still stands.
            let pod = v1::PodSandboxStatusRequest {
                pod_sandbox_id: container.pod_sandbox_id.clone(),
                verbose: false,
            };
            let pod = client.pod_sandbox_status(pod).await.unwrap().into_inner();
            if pod.status.unwrap().state() == v1::PodSandboxState::SandboxReady {
                start(client, &container.id).await.unwrap();
            }
        }
    }
    let pods = client
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await
        .unwrap()
        .into_inner()
        .items;
    for pod in pods {
        remove_pod(client, &pod.id).await;
    }
}

#[tokio::test]
async fn a_pod_with_an_address_keeps_it_over_a_restart() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let mut cri = Cri::start();
    let mut client = cri.client().await;
    let config = cri.pod("address", true);
    let id = run_pod(&mut client, &config).await;
    let status = |id: &str| v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.into(),
        verbose: false,
    };
    let before = client
        .pod_sandbox_status(status(&id))
        .await
        .unwrap()
        .into_inner()
        .status;
    cri.kill();
    cri.restart();
    let mut client = cri.client().await;
    let after = client
        .pod_sandbox_status(status(&id))
        .await
        .unwrap()
        .into_inner()
        .status;
    assert_eq!(before, after);
    assert_eq!(after.unwrap().state(), v1::PodSandboxState::SandboxReady);
    remove_pod(&mut client, &id).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn sigterm_ends_the_daemon_though_a_client_listens_for_events() {
    require!(Need::Root);
    let mut cri = Cri::start();
    let mut client = cri.client().await;
    let request = v1::GetEventsRequest::default();
    let mut events = client
        .get_container_events(request)
        .await
        .unwrap()
        .into_inner();
    cri.terminate();
    let over = async {
        while let Ok(Some(_)) = events.message().await {}
        while !cri.has_ended() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(LIMIT, over).await;
    assert!(ended.is_ok(), "the daemon waits for its client");
}
