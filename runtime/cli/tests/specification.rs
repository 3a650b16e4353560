//! Rules of the runtime specification that are easily missed, one by one.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, add_mount, shell};
use rrun_tests::{Bundle, Need, require};
use serde_json::json;
use std::fs;

#[test]
fn missing_working_directory_is_made() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("pwd; stat -c %a:%u:%g /made/it");
    bundle.config["process"]["cwd"] = "/made/it".into();
    bundle.config["process"]["user"] = json!({"uid": 5, "gid": 6});
    assert_eq!(rrun.run(&bundle).ok(), "/made/it\n755:0:0\n");
}

#[test]
fn hook_that_can_never_run_is_refused_before_any_runs() {
    require!(Need::Root);
    let rrun = Runtime::new();
    for (kind, hook, field) in [
        (
            "poststop",
            json!({"path": "bin/sh"}),
            "hooks.poststop[0].path",
        ),
        (
            "startContainer",
            json!({"path": "/bin/sh", "timeout": 0}),
            "hooks.startContainer[0].timeout",
        ),
        (
            "prestart",
            json!({"path": "/bin/sh", "timeout": -1}),
            "hooks.prestart[0].timeout",
        ),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["hooks"] = json!({kind: [hook]});
        let error = rrun.run(&bundle).fails();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn poststop_hooks_follow_a_failed_create() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let script = format!("cat > {}", state.display());
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hooks"] = json!({
        "createContainer": [{"path": "/bin/false"}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
    });
    let (_, created) = rrun.create(&bundle);
    created.fails();
    let state: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    assert_eq!(state["status"], "stopped");
    assert!(state.get("pid").is_none());
}

#[test]
fn hooks_on_the_host_inherit_the_environment_and_are_in_the_bundle() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    let script = format!("echo \"$RRUN_TEST_INHERITED $PWD\" >> {}", file.display());
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", script]},
        {"path": "/bin/sh", "args": ["sh", "-c", script], "env": []},
    ]});
    let path = bundle.write().to_str().unwrap().to_owned();
    let status = rrun
        .command(&["run", "--bundle", &path, &rrun.id()])
        .env("RRUN_TEST_INHERITED", "yes")
        .status();
    assert!(status.unwrap().success());
    let expected = format!("yes {path}\n {path}\n");
    assert_eq!(fs::read_to_string(file).unwrap(), expected);
}

#[test]
fn file_that_is_not_the_device_is_refused() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("stat -c %t:%T /thing");
    fs::write(bundle.rootfs().join("thing"), "").unwrap();
    let device = json!([{"type": "c", "path": "/thing", "major": 1, "minor": 3}]);
    bundle.config["linux"]["devices"] = device;
    let error = rrun.run(&bundle).fails();
    assert!(
        error.contains("/thing") && error.contains("not this device"),
        "{error}"
    );
    fs::remove_file(bundle.rootfs().join("thing")).unwrap();
    for _ in 0..2 {
        // The second time it is there, and right.
        assert_eq!(rrun.run(&bundle).ok(), "1:3\n");
    }
}

#[test]
fn ptmx_is_there_without_a_devpts_of_its_own() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("readlink /dev/ptmx");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/dev/pts");
    assert_eq!(rrun.run(&bundle).ok(), "pts/ptmx\n");
}

#[test]
fn remount_changes_attributes_and_file_system_options() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("grep ' /t ' /proc/self/mountinfo | sed 's/.* - //'; touch /t/x 2>&1");
    let mount = |options: &[&str]| json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options});
    add_mount(&mut bundle, mount(&["size=64k"]));
    add_mount(&mut bundle, mount(&["remount", "ro", "size=8k"]));
    let ran = rrun.run(&bundle);
    assert_ne!(ran.code, 0);
    let mut lines = ran.out.lines();
    assert!(lines.next().unwrap().contains("size=8k"), "{}", ran.out);
    assert!(lines.next().unwrap().contains("Read-only"), "{}", ran.out);
    assert_eq!(lines.next(), None, "mounted once: {}", ran.out);
}

#[test]
fn read_only_path_leaves_mounts_below_it() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("touch /fixed/x 2>&1; touch /fixed/sub/x && echo fine");
    add_mount(
        &mut bundle,
        json!({"destination": "/fixed/sub", "type": "tmpfs", "source": "tmpfs"}),
    );
    bundle.config["linux"]["readonlyPaths"] = json!(["/fixed"]);
    let out = rrun.run(&bundle).ok();
    assert!(
        out.contains("Read-only") && out.ends_with("fine\n"),
        "{out}"
    );
}

#[test]
fn state_tells_the_version_that_it_is_in() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = Bundle::new(&["sleep", "100"]);
    bundle.config["ociVersion"] = "1.0.2".into();
    let (id, created) = rrun.create(&bundle);
    created.ok();
    assert_eq!(rrun.state(&id)["ociVersion"], "1.3.0");
}

#[test]
fn host_name_needs_a_namespace_with_or_without_linux() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hostname"] = "x".into();
    bundle.config.as_object_mut().unwrap().remove("linux");
    let error = rrun.run(&bundle).fails();
    assert!(error.contains("hostname"), "{error}");
}

#[test]
fn scheduler_options_of_another_policy_are_refused() {
    require!(Need::Root);
    let rrun = Runtime::new();
    for (scheduler, field) in [
        (json!({"policy": "SCHED_OTHER", "nice": 40}), "nice"),
        (json!({"policy": "SCHED_BATCH", "priority": 1}), "priority"),
        (json!({"policy": "SCHED_OTHER", "runtime": 1}), "runtime"),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["process"]["scheduler"] = scheduler;
        let error = rrun.run(&bundle).fails();
        assert!(
            error.contains(&format!("process.scheduler.{field}")),
            "{error}"
        );
    }
}

#[test]
fn groups_are_kept_for_cruns_annotation() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("grep Groups /proc/self/status");
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    assert_eq!(
        rrun.run(&bundle)
            .ok()
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["Groups:", "7"]
    );
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|l| l.starts_with("Groups:"))
        .unwrap()
        .trim();
    bundle.config["annotations"] = json!({"run.oci.keep_original_groups": "1"});
    assert_eq!(rrun.run(&bundle).ok().trim(), own);
}

#[test]
fn log_goes_to_a_file_named_with_its_backend() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let log = format!("file:{}", file.display());
    rrun.rrun(&["--log", &log, "state", "nobody"]).fails();
    assert!(fs::read_to_string(file).unwrap().contains("does not exist"));
}
