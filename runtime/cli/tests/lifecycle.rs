//! The life of a container: create, start, state, exec, kill, delete, list, run.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, shell};
use rrun_tests::{Bundle, Need, require};

#[test]
fn create_start_exec_kill_delete() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let (id, created) = rrun.create(&bundle);
    created.ok();
    let state = rrun.state(&id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], id.as_str());
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0));
    rrun.rrun(&["start", &id]).ok();
    assert_eq!(rrun.state(&id)["status"], "running");
    assert!(
        rrun.rrun(&["start", &id])
            .fails()
            .contains("cannot start an already running container")
    );
    let exec = rrun.rrun(&["exec", &id, "sh", "-c", "cat /proc/1/cmdline; exit 7"]);
    assert_eq!(exec.code, 7);
    assert!(exec.out.starts_with("sleep\0"), "{exec:?}");
    assert!(rrun.rrun(&["delete", &id]).fails().contains("not stopped"));
    rrun.rrun(&["kill", &id, "KILL"]).ok();
    rrun.wait_for(&id, "stopped");
    assert!(
        rrun.rrun(&["kill", &id])
            .fails()
            .contains("container not running")
    );
    rrun.rrun(&["delete", &id]).ok();
    assert!(
        rrun.rrun(&["state", &id])
            .fails()
            .contains("container does not exist")
    );
    assert!(std::fs::read_dir(rrun.root()).is_ok_and(|mut d| d.next().is_none()));
}

#[test]
fn run_returns_the_exit_status_and_leaves_nothing() {
    require!(Need::Root);
    let rrun = Runtime::new();
    assert_eq!(rrun.run(&shell("exit 42")).code, 42);
    assert_eq!(
        rrun.run(&shell("kill -9 $$")).code,
        0,
        "init of a pid namespace ignores its own"
    );
    assert_eq!(rrun.rrun(&["list", "-q"]).ok(), "");
    assert!(
        rrun.run(&shell("echo out; echo err >&2"))
            .ok()
            .contains("out")
    );
}

#[test]
fn a_second_container_of_the_same_id_is_refused() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let dir = bundle.write().to_str().unwrap().to_owned();
    let error = rrun.rrun(&["run", "--bundle", &dir, &id]).fails();
    assert!(
        error.contains("runc run failed: container with given ID already exists"),
        "{error}"
    );
    assert_eq!(rrun.state(&id)["status"], "running");
}

#[test]
fn an_error_of_the_program_leaves_nothing_behind() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let error = rrun.run(&Bundle::new(&["no-such-program"])).fails();
    assert!(
        error.contains("executable file not found in $PATH"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    let (_, created) = rrun.create(&Bundle::new(&["/etc"]));
    assert!(created.fails().contains("is a directory"));
    assert!(std::fs::read_dir(rrun.root()).is_ok_and(|mut d| d.next().is_none()));
}

#[test]
fn exec_of_what_is_not_there_is_255() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let exec = rrun.rrun(&["exec", &id, "no-such-program"]);
    assert_eq!(exec.code, 255);
    assert!(
        exec.err.contains("executable file not found in $PATH"),
        "{exec:?}"
    );
}

#[test]
fn exec_takes_user_directory_and_environment() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let script = "id -u; id -g; pwd; echo $A";
    let args = [
        "exec", "--user", "7:8", "--cwd", "/tmp", "-e", "A=b c", &id, "sh", "-c", script,
    ];
    assert_eq!(rrun.rrun(&args).ok(), "7\n8\n/tmp\nb c\n");
    // What the kernel does not know is left out, as in config.json.
    let known = rrun.rrun(&["exec", "--cap", "CAP_OF_MORROW", &id, "true"]);
    assert!(
        known.err.contains("CAP_OF_MORROW") && known.code == 0,
        "{known:?}"
    );
}

#[test]
fn list_shows_what_runs() {
    require!(Need::Root);
    let rrun = Runtime::new();
    assert_eq!(rrun.rrun(&["list", "--format", "json"]).ok(), "null");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let table = rrun.rrun(&["list"]).ok();
    assert!(
        table
            .lines()
            .nth(1)
            .is_some_and(|l| l.starts_with(&id) && l.contains("running"))
    );
    assert_eq!(rrun.rrun(&["list", "-q"]).ok(), format!("{id}\n"));
}

#[test]
fn a_create_killed_in_the_middle_is_cleaned_up_by_delete() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["hooks"] =
        serde_json::json!({"prestart": [{"path": "/bin/sleep", "args": ["sleep", "20"]}]});
    let id = rrun.id();
    let dir = bundle.write().to_str().unwrap().to_owned();
    let mut create = rrun
        .command(&["create", "--bundle", &dir, &id])
        .spawn()
        .unwrap();
    let record = rrun.root().join(&id).join("state.json.creating");
    let limit = std::time::Duration::from_secs(30);
    rrun_tests::wait_until("the record", limit, || record.exists());
    create.kill().unwrap();
    create.wait().unwrap();
    // Init dies with its creator; the record tells delete what else there is.
    rrun.wait_for(&id, "stopped");
    rrun.rrun(&["delete", &id]).ok();
    assert!(!rrun.root().join(&id).exists());
}

#[test]
fn bad_input_is_answered_with_one_line() {
    let rrun = Runtime::new();
    for args in [
        &["create", "../x"][..],
        &["create", "--bundle", "/nonexistent", "x"],
        &["state", "nonexistent"],
        &["kill", "x", "NOSIGNAL"],
        &["--frobnicate"],
        &["create", "--frobnicate", "x"],
        &["delete"],
    ] {
        let ran = rrun.rrun(args);
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{args:?}: {ran:?}");
    }
}

#[test]
fn a_command_without_its_container_says_so_as_runc_does() {
    let rrun = Runtime::new();
    let exactly = "requires exactly 1 argument(s)";
    for command in [
        "create", "start", "run", "state", "delete", "pause", "resume",
    ] {
        let error = rrun.rrun(&[command]).fails();
        // In a log line, with its quotes escaped.
        assert!(
            error.contains(&format!("{command}\\\" {exactly}")),
            "{error}"
        );
    }
    let error = rrun.rrun(&["exec"]).fails();
    assert!(
        error.contains("requires a minimum of 1 argument(s)"),
        "{error}"
    );
}

#[test]
fn a_broken_configuration_names_its_field() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let refused = |change: &dyn Fn(&mut serde_json::Value), field: &str| {
        let mut bundle = Bundle::new(&["true"]);
        change(&mut bundle.config);
        let error = rrun.run(&bundle).fails();
        assert!(error.contains(field), "{field}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(
        &|c| c["process"]["args"] = serde_json::json!([]),
        "process.args",
    );
    refused(&|c| c["process"]["cwd"] = "tmp".into(), "process.cwd");
    refused(&|c| c["ociVersion"] = "2.0.0".into(), "ociVersion");
    refused(
        &|c| c["mounts"][1]["type"] = serde_json::Value::Null,
        "mounts[1].type",
    );
    refused(
        &|c| c["linux"]["sysctl"] = serde_json::json!({"kernel.panic": "1"}),
        "kernel.panic",
    );
    refused(
        &|c| c["linux"]["timeOffsets"] = serde_json::json!({"monotonic": {}}),
        "timeOffsets",
    );
    assert!(std::fs::read_dir(rrun.root()).is_ok_and(|mut d| d.next().is_none()));
}

#[test]
fn kill_and_delete_by_a_regular_expression() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let ids = [
        rrun.start(&bundle),
        rrun.start(&bundle),
        rrun.start(&bundle),
    ];
    let pattern = format!("^({}|{})$", ids[0], ids[1]);
    rrun.rrun(&["kill", "--regex", &pattern, "KILL"]).ok();
    rrun.wait_for(&ids[0], "stopped");
    rrun.wait_for(&ids[1], "stopped");
    assert_eq!(rrun.state(&ids[2])["status"], "running");
    rrun.rrun(&["delete", "--regex", &pattern]).ok();
    rrun.rrun(&["state", &ids[0]]).fails();
    // One that runs is no reason to leave the others.
    let error = rrun.rrun(&["delete", "--regex", "."]).fails();
    assert!(error.contains(&ids[2]), "{error}");
    rrun.rrun(&["delete", "--force", "--regex", "."]).ok();
    assert_eq!(rrun.rrun(&["list", "--quiet"]).ok(), "");
    let error = rrun.rrun(&["delete", "--regex", "("]).fails();
    assert!(error.contains("--regex"), "{error}");
}

#[test]
fn explain_shows_the_plan_before_and_the_times_after() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("printf 'its %s\\n' words >&2; ls /proc/self/fd");
    bundle.config["hostname"] = "explained".into();
    let dir = bundle.write().to_str().unwrap().to_owned();
    let ran = rrun.rrun(&["run", "--explain", "--bundle", &dir, &rrun.id()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // Its file does not reach the container.
    assert_eq!(ran.out, "0\n1\n2\n3\n");
    let position = |text: &str| {
        ran.err
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {}", ran.err))
    };
    let plan = position("mount tmpfs on /dev");
    assert!(plan < position("Time in each step"));
    assert!(position("explained") < position("its words"));
    let id = rrun.id();
    let log = tempfile::NamedTempFile::new().unwrap();
    let created = rrun
        .command(&["create", "--explain=json", "--bundle", &dir, &id])
        .stdout(std::process::Stdio::null())
        .stderr(log.reopen().unwrap())
        .status();
    assert!(created.unwrap().success());
    let text = std::fs::read_to_string(log.path()).unwrap();
    let documents: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps = documents[0]["plan"].as_array().unwrap();
    let times = documents[1]["times"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["what"], "wait for `start`");
    for field in ["number", "by", "what", "why", "call", "objects"] {
        assert!(steps.iter().all(|s| !s[field].is_null()), "{field}: {text}");
    }
    // Every step but those that may not happen has its time.
    assert!(times.len() * 10 > steps.len() * 8, "{text}");
    assert!(
        times
            .iter()
            .all(|t| t["microseconds"].as_f64().unwrap() >= 0.0)
    );
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let ran = rrun.rrun(&["exec", "--explain", &id, "echo", "ok"]);
    assert_eq!(ran.out, "ok\n");
    assert!(
        ran.err.contains("join the container's namespaces"),
        "{ran:?}"
    );
    let ran = rrun.rrun(&["exec", "--explain=xml", &id, "true"]);
    assert_ne!(ran.code, 0);
}

#[test]
fn readiness_is_passed_on_to_systemd() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("systemd.sock");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd
        .set_read_timeout(Some(std::time::Duration::from_mins(1)))
        .unwrap();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let dir = bundle.write().to_str().unwrap().to_owned();
    let id = rrun.id();
    let mut command = rrun.command(&["run", "--detach", "--bundle", &dir, &id]);
    command.env("NOTIFY_SOCKET", &path);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut run = command.spawn().unwrap();
    let look = ["exec", &id, "ls", "-l", "/run/notify"];
    let limit = std::time::Duration::from_secs(20);
    rrun_tests::wait_until("the socket", limit, || {
        rrun.rrun(&look).out.contains("srwxrwxrwx")
    });
    let shown = rrun.rrun(&["exec", &id, "cat", "/proc/1/environ"]).ok();
    assert!(
        shown.contains("NOTIFY_SOCKET=/run/notify/notify.sock"),
        "{shown}"
    );
    let pid = rrun.state(&id)["pid"].to_string();
    let inside = format!("/proc/{pid}/root/run/notify/notify.sock");
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for message in ["STATUS=up", "READY=1\nX=2"] {
        client.send_to(message.as_bytes(), &inside).unwrap();
    }
    let mut buffer = [0; 256];
    let mut receive = || {
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(receive(), "READY=1\n");
    assert_eq!(receive(), format!("MAINPID={pid}\n"));
    assert_eq!(receive(), "BARRIER=1");
    assert!(run.wait().unwrap().success());
}

/// System calls of a command and what it started, by strace.
fn system_calls(command: &std::process::Command) -> usize {
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(report.path());
    let output = strace
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(report.path()).unwrap();
    let total = text.lines().last().unwrap_or_default();
    // "100.00 seconds usecs/call calls errors total"
    total.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_run_makes_no_system_call_that_its_config_does_not_need() {
    require!(Need::Root, Need::Program("strace"));
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["/bin/true"]);
    let dir = bundle.write().to_str().unwrap();
    let start = system_calls(&rrun.command(&["--version"]));
    let run = system_calls(&rrun.command(&["run", "--bundle", dir, &rrun.id()]));
    // The program starts twice (own binary, read-only). What is left was 318 on nine v1 hierarchies
    // when this was written; a debug build checks more.
    let own = run - 2 * start;
    assert!(own < 360, "{own} system calls besides those of the start");
}

/// What parses runc's output finds its words, whatever the program is called.
#[test]
fn version_and_failed_starts_have_runcs_words() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let version = rrun.rrun(&["--version"]).ok();
    let first = version.lines().next().unwrap();
    assert!(first.starts_with("rrun as runc version 0."), "{version}");
    let help = rrun.rrun(&["--help"]).ok();
    let title = "runc - Open Container Initiative runtime";
    assert!(help.lines().nth(1).unwrap().contains(title), "{help}");
    let error = rrun.run(&Bundle::new(&["/no/such/program"])).fails();
    let words = "runc run failed: unable to start container process: ";
    assert!(error.contains(words), "{error}");
    // Also where nothing had begun, and then without what could not be started.
    let words = "\"runc run failed: process.args: args must not be empty\"";
    let error = rrun.run(&Bundle::new(&[])).fails();
    assert!(error.contains(words), "{error}");
    let words = "\"runc create failed: invalid container ID format\"";
    let error = rrun.rrun(&["create", "a/b"]).fails();
    assert!(error.contains(words), "{error}");
}

#[test]
fn global_options_are_taken_behind_the_command_as_well() {
    let rrun = Runtime::new();
    let log = rrun.root().join("log");
    let log_option = format!("--log={}", log.display());
    rrun.rrun(&["state", "--log-format", "json", &log_option, "nothing"])
        .fails();
    let line = std::fs::read_to_string(&log).unwrap();
    assert!(line.starts_with("{\"level\":\"error\","), "{line}");
    // runc's answers to no command, and to one that is not there.
    assert!(rrun.rrun(&[]).ok().starts_with("NAME:"));
    assert!(rrun.rrun(&["help", "kill"]).ok().contains("kill - send"));
    let unknown = rrun.rrun(&["nothing"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.err.contains("No help topic for 'nothing'"));
    assert_eq!(unknown.err.lines().count(), 1, "{unknown:?}");
}
