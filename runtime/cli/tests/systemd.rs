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

/// Run by `integration/vmrun --systemd --cgroups hybrid` (and `v1`).
#[test]
fn scope_is_in_every_v1_hierarchy() {
    require!(Need::Root, Need::CgroupV1, Need::Systemd);
    let rrun = Runtime::new();
    let id = rrun.id();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("rrun-test.slice:rrun:{id}"));
    bundle.config["linux"]["resources"] =
        json!({"memory": {"limit": 67_108_864}, "cpu": {"quota": 50_000, "period": 100_000}});
    let dir = bundle.write().to_str().unwrap().to_owned();
    let create = ["--systemd-cgroup", "create", "--bundle", &dir, &id];
    let mut command = rrun.command(&create);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());

    let scope = format!("rrun-{id}.scope");
    assert_eq!(property(&scope, "MemoryLimit"), "67108864");
    assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&scope, "DevicePolicy"), "strict");
    let path = format!("/rrun.slice/rrun-test.slice/{scope}");
    let pid = rrun.state(&id)["pid"].clone();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let elsewhere = |line: &&str| !line.ends_with(&path);
    assert_eq!(cgroups.lines().find(elsewhere), None, "{cgroups}");
    // A reload sets what systemd knows of devices again.
    let devices = format!("/sys/fs/cgroup/devices{path}/devices.list");
    let reload = Command::new("systemctl").arg("daemon-reload").status();
    assert!(reload.unwrap().success());
    let list = std::fs::read_to_string(&devices).unwrap();
    assert!(
        !list.contains("a *:*") && list.contains("c 1:3 rwm"),
        "{list}"
    );

    rrun.rrun(&["delete", "--force", &id]).ok();
    assert!(!std::path::Path::new(&devices).exists());
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
