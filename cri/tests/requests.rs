//! Retries, and requests that cannot be right.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::time::Duration;

use kit::{Cri, create, remove_pod, run, run_pod, script, status, stop};
use rrun_cri_api::probe::probe_client::ProbeClient;
use rrun_cri_api::{probe, v1};
use rrun_tests::{Need, require};
use tonic::Code;

type Change = fn(&mut v1::ContainerConfig);

#[tokio::test]
async fn a_retry_finds_what_the_first_request_made() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let config = cri.pod("retry", false);
    let id = run_pod(&mut client, &config).await;
    assert_eq!(run_pod(&mut client, &config).await, id);
    let pod = (id.clone(), config.clone());
    let made = create(&mut client, &pod, script("main", "exit 0"))
        .await
        .unwrap();
    let again = create(&mut client, &pod, script("main", "exit 0"))
        .await
        .unwrap();
    assert_eq!(made, again);
    let other = create(&mut client, &pod, script("main", "exit 1"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists, "{other}");
    // Two at once are one.
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut client = client.clone();
        let config = cri.pod("at-once", false);
        others.push(tokio::spawn(
            async move { run_pod(&mut client, &config).await },
        ));
    }
    let mut ids = Vec::new();
    for other in others {
        ids.push(other.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    remove_pod(&mut client, &ids[0]).await;
    remove_pod(&mut client, &id).await;
}

#[tokio::test]
async fn stopping_and_removing_what_is_gone_succeeds() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "gone").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    for _ in 0..2 {
        stop(&mut client, &id, 0).await;
    }
    for _ in 0..2 {
        let request = v1::RemoveContainerRequest {
            container_id: id.clone(),
        };
        client.remove_container(request).await.unwrap();
    }
    stop(&mut client, &id, 0).await;
    for _ in 0..2 {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod.0.clone(),
        };
        client.stop_pod_sandbox(request).await.unwrap();
    }
    for _ in 0..2 {
        remove_pod(&mut client, &pod.0).await;
    }
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.0.clone(),
        verbose: false,
    };
    let error = client.pod_sandbox_status(request).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// A start may come before, in the middle of, or after the end of its pod: it runs or is refused, and
/// nothing of either is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_beside_the_end_of_its_pod_leaves_nothing() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    for round in 0..6 {
        let pod = cri.run_pod(&mut client, &format!("end-{round}")).await;
        let config = script("main", "exec sleep 1000");
        let id = create(&mut client, &pod, config).await.unwrap();
        let mut starter = client.clone();
        let name = id.clone();
        let starting = tokio::spawn(async move { kit::start(&mut starter, &name).await });
        // From "at once" to "when it runs".
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        if round % 2 == 0 {
            stop(&mut client, &id, 0).await;
        }
        remove_pod(&mut client, &pod.0).await;
        if let Err(refused) = starting.await.unwrap() {
            let known = [Code::FailedPrecondition, Code::NotFound];
            assert!(known.contains(&refused.code()), "{refused}");
        }
        assert_eq!(cri.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn requests_that_cannot_be_right_are_refused_and_leave_nothing() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "wrong").await;
    let cases: [(&str, Code, Change); 9] = [
        ("metadata.name", Code::InvalidArgument, |c| {
            c.metadata = None;
        }),
        ("not found", Code::NotFound, |c| {
            c.image.as_mut().unwrap().image = "localhost/nothing:1".into();
        }),
        ("log_path", Code::InvalidArgument, |c| {
            c.log_path = "../../x".into();
        }),
        ("working_dir", Code::InvalidArgument, |c| {
            c.working_dir = "x".into();
        }),
        ("/etc/passwd", Code::InvalidArgument, |c| {
            let linux = c.linux.as_mut().unwrap();
            linux.security_context.as_mut().unwrap().run_as_username = "nobody-here".into();
        }),
        ("host_path", Code::InvalidArgument, |c| {
            c.mounts.push(v1::Mount {
                container_path: "/m".into(),
                host_path: "relative".into(),
                ..Default::default()
            });
        }),
        ("capability", Code::InvalidArgument, |c| {
            let linux = c.linux.as_mut().unwrap();
            let security = linux.security_context.as_mut().unwrap();
            security
                .capabilities
                .get_or_insert_default()
                .add_capabilities = vec!["FLY".into()];
        }),
        // The pod's file says that no container of it is.
        ("privileged", Code::InvalidArgument, |c| {
            let linux = c.linux.as_mut().unwrap();
            linux.security_context.as_mut().unwrap().privileged = true;
        }),
        // It ran unconfined.
        ("seccomp_profile_path", Code::InvalidArgument, |c| {
            #[allow(deprecated)]
            let path = |s: &mut v1::LinuxContainerSecurityContext| {
                s.seccomp = None;
                s.seccomp_profile_path = "runtime/defualt".into();
            };
            path(c.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        }),
    ];
    for (says, code, change) in cases {
        let mut config = script("main", "exit 0");
        change(&mut config);
        let error = create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(error.code(), code, "{says}: {error}");
        assert!(error.message().contains(says), "{says}: {error}");
        assert!(!error.message().contains('\n'), "{error}");
    }
    let all = client
        .list_containers(v1::ListContainersRequest::default())
        .await
        .unwrap();
    assert!(all.into_inner().containers.is_empty());
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn an_exec_over_its_time_ends_with_its_process() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "exec").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into(), "4321".into()],
        timeout: 1,
    };
    let error = client.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let said = kit::exec(&mut client, &id, "ps").await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(!text.contains("4321"), "{text}");
    // What it left in the background ends with it.
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", "sleep 5432 & sleep 6543; true"]
            .map(str::to_owned)
            .to_vec(),
        timeout: 1,
    };
    let error = client.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let said = kit::exec(&mut client, &id, "ps").await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(!text.contains("5432") && !text.contains("6543"), "{text}");
    let large = "head -c 20000000 /dev/zero";
    let said = kit::exec(&mut client, &id, large).await;
    assert_eq!(said.stdout.len(), (16 << 20) - 4096);
    stop(&mut client, &id, 0).await;
    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        timeout: 0,
    };
    let error = client.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert_eq!(status(&mut client, &id).await.reason, "Error");
    remove_pod(&mut client, &pod.0).await;
}

fn repeated(id: &str, script: &str) -> probe::UntilFailureRequest {
    probe::UntilFailureRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        period: 20_000_000,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_probe_is_run_until_it_fails_or_nobody_waits_for_it() {
    require!(Need::Root);
    let cri = Cri::start();
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "probe").await;
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let probes = ProbeClient::new(cri.channel().await);
    let ask = |request: probe::UntilFailureRequest| {
        let mut probes = probes.clone();
        tokio::spawn(async move { probes.until_failure(request).await })
    };
    let call = ask(repeated(
        &id,
        "echo >> /runs; test ! -e /sick || { echo ill; exit 3; }",
    ));
    let said = kit::exec(
        &mut client,
        &id,
        "until test \"$(wc -l < /runs)\" -gt 2; do sleep 0.1; done; touch /sick",
    );
    assert_eq!(said.await.exit_code, 0);
    let failed = call.await.unwrap().unwrap().into_inner();
    assert_eq!((failed.exit_code, &failed.stdout[..]), (3, &b"ill\n"[..]));

    let call = ask(repeated(&id, "exec sleep 4327"));
    let begun = "until ps | grep -q '[4]327'; do sleep 0.1; done";
    assert_eq!(kit::exec(&mut client, &id, begun).await.exit_code, 0);
    call.abort();
    let ended = "while ps | grep -q '[4]327'; do sleep 0.1; done";
    assert_eq!(kit::exec(&mut client, &id, ended).await.exit_code, 0);

    let call = ask(repeated(&id, "true"));
    stop(&mut client, &id, 0).await;
    // The run that was under way ended with the container, or there was none.
    match call.await.unwrap() {
        Ok(failed) => assert_eq!(failed.into_inner().exit_code, 137),
        Err(error) => assert_ne!(error.code(), Code::Unimplemented, "{error}"),
    }
    let error = ask(repeated(&id, "true")).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    for request in [
        probe::UntilFailureRequest {
            period: 0,
            ..repeated(&id, "true")
        },
        probe::UntilFailureRequest {
            cmd: Vec::new(),
            ..repeated(&id, "true")
        },
    ] {
        let error = ask(request).await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}
