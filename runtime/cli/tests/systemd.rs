//! The systemd cgroup manager, against the machine's systemd.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::Runtime;
use rrun_tests::{Bundle, Need, require};
use serde_json::json;
use std::process::{Command, Stdio};

fn property(unit: &str, name: &str) -> String {
    let output = Command::new("systemctl")
        .args(["show", "--value", "-p", name, unit])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn scope_holds_the_limits_and_is_gone_with_the_container() {
    require!(Need::Root, Need::CgroupV2, Need::Systemd);
    let rrun = Runtime::new();
    let id = rrun.id();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("system.slice:rrun:{id}"));
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}});
    bundle.config["annotations"] =
        json!({"org.systemd.property.TimeoutStopUSec": "uint64 123456000"});
    let dir = bundle.write().to_str().unwrap().to_owned();
    let create = ["--systemd-cgroup", "create", "--bundle", &dir, &id];
    let status = rrun
        .command(&create)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    rrun.rrun(&["start", &id]).ok();

    let scope = format!("rrun-{id}.scope");
    assert_eq!(property(&scope, "MemoryMax"), "67108864");
    assert_eq!(property(&scope, "Delegate"), "yes");
    assert!(property(&scope, "TimeoutStopUSec").starts_with("2min 3.456"));
    let cgroup = rrun.rrun(&["exec", &id, "cat", "/proc/self/cgroup"]).ok();
    assert!(cgroup.trim_end().ends_with(&scope), "{cgroup}");

    rrun.rrun(&["update", "--memory", "48M", "--pids-limit", "33", &id])
        .ok();
    assert_eq!(property(&scope, "MemoryMax"), "50331648");
    assert_eq!(property(&scope, "TasksMax"), "33");
    // A reload sets what systemd knows again.
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    let file = format!("/sys/fs/cgroup/system.slice/{scope}/memory.max");
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), "50331648");

    rrun.rrun(&["delete", "--force", &id]).ok();
    assert!(!std::path::Path::new(&file).exists());
    assert_eq!(property(&scope, "LoadState"), "not-found");
}

#[test]
fn path_in_the_other_managers_form_is_refused() {
    require!(Need::Root, Need::CgroupV2);
    let rrun = Runtime::new();
    let id = rrun.id();
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["linux"]["cgroupsPath"] = json!("/some/path");
    let dir = bundle.write().to_str().unwrap().to_owned();
    let error = rrun
        .rrun(&["--systemd-cgroup", "run", "--bundle", &dir, &id])
        .fails();
    assert!(error.contains("slice:prefix:name"), "{error}");
}
