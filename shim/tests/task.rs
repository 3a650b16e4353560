//! The Task API against real containers.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Shim, runc, runs, runtimes};
use rrun_task_api::Code;
use rrun_task_api::exit::Exit;
use rrun_task_api::pb::task;
use rrun_task_api::pb::task_types::Status;
use rrun_tests::{Need, require, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_container_runs_to_its_end_and_leaves_nothing() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        shim.run();
        assert_eq!(shim.wait(""), 7);
        // On disk before anybody was told.
        let exit = Exit::read(&shim.dir).unwrap().unwrap();
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, 0, false));
        let mut log = shim.log();
        log.sort();
        assert_eq!(log, ["stderr F err", "stdout F out"]);
        let status = shim.status();
        assert_eq!((status.status(), status.exit_status), (Status::Stopped, 7));
        assert!(status.started_at.is_some() && status.exited_at.is_some());
        shim.finish();
    }
}

#[test]
fn what_is_refused_says_why() {
    require!(Need::Root);
    let runtime = &runtimes()[0];
    let shim = Shim::start(runtime, &["sleep", "1000"]);
    let code = |error: rrun_task_api::client::Error| error.status().map(|s| s.code);
    assert_eq!(code(shim.kill(9).unwrap_err()), Some(Code::NotFound));
    let mut bad = shim.create_request();
    bad.bundle = "/nonexistent".into();
    let error = shim.call(shim.client.create(&bad)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    let mut bad = shim.create_request();
    bad.stdout = "gopher:///x".into();
    let error = shim.call(shim.client.create(&bad)).unwrap_err();
    assert!(error.to_string().contains("gopher"), "{error}");
    // A failed Create leaves the id free.
    shim.run();
    let error = shim
        .call(shim.client.create(&shim.create_request()))
        .unwrap_err();
    assert_eq!(code(error), Some(Code::AlreadyExists));
    assert_eq!(
        code(shim.delete("").unwrap_err()),
        Some(Code::FailedPrecondition)
    );
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    let error = shim.kill(9).unwrap_err();
    assert_eq!(error.status().unwrap().message, "process already finished");
    shim.finish();
}

#[test]
fn a_program_that_is_not_there_fails_the_create_with_the_runtimes_words() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["/bin/nothing-here"]);
        let created = shim.call(shim.client.create(&shim.create_request()));
        let error = if let Err(error) = created {
            error
        } else {
            let start = task::StartRequest {
                id: shim.id.clone(),
                ..Default::default()
            };
            shim.call(shim.client.start(&start)).unwrap_err()
        };
        let text = error.to_string();
        assert!(text.contains("nothing-here"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn pause_resume_and_a_kill_while_paused() {
    require!(Need::Root, Need::Program("runc"));
    let shim = Shim::start(&runc(), &["sleep", "1000"]);
    shim.run();
    let id = shim.id.clone();
    let pause = task::PauseRequest { id: id.clone() };
    shim.call(shim.client.pause(&pause)).unwrap();
    assert_eq!(shim.status().status(), Status::Paused);
    shim.call(shim.client.resume(&task::ResumeRequest { id }))
        .unwrap();
    assert_eq!(shim.status().status(), Status::Running);
    shim.call(shim.client.pause(&pause)).unwrap();
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn every_process_is_listed_and_dies_with_the_first() {
    require!(Need::Root);
    for runtime in runtimes() {
        let shim = Shim::start(&runtime, &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        let pid = shim.run();
        let request = task::PidsRequest {
            id: shim.id.clone(),
        };
        let pids = || {
            let answer = shim.call(shim.client.pids(&request)).unwrap();
            answer.processes.iter().map(|p| p.pid).collect::<Vec<_>>()
        };
        wait_until("three processes", LIMIT, || pids().len() == 3);
        let before = pids();
        assert!(before.contains(&pid));
        shim.kill(9).unwrap();
        assert_eq!(shim.wait(""), 137);
        wait_until("the end of all", LIMIT, || {
            !before.iter().any(|pid| runs(*pid))
        });
        shim.finish();
    }
}

#[test]
fn nothing_survives_the_first_process_even_without_a_pid_namespace() {
    require!(Need::Root);
    for runtime in runtimes() {
        let args = ["sh", "-c", "sleep 1000 & echo $!; sleep 0.2; exit 0"];
        let shim = Shim::start_with(&runtime, &args, |bundle| {
            let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        });
        shim.run();
        assert_eq!(shim.wait(""), 0);
        let log = shim.log();
        let pid = log[0].strip_prefix("stdout F ").unwrap().parse().unwrap();
        wait_until("the end of the orphan", LIMIT, || !runs(pid));
        shim.finish();
    }
}

#[test]
fn out_of_memory_is_known_from_the_exit() {
    require!(Need::Root);
    for runtime in runtimes() {
        let hog = "x=a; while :; do x=$x$x; done";
        let shim = Shim::start_with(&runtime, &["sh", "-c", hog], |bundle| {
            bundle.config["linux"]["resources"] =
                serde_json::json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        });
        shim.run();
        assert_eq!(shim.wait(""), 137);
        assert!(Exit::read(&shim.dir).unwrap().unwrap().oom_killed);
        assert!(shim.status().oom_killed);
        shim.finish();
    }
}

#[test]
fn usage_and_metrics_are_the_kernels() {
    require!(Need::Root);
    let shim = Shim::start(
        &runtimes()[0],
        &[
            "sh",
            "-c",
            "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000",
        ],
    );
    shim.run();
    let request = rrun_task_api::pb::shim::UsageRequest {
        id: shim.id.clone(),
    };
    let usage = || shim.call(shim.client.usage(&request)).unwrap();
    wait_until("CPU time", LIMIT, || {
        usage().cpu_usage.unwrap() > 10_000_000
    });
    let usage = usage();
    assert!(usage.memory_usage.unwrap() > 4096, "{usage:?}");
    assert!(usage.memory_working_set <= usage.memory_usage, "{usage:?}");
    assert_eq!((usage.pids, usage.threads), (Some(1), Some(1)), "{usage:?}");
    assert_eq!(usage.memory_limit, None, "{usage:?}");
    let stats = task::StatsRequest {
        id: shim.id.clone(),
    };
    let stats = shim.call(shim.client.stats(&stats)).unwrap().stats.unwrap();
    assert!(
        stats.type_url.starts_with("io.containerd.cgroups.v"),
        "{}",
        stats.type_url
    );
    shim.kill(9).unwrap();
    shim.wait("");
    shim.finish();
}

#[test]
fn rootfs_mounts_of_a_request_are_made_and_undone() {
    require!(Need::Root);
    let other = tempfile::tempdir().unwrap();
    rrun_tests::busybox_rootfs(other.path());
    fs::write(other.path().join("mark"), "from the mount\n").unwrap();
    let shim = Shim::start(&runtimes()[0], &["cat", "/mark"]);
    let mut request = shim.create_request();
    request.rootfs = vec![rrun_task_api::pb::types::Mount {
        r#type: "bind".into(),
        source: other.path().display().to_string(),
        options: vec!["rbind".into(), "ro".into()],
        ..Default::default()
    }];
    shim.run_as(&request);
    assert_eq!(shim.wait(""), 0);
    assert_eq!(shim.log(), ["stdout F from the mount"]);
    shim.finish();
}

#[test]
fn a_real_time_signal_arrives() {
    require!(Need::Root);
    let script = "trap 'exit 33' 37; echo ready; while :; do sleep 0.1; done";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    shim.run();
    wait_until("the trap", LIMIT, || !shim.log().is_empty());
    shim.kill(37).unwrap();
    assert_eq!(shim.wait(""), 33);
    shim.finish();
}

#[test]
fn a_signal_to_all_reaches_all() {
    require!(Need::Root);
    let script = "(trap 'echo child; exit' TERM; echo up; while :; do sleep 0.1; done) & \
                  trap 'wait; exit 3' TERM; wait";
    let shim = Shim::start(&runtimes()[0], &["sh", "-c", script]);
    shim.run();
    wait_until("the child", LIMIT, || !shim.log().is_empty());
    let request = task::KillRequest {
        id: shim.id.clone(),
        signal: 15,
        all: true,
        ..Default::default()
    };
    shim.call(shim.client.kill(&request)).unwrap();
    assert_eq!(shim.wait(""), 3);
    assert!(
        shim.log().contains(&"stdout F child".to_owned()),
        "{:?}",
        shim.log()
    );
    shim.finish();
}

#[test]
fn execs_leave_no_descriptor_process_or_file() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    let count = || {
        fs::read_dir(format!("/proc/{}/fd", shim.shim_pid()))
            .unwrap()
            .count()
    };
    let files = || fs::read_dir(&shim.dir).unwrap().count();
    let exec = |terminal| {
        let (id, mut attached) = shim.exec(&["true"], true, terminal);
        attached.read_to_end();
        assert_eq!(shim.wait(&id), 0);
        shim.delete(&id).unwrap();
    };
    exec(false);
    let before = (count(), files());
    for number in 0..30 {
        exec(number % 3 == 0);
    }
    wait_until("the descriptors' end", LIMIT, || {
        (count(), files()) == before
    });
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.shim_pid())).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children:?}");
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

/// What a process can see of itself, in one line each.
const SELF: &str = "grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNew|Seccomp|Cpus_allowed:|SigBlk|SigIgn)' /proc/self/status; \
    cat /proc/self/cgroup /proc/self/oom_score_adj; for n in pid mnt net ipc uts user cgroup; do readlink /proc/self/ns/$n; done; \
    env; pwd; umask; ulimit -n; ls /proc/self/fd | wc -l; hostname; id";

/// A script that is called as the runtime is, and writes its command lines down.
fn recorder(dir: &Path) -> PathBuf {
    let script = dir.join("rrun");
    let own = &runtimes()[0];
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}/calls\nexec {} \"$@\"\n",
        dir.display(),
        own.display()
    );
    rrun_tests::write_script(&script, &text);
    script
}

#[test]
fn an_exec_is_the_same_with_and_without_the_runtime() {
    require!(Need::Root);
    if !runtimes()[0].ends_with("rrun") {
        rrun_tests::report_skip(module_path!(), "rrun is not built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shim = Shim::start_with(&recorder(dir.path()), &["sleep", "1000"], |bundle| {
        bundle.config["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
        });
    });
    shim.run();
    let capabilities = ["CAP_KILL", "CAP_CHOWN"];
    let plain = serde_json::json!({
        "args": ["sh", "-c", SELF], "cwd": "/tmp", "env": ["PATH=/bin", "A=1", "A=2"],
        "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 300,
    });
    let whole = serde_json::json!({
        "args": ["sh", "-c", SELF], "cwd": "/tmp", "env": ["PATH=/bin", "HOME=/x"],
        "user": {"uid": 7, "gid": 8, "umask": 7, "additionalGids": [9, 10]},
        "noNewPrivileges": true, "oomScoreAdj": 500,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}],
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
    });
    for process in [plain, whole] {
        let (id, mut attached) = shim.exec_process(&process, false, false);
        let direct = String::from_utf8(attached.read_to_end().0).unwrap();
        assert_eq!(shim.wait(&id), 0, "{direct}");
        let file = dir.path().join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let output = std::process::Command::new(&runtimes()[0])
            .args([
                std::ffi::OsStr::new("--root"),
                shim.state_root().as_os_str(),
            ])
            .args(["exec", "--process"])
            .args([file.as_os_str(), std::ffi::OsStr::new(&shim.id)])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(direct, String::from_utf8(output.stdout).unwrap());
        assert!(direct.lines().count() > 20, "{direct}");
    }
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(
        calls.contains(" create ") && !calls.contains(" exec "),
        "{calls}"
    );
    // Terminals are the runtime's.
    let (id, mut attached) = shim.exec(&["true"], false, true);
    attached.read_to_end();
    assert_eq!(shim.wait(&id), 0);
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(calls.contains(" exec "), "{calls}");
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn a_container_cannot_reach_the_shim_through_an_exec() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    // CVE-2019-5736: the program that an exec comes from cannot be opened for writing, not even by
    // the host's root through what /proc has of it.
    let exe = format!("/proc/{}/exe", shim.shim_pid());
    let error = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    let number = error.raw_os_error();
    assert!(number == Some(30) || number == Some(26), "{error}");
    let fs_flags = rustix::fs::statvfs(exe.as_str()).unwrap().f_flag;
    assert!(fs_flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // CVE-2024-21626: nothing of the shim's is open in the exec.
    let (id, mut attached) = shim.exec(&["ls", "-l", "/proc/self/fd"], false, false);
    let (listed, _) = attached.read_to_end();
    assert_eq!(shim.wait(&id), 0);
    assert_eq!(String::from_utf8(listed).unwrap().lines().count(), 4 + 1);
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn at_rest_the_shim_is_small_and_still_answers() {
    require!(Need::Root);
    let shim = Shim::start(&runtimes()[0], &["sleep", "1000"]);
    shim.run();
    let private = || {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.shim_pid())).unwrap();
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss_Anon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u32>().unwrap()
    };
    // A debug build with a dynamic libc; the packaged one has half of it.
    wait_until("less than 600 KiB of its own", LIMIT, || private() < 600);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(shim.status().pid, shim.status().pid);
    let (id, mut attached) = shim.exec(&["echo", "awake"], false, false);
    assert_eq!(attached.read_to_end().0, b"awake\n");
    assert_eq!(shim.wait(&id), 0);
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}

#[test]
fn a_checkpoint_is_restored_where_it_was() {
    require!(Need::Root, Need::Program("runc"), Need::Program("criu"));
    let check = std::process::Command::new("criu")
        .arg("check")
        .output()
        .unwrap();
    if !check.status.success() {
        rrun_tests::report_skip(module_path!(), "criu check fails on this kernel");
        return;
    }
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    let shim = Shim::start(&runc(), &["sh", "-c", script]);
    shim.run();
    wait_until("some log", LIMIT, || shim.log().len() > 5);
    let path = shim.dir.join("checkpoint").display().to_string();
    let options = rrun_task_api::pb::runc::CheckpointOptions {
        exit: true,
        ..Default::default()
    };
    let request = task::CheckpointTaskRequest {
        id: shim.id.clone(),
        path: path.clone(),
        options: Some(rrun_task_api::any::pack(
            rrun_task_api::any::CHECKPOINT_OPTIONS,
            &options,
        )),
    };
    shim.call(shim.client.checkpoint(&request, LIMIT)).unwrap();
    assert_eq!(shim.wait(""), 137);
    let reached = shim.log().len();
    shim.delete("").unwrap();
    let mut request = shim.create_request();
    request.checkpoint = path;
    assert_eq!(shim.call(shim.client.create(&request)).unwrap().pid, 0);
    let start = task::StartRequest {
        id: shim.id.clone(),
        ..Default::default()
    };
    assert!(shim.call(shim.client.start(&start)).unwrap().pid > 0);
    wait_until("more log", LIMIT, || shim.log().len() > reached + 5);
    let log = shim.log();
    assert_eq!(log[reached], format!("stdout F {}", reached + 1));
    shim.kill(9).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.finish();
}
