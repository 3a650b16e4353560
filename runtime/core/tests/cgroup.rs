//! The life of a cgroup on this machine, whichever hierarchies it has.

#![allow(clippy::unwrap_used)]

use rrun_core::cgroup::{Cgroup, Manager, Plan, Request};
use rrun_core::oci::LinuxResources;
use rrun_tests::{Need, require, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// A cgroup of this test's own, removed at the end whatever happens.
struct Scene {
    cgroup: Cgroup,
    plan: Plan,
    children: Vec<Child>,
}

impl Scene {
    fn new(name: &str, resources: &str) -> Self {
        let path = PathBuf::from(format!("/rrun-test-{}/{name}", std::process::id()));
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let plan = Plan::from_spec(&Request {
            id: name,
            path: Some(&path),
            resources: Some(&resources),
            manager: Manager::Cgroupfs,
            rootless: false,
        })
        .unwrap();
        let mut cgroup = plan.begin().unwrap();
        cgroup.complete(&plan, None).unwrap();
        cgroup.limit(&plan).unwrap();
        Self {
            cgroup,
            plan,
            children: Vec::new(),
        }
    }

    /// Starts a process that enters every hierarchy by itself.
    fn start(&mut self, script: &str) -> i32 {
        let mut join = String::new();
        for (controller, dir) in self.cgroup.paths() {
            let file = if controller.is_empty() {
                "cgroup.procs"
            } else {
                "tasks"
            };
            join.push_str(&format!("echo 0 > {}/{file} || exit 99\n", dir.display()));
        }
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(join + script)
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        wait_until(
            "the process is in its cgroups",
            Duration::from_mins(1),
            || {
                let pids = self.cgroup.pids().unwrap();
                // The shell is in the last hierarchy when it is in all of them.
                pids.contains(&pid) && command(pid) != "sh"
            },
        );
        pid
    }

    fn file(&self, v1: (&str, &str), v2: &str) -> String {
        let paths = self.cgroup.paths();
        let path = match paths.get(v1.0) {
            Some(dir) => dir.join(v1.1),
            None => paths[""].join(v2),
        };
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    }
}

fn command(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.cgroup.kill(9);
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.cgroup.delete();
        for dir in self.cgroup.paths().values() {
            let _ = std::fs::remove_dir(dir.parent().unwrap());
        }
    }
}

#[test]
fn limits_are_in_the_kernel_and_everything_is_removed() {
    require!(Need::Root);
    let scene = Scene::new(
        "limits",
        r#"{"memory":{"limit":33554432},"pids":{"limit":17},
            "cpu":{"shares":512,"quota":50000,"period":100000}}"#,
    );
    assert_eq!(
        scene.file(("memory", "memory.limit_in_bytes"), "memory.max"),
        "33554432"
    );
    assert_eq!(scene.file(("pids", "pids.max"), "pids.max"), "17");
    let shares = scene.file(("cpu", "cpu.shares"), "cpu.weight");
    assert!(shares == "512" || shares == "59", "{shares}");
    let quota = scene.file(("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");

    scene.cgroup.delete().unwrap();
    scene.cgroup.delete().unwrap();
    assert!(scene.cgroup.paths().values().all(|dir| !dir.exists()));
    drop(scene);
}

#[test]
fn freeze_and_kill_reach_every_process() {
    require!(Need::Root);
    let mut scene = Scene::new("kill", "{}");
    scene.start("exec sleep 1000");
    scene.start("exec sleep 1001");
    assert!(!scene.cgroup.is_frozen().unwrap());
    scene.cgroup.freeze().unwrap();
    assert!(scene.cgroup.is_frozen().unwrap());
    scene.cgroup.thaw().unwrap();
    assert!(!scene.cgroup.is_frozen().unwrap());

    scene.cgroup.freeze().unwrap();
    scene.cgroup.kill(9).unwrap();
    for child in &mut scene.children {
        child.wait().unwrap();
    }
    assert_eq!(scene.cgroup.pids().unwrap(), Vec::<i32>::new());
    scene.cgroup.delete().unwrap();
}

#[test]
fn cgroup_in_use_is_refused_and_left_alone() {
    require!(Need::Root);
    let mut scene = Scene::new("used", "{}");
    let pid = scene.start("exec sleep 1000");
    let again = scene
        .plan
        .begin()
        .and_then(|mut cgroup| cgroup.complete(&scene.plan, None));
    let error = again.unwrap_err().chain();
    assert!(
        error.contains("container's cgroup is not empty: 1 process(es) found"),
        "{error}"
    );
    assert_eq!(scene.cgroup.pids().unwrap(), [pid]);
}

#[test]
fn state_json_paths_open_the_same_cgroup() {
    require!(Need::Root);
    let mut scene = Scene::new("open", "{}");
    let pid = scene.start("exec sleep 1000");
    let opened = Cgroup::open(Manager::Cgroupfs, &scene.cgroup.paths()).unwrap();
    assert_eq!(opened.paths(), scene.cgroup.paths());
    assert_eq!(opened.pids().unwrap(), [pid]);
    assert!(
        opened
            .exec_joiner(&rrun_core::cgroup::SubCgroups::new())
            .is_ok()
    );
}

/// A device that the container may not use cannot be opened, one that it may can.
#[test]
fn device_rules_hold() {
    require!(Need::Root, Need::Path("/dev/kmsg"));
    let mut scene = Scene::new("devices", "{}");
    let out = std::env::temp_dir().join(format!("rrun-devices-{}", std::process::id()));
    let tries = "(echo > /dev/null) && echo null; (exec 3< /dev/kmsg) && echo kmsg";
    scene.start(&format!(
        "{{ {tries}; }} > {} 2>&1; exec sleep 1000",
        out.display()
    ));
    let text = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    assert!(text.contains("null"), "{text}");
    assert!(
        text.contains("Operation not permitted") && !text.lines().any(|l| l == "kmsg"),
        "{text}"
    );
}

#[test]
fn failed_creation_leaves_no_directory() {
    require!(Need::Root, Need::CgroupV1);
    let name = format!("/rrun-test-{}-undo", std::process::id());
    let resources: LinuxResources =
        serde_json::from_str(r#"{"cpu":{"cpus":"1000-1001"}}"#).unwrap();
    let plan = Plan::from_spec(&Request {
        id: "undo",
        path: Some(Path::new(&name)),
        resources: Some(&resources),
        manager: Manager::Cgroupfs,
        rootless: false,
    })
    .unwrap();
    let mut cgroup = plan.begin().unwrap();
    let error = cgroup.complete(&plan, None).unwrap_err().chain();
    assert!(
        error.contains("cpuset.cpus") && error.contains("1000-1001"),
        "{error}"
    );
    assert!(!Path::new("/sys/fs/cgroup/cpuset").join(&name[1..]).exists());
    assert!(
        !Path::new("/sys/fs/cgroup/unified")
            .join(&name[1..])
            .exists()
    );
}
