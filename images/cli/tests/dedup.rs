//! Identical files of layers share their blocks where the file system can.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::{Tool, outside};
use rrun_tests::{Need, noise, require};

/// An XFS in a file, taken down with this.
struct Disk(PathBuf);

impl Disk {
    fn new(tool: &Tool) -> Option<Self> {
        let (file, mount) = (tool.path("disk"), tool.path("disk.mnt"));
        fs::create_dir(&mount).unwrap();
        let made = fs::File::create(&file).and_then(|f| f.set_len(512 << 20));
        made.unwrap();
        outside(
            "mkfs.xfs",
            &["-q", "-m", "reflink=1", file.to_str().unwrap()],
        );
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .args([&file, &mount])
            .output();
        mounted.unwrap().status.success().then_some(Self(mount))
    }

    /// Blocks in use, once all that was written has them.
    fn used(&self) -> u64 {
        outside("sync", &["-f", self.0.to_str().unwrap()]);
        let text = outside("stat", &["-f", "-c", "%b %f %S", self.0.to_str().unwrap()]);
        let numbers: Vec<u64> = text
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        (numbers[0] - numbers[1]) * numbers[2]
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Two images without a layer in common, with one large file in common, one of the same size that
/// differs at its end, and a small one.
fn build(tool: &Tool, store: &Path) {
    for image in ["one", "two"] {
        let dir = tool.path(image);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(image), image).unwrap();
        fs::write(dir.join("same"), noise(1, 2_000_001)).unwrap();
        let mut differs = noise(2, 1_000_000);
        differs.extend_from_slice(image.as_bytes());
        fs::write(dir.join("differs"), differs).unwrap();
        fs::write(dir.join("small"), "small").unwrap();
        let tag = format!("d.test/{image}:1");
        let built = Command::new(env!("CARGO_BIN_EXE_rrun-image"))
            .arg("--store")
            .arg(store)
            .args(["build-layers", dir.to_str().unwrap(), "--tag", &tag])
            // Its library is fast also in a test build.
            .args(["--compression", "zstd"])
            .output();
        assert!(built.unwrap().status.success());
    }
}

fn run(store: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rrun-image"));
    command
        .arg("--store")
        .arg(store)
        .args(args)
        .output()
        .unwrap()
}

/// Attributes of each file of the layers, and their bytes.
fn files(store: &Path) -> Vec<(String, u64, i64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    for layer in fs::read_dir(store.join("layers")).unwrap() {
        for entry in fs::read_dir(layer.unwrap().path().join("fs")).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::metadata(&path).unwrap();
            let name = path.display().to_string();
            let bytes = fs::read(&path).unwrap();
            found.push((name, meta.ino(), meta.mtime(), meta.nlink(), bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn identical_files_of_layers_are_stored_once() {
    require!(
        Need::Root,
        Need::Program("mkfs.xfs"),
        Need::Path("/dev/loop-control")
    );
    let tool = Tool::new();
    let Some(disk) = Disk::new(&tool) else {
        rrun_tests::report_skip(module_path!(), "needs XFS in the kernel and a loop device");
        return;
    };
    let store = disk.0.join("store");
    build(&tool, &store);
    let (before, used) = (files(&store), disk.used());
    let done = run(&store, &["dedup", "--json"]);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{stderr}");
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done, serde_json::json!({"files": 1, "bytes": 2_000_001}));
    assert!(files(&store) == before, "nothing of the files is another");
    let now = disk.used();
    assert!(now + 1_800_000 < used, "{used} bytes before, {now} after");
    assert!(run(&store, &["check"]).status.success());
}

#[test]
fn a_file_system_that_cannot_share_is_said_so() {
    require!(
        Need::Root,
        Need::Program("mkfs.ext4"),
        Need::Path("/dev/loop-control")
    );
    let tool = Tool::new();
    let (file, mount) = (tool.path("ext4"), tool.path("ext4.mnt"));
    fs::create_dir(&mount).unwrap();
    let made = fs::File::create(&file).and_then(|f| f.set_len(64 << 20));
    made.unwrap();
    outside("mkfs.ext4", &["-q", file.to_str().unwrap()]);
    let mounted = Command::new("mount")
        .args(["-o", "loop"])
        .args([&file, &mount])
        .output();
    if !mounted.unwrap().status.success() {
        rrun_tests::report_skip(module_path!(), "needs a loop device that may be mounted");
        return;
    }
    let disk = Disk(mount);
    let store = disk.0.join("store");
    build(&tool, &store);
    let refused = run(&store, &["dedup"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && stderr.contains("share blocks"),
        "{stderr}"
    );
}
