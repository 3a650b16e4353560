//! Kills, full disks and users without privileges.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use kit::{Tool, outside};
use rrun_tests::{Need, Registry, require};

/// An image of a few megabytes that do not compress.
fn push_noise(tool: &Tool, registry: &Registry) -> String {
    let (dir, name) = (tool.path("noise"), format!("{}/noise:1", registry.host()));
    fs::create_dir_all(&dir).unwrap();
    for i in 0..40 {
        let noise = Command::new("head")
            .args(["-c", "300000", "/dev/urandom"])
            .output()
            .unwrap();
        fs::write(dir.join(i.to_string()), noise.stdout).unwrap();
    }
    tool.ok(&["build-layers", dir.to_str().unwrap(), "--tag", &name]);
    tool.ok(&["push", "--quiet", &name]);
    tool.ok(&["remove", &name]);
    name
}

fn count(tool: &Tool, dir: &str) -> usize {
    fs::read_dir(tool.path("store").join(dir)).unwrap().count()
}

#[test]
fn a_killed_pull_leaves_nothing_that_the_next_start_does_not_remove() {
    require!(Need::Root, Need::Program("docker-registry"));
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = push_noise(&tool, &registry);
    for lines in 1..8 {
        let mut pull = tool
            .command(&["pull", "--json", &name])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(pull.stdout.take().unwrap());
        stdout.lines().take(lines * 4).for_each(drop);
        pull.kill().unwrap();
        pull.wait().unwrap();
        let listed = tool.ok(&["list", "--quiet"]);
        if listed.is_empty() {
            assert_eq!((count(&tool, "leases"), count(&tool, "layers")), (0, 0));
            let partial = |e: &fs::DirEntry| e.path().extension().is_some_and(|e| e == "partial");
            let left = fs::read_dir(tool.path("store/ingest")).unwrap();
            assert!(left.map(|e| e.unwrap()).all(|e| partial(&e)));
        }
    }
    tool.ok(&["pull", "--quiet", &name]);
    let flat = tool.path("flat");
    tool.ok(&[
        "unpack",
        "--flat",
        "--rootfs-only",
        &name,
        flat.to_str().unwrap(),
    ]);
    outside(
        "diff",
        &[
            "-r",
            tool.path("noise").to_str().unwrap(),
            flat.to_str().unwrap(),
        ],
    );
    tool.ok(&["prune", "--all"]);
    for dir in [
        "blobs/sha256",
        "layers",
        "ingest",
        "leases",
        "locks",
        "trash",
    ] {
        assert_eq!(count(&tool, dir), 0, "{dir}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("unshare")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = push_noise(&tool, &registry);
    let small = format!("{}/small:1", registry.host());
    tool.build(&small);
    tool.ok(&["push", "--quiet", &small]);
    let script = format!(
        "set -e; mount -t tmpfs -o size=4m none {store}; run='{tool} --store {store}'\n\
         $run pull -q {small}\n\
         if $run pull -q {name}; then exit 9; fi\n\
         $run list; $run prune; du -s {store}",
        store = tool.path("store").display(),
        tool = env!("CARGO_BIN_EXE_rrun-image"),
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(
        stdout.contains(&small) && !stdout.contains(&name),
        "{stdout}"
    );
    let used: u64 = stdout
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(used < 200, "{used} KiB left behind");
}

/// Runs the tool as a user without privileges.
fn as_nobody(tool: &Tool, args: &[&str]) -> std::process::Output {
    Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(env!("CARGO_BIN_EXE_rrun-image"))
        .arg("--store")
        .arg(tool.path("user/store"))
        .args(args)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

#[test]
fn rootless_pulls_work_and_refuse_devices() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("setpriv")
    );
    let reachable = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .args([env!("CARGO_BIN_EXE_rrun-image"), "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !reachable {
        rrun_tests::report_skip(module_path!(), "needs a target directory that all may read");
        return;
    }
    let (tool, registry) = (Tool::new(), Registry::start());
    let (good, bad) = (
        format!("{}/good:1", registry.host()),
        format!("{}/bad:1", registry.host()),
    );
    tool.build(&good);
    tool.ok(&["push", "--quiet", &good]);
    let devices = tool.path("devices");
    fs::create_dir(&devices).unwrap();
    outside(
        "mknod",
        &[devices.join("null").to_str().unwrap(), "c", "1", "3"],
    );
    tool.ok(&["build-layers", devices.to_str().unwrap(), "--tag", &bad]);
    tool.ok(&["push", "--quiet", &bad]);
    let home = tool.path("user");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(tool.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let output = as_nobody(&tool, &["pull", "--quiet", &good]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = as_nobody(&tool, &["pull", "--quiet", &bad]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("\"null\"") && stderr.contains("device"),
        "{stderr}"
    );
    let output = as_nobody(&tool, &["remove", &good]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read_dir(home.join("store/layers")).unwrap().count(), 0);
}
