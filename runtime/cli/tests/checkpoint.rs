//! Checkpoint and restore by CRIU.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, shell};
use rrun_tests::{Bundle, Need, require};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why criu itself cannot work on this kernel, if so.
fn criu_refuses() -> Option<String> {
    let output = Command::new("criu").arg("check").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then(|| {
        format!(
            "criu check fails: {}",
            text.lines().next().unwrap_or_default()
        )
    })
}

/// `restore --detach`, its streams at /dev/null.
fn restore(rrun: &Runtime, bundle: &Bundle, images: &Path, id: &str) -> bool {
    let dir = bundle.write().to_str().unwrap().to_owned();
    let images = images.to_str().unwrap();
    let log = rrun.root().with_extension("restore");
    let mut command = rrun.command(&["--log", log.to_str().unwrap(), "restore", "--detach"]);
    command.args([
        "--bundle",
        &dir,
        "--image-path",
        images,
        "--pid-file",
        "pid",
        id,
    ]);
    command.current_dir(rrun.root());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let done = command.status().unwrap().success();
    if !done {
        eprintln!("{}", fs::read_to_string(&log).unwrap_or_default());
    }
    let _ = fs::remove_file(log);
    done
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    require!(Need::Root, Need::Program("criu"));
    if let Some(why) = criu_refuses() {
        rrun_tests::report_skip(module_path!(), &why);
        return;
    }
    let rrun = Runtime::new();
    let bundle = shell("i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done");
    let count = || -> u32 {
        let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let id = rrun.start(&bundle);
    while count() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let images = tempfile::tempdir().unwrap();
    let path = images.path().join("images");
    let image_path = path.to_str().unwrap();
    rrun.rrun(&[
        "checkpoint",
        "--leave-running",
        "--image-path",
        image_path,
        &id,
    ])
    .ok();
    assert_eq!(rrun.state(&id)["status"], "running");
    rrun.rrun(&["checkpoint", "--image-path", image_path, &id])
        .ok();
    rrun.rrun(&["state", &id]).fails();
    let before = count();
    assert!(restore(&rrun, &bundle, &path, &id));
    assert_eq!(rrun.state(&id)["status"], "running");
    // A relative path is the caller's still.
    let pid = fs::read_to_string(rrun.root().join("pid")).unwrap();
    assert_eq!(rrun.state(&id)["pid"].to_string(), pid);
    while count() <= before {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(count() < before + 100, "it began anew");
    assert_eq!(rrun.rrun(&["exec", &id, "echo", "ok"]).ok(), "ok\n");
    rrun.rrun(&["delete", "--force", &id]).ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("criu-root"), "{mounts}");
}

#[test]
fn what_cannot_be_checkpointed_says_why_and_goes_on() {
    require!(Need::Root, Need::Program("criu"));
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let (id, created) = rrun.create(&bundle);
    created.ok();
    let error = rrun.rrun(&["checkpoint", &id]).fails();
    assert!(
        error.contains("Container cannot be checkpointed in created state"),
        "{error}"
    );
    rrun.rrun(&["start", &id]).ok();
    let error = rrun
        .rrun(&["checkpoint", "--parent-path", "/abs", &id])
        .fails();
    assert!(error.contains("--parent-path must be relative"), "{error}");
    let error = rrun
        .rrun(&["checkpoint", "--manage-cgroups-mode", "some", &id])
        .fails();
    assert!(error.contains("manage-cgroups-mode"), "{error}");
    if criu_refuses().is_some() {
        let images = tempfile::tempdir().unwrap();
        let images = images.path().to_str().unwrap();
        let error = rrun
            .rrun(&["checkpoint", "--image-path", images, &id])
            .fails();
        assert!(error.contains("criu"), "{error}");
    }
    assert_eq!(rrun.state(&id)["status"], "running");
    let error = rrun
        .rrun(&["restore", "--image-path", "/not/there", "other"])
        .fails();
    assert!(
        error.contains("other") || error.contains("/not/there") || error.contains("config.json"),
        "{error}"
    );
}
