//! `ExecSync`: a command from its start to its end in one call.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Attached, Shim, runtimes};
use rrun_task_api::Code;
use rrun_task_api::client::{Client, Error};
use rrun_task_api::pb::{shim, task};
use rrun_tests::{Need, require, wait_until};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn request(shim: &Shim, exec_id: &str, args: &[&str]) -> shim::ExecSyncRequest {
    shim::ExecSyncRequest {
        id: shim.id.clone(),
        exec_id: exec_id.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Default::default()
    }
}

fn run(shim: &Shim, args: &[&str]) -> Result<shim::ExecSyncResponse, Error> {
    shim.call(shim.client.exec_sync(&request(shim, "command", args)))
}

fn sleeping(runtime: &Path) -> Shim {
    let shim = Shim::start(runtime, &["sleep", "1000"]);
    shim.run();
    shim
}

fn end(shim: Shim) {
    assert!(shim.status().execs.is_empty(), "{:?}", shim.status().execs);
    shim.kill(9).unwrap();
    shim.wait("");
    shim.finish();
}

/// Whether a process of the container has this argument.
fn has_process(shim: &Shim, argument: &str) -> bool {
    let request = task::PidsRequest {
        id: shim.id.clone(),
    };
    let pids = shim.call(shim.client.pids(&request)).unwrap().processes;
    pids.iter().any(|process| {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        line.split(|b| *b == 0).any(|a| a == argument.as_bytes())
    })
}

#[test]
fn output_and_code_come_in_one_answer() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let answer = run(&shim, &["sh", "-c", "echo out; echo err >&2; exit 3"]).unwrap();
        assert_eq!(answer.stdout, b"out\n");
        assert_eq!(answer.stderr, b"err\n");
        assert_eq!((answer.exit_status, answer.timed_out), (3, false));
        assert_eq!(answer.path, "");
        let killed = run(&shim, &["sh", "-c", "kill -9 $$"]).unwrap();
        assert_eq!(killed.exit_status, 137);
        end(shim);
    }
}

#[test]
fn a_program_that_is_not_there_is_an_error_and_leaves_nothing() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let error = run(&shim, &["/bin/nothing-here"]).unwrap_err().to_string();
        assert!(error.contains("nothing-here"), "{error}");
        let error = run(&shim, &[]).unwrap_err();
        assert_eq!(error.status().unwrap().code, Code::InvalidArgument);
        end(shim);
    }
}

#[test]
fn a_command_that_runs_for_too_long_is_killed_with_its_children() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let mut request = request(
            &shim,
            "late",
            &["sh", "-c", "echo begun; sleep 4321 & wait"],
        );
        request.timeout = 1_000_000_000;
        let answer = shim.call(shim.client.exec_sync(&request)).unwrap();
        assert!(answer.timed_out);
        assert_eq!(answer.exit_status, 137);
        assert!(!has_process(&shim, "4321"));
        end(shim);
    }
}

#[test]
fn more_output_than_an_answer_holds_comes_by_a_socket_whole() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let script = "echo begin >&2; dd if=/dev/zero bs=1024 count=700 2>/dev/null; exit 5";
        let answer = run(&shim, &["sh", "-c", script]).unwrap();
        assert!(answer.stdout.is_empty() && answer.stderr.is_empty());
        let (out, err) = Attached::to(&answer.path).read_to_end();
        assert_eq!((out.len(), &err[..]), (700 * 1024, &b"begin\n"[..]));
        assert_eq!(shim.wait("command"), 5);
        shim.delete("command").unwrap();
        end(shim);
    }
}

#[test]
fn a_child_in_the_background_does_not_hold_the_answer() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let answer = run(&shim, &["sh", "-c", "sleep 4322 & echo done"]).unwrap();
        assert_eq!(
            (&answer.stdout[..], answer.exit_status),
            (&b"done\n"[..], 0)
        );
        end(shim);
    }
}

#[test]
fn a_command_whose_caller_is_gone_is_killed_and_forgotten() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        for script in [
            "exec sleep 4323",
            "dd if=/dev/zero bs=1024 count=700; exec sleep 4323",
        ] {
            let socket = shim.dir.join("shim.sock").display().to_string();
            let request = request(&shim, "orphan", &["sh", "-c", script]);
            let other = shim.call(Client::connect(&socket)).unwrap();
            let (asking, sent) = (other.clone(), request.clone());
            let call = shim
                .tokio
                .spawn(async move { asking.exec_sync(&sent).await });
            wait_until("the command's start", LIMIT, || {
                shim.status().execs == ["orphan"]
                    && (has_process(&shim, "4323") || call.is_finished())
            });
            call.abort();
            drop(other);
            wait_until("the command's end", LIMIT, || {
                shim.status().execs.is_empty() && !has_process(&shim, "4323")
            });
        }
        end(shim);
    }
}

#[test]
fn a_command_ends_with_its_container() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let asked = request(&shim, "command", &["sleep", "4324"]);
        let asking = shim.client.clone();
        let call = shim
            .tokio
            .spawn(async move { asking.exec_sync(&asked).await });
        wait_until("the command", LIMIT, || has_process(&shim, "4324"));
        shim.kill(9).unwrap();
        let answer = shim.tokio.block_on(call).unwrap().unwrap();
        assert_eq!((answer.exit_status, answer.timed_out), (137, false));
        assert_eq!(shim.wait(""), 137);
        let error = run(&shim, &["true"]).unwrap_err();
        assert_eq!(error.status().unwrap().code, Code::FailedPrecondition);
        shim.finish();
    }
}

#[test]
fn a_command_runs_as_the_configuration_says_now() {
    require!(Need::Root);
    let shim = sleeping(&runtimes()[0]);
    let answer = run(&shim, &["sh", "-c", "echo $WHO; pwd"]).unwrap();
    assert_eq!(answer.stdout, b"\n/\n");
    let path = shim.dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["env"] = serde_json::json!(["PATH=/bin", "WHO=me"]);
    config["process"]["cwd"] = "/bin".into();
    let half = shim.dir.join("config.json.new");
    fs::write(&half, config.to_string()).unwrap();
    fs::rename(&half, &path).unwrap();
    let answer = run(&shim, &["sh", "-c", "echo $WHO; pwd"]).unwrap();
    assert_eq!(answer.stdout, b"me\n/bin\n");
    end(shim);
}

fn probe(shim: &Shim, exec_id: &str, args: &[&str]) -> shim::ProbeRequest {
    shim::ProbeRequest {
        command: Some(request(shim, exec_id, args)),
        delay: 0,
        period: 20_000_000,
    }
}

fn stop_probe(shim: &Shim, exec_id: &str) {
    let request = shim::StopProbeRequest {
        id: shim.id.clone(),
        exec_id: exec_id.to_owned(),
    };
    shim.call(shim.client.stop_probe(&request)).unwrap();
}

#[test]
fn a_probe_is_silent_until_it_fails() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let script = "echo >> /tmp/runs; test ! -e /tmp/sick || { echo ill; exit 3; }";
        let asked = probe(&shim, "probe", &["sh", "-c", script]);
        let asking = shim.client.clone();
        let sent = asked.clone();
        let call = shim.tokio.spawn(async move { asking.probe(&sent).await });
        wait_until("some runs", LIMIT, || {
            let count = run(&shim, &["sh", "-c", "test $(wc -l < /tmp/runs) -gt 2"]);
            assert!(!call.is_finished());
            count.unwrap().exit_status == 0
        });
        let twice = shim.call(shim.client.probe(&asked)).unwrap_err();
        assert_eq!(twice.status().unwrap().code, Code::AlreadyExists);
        run(&shim, &["touch", "/tmp/sick"]).unwrap();
        let answer = shim.tokio.block_on(call).unwrap().unwrap();
        let failed = answer.run.unwrap();
        assert_eq!((failed.exit_status, &failed.stdout[..]), (3, &b"ill\n"[..]));
        assert!(answer.age > 0 && !failed.timed_out);
        end(shim);
    }
}

#[test]
fn a_run_of_a_probe_that_takes_too_long_has_failed() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let mut asked = probe(&shim, "probe", &["sleep", "4325"]);
        if let Some(command) = &mut asked.command {
            command.timeout = 300_000_000;
        }
        let answer = shim.call(shim.client.probe(&asked)).unwrap();
        let failed = answer.run.unwrap();
        assert_eq!((failed.exit_status, failed.timed_out), (137, true));
        assert!(answer.age >= 300_000_000);
        assert!(!has_process(&shim, "4325"));
        let script = "dd if=/dev/zero bs=1024 count=700 2>/dev/null; exit 5";
        let much = probe(&shim, "probe", &["sh", "-c", script]);
        let failed = shim.call(shim.client.probe(&much)).unwrap().run.unwrap();
        assert_eq!((failed.exit_status, failed.path), (5, String::new()));
        assert_eq!(failed.stdout.len(), 256 * 1024);
        end(shim);
    }
}

#[test]
fn a_probe_ends_with_its_caller_its_container_and_when_it_is_told_to() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = sleeping(&runtime);
        let begun = |client: &Client| {
            let (asking, asked) = (client.clone(), probe(&shim, "probe", &["sleep", "4326"]));
            let call = shim.tokio.spawn(async move { asking.probe(&asked).await });
            wait_until("the probe", LIMIT, || has_process(&shim, "4326"));
            call
        };
        let ended = || {
            wait_until("the probe's end", LIMIT, || {
                shim.status().execs.is_empty() && !has_process(&shim, "4326")
            });
        };
        let told = begun(&shim.client);
        stop_probe(&shim, "probe");
        assert!(shim.tokio.block_on(told).unwrap().is_err());
        ended();
        stop_probe(&shim, "probe");
        let socket = shim.dir.join("shim.sock").display().to_string();
        let other = shim.call(Client::connect(&socket)).unwrap();
        begun(&other).abort();
        drop(other);
        ended();
        let last = begun(&shim.client);
        shim.kill(9).unwrap();
        let failed = shim.tokio.block_on(last).unwrap().unwrap().run.unwrap();
        assert_eq!(failed.exit_status, 137);
        shim.wait("");
        let late = shim.call(shim.client.probe(&probe(&shim, "probe", &["true"])));
        let error = late.unwrap_err();
        assert_eq!(error.status().unwrap().code, Code::FailedPrecondition);
        shim.finish();
    }
}
