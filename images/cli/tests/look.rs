//! Looking into images and containers, and who else may.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use kit::Tool;
use rrun_tests::{Need, require};

#[test]
fn an_image_is_mounted_read_only_and_without_privileges() {
    require!(Need::Root);
    let tool = Tool::new();
    tool.build("example.org/app:1");
    let target = tool.path("mnt");
    fs::create_dir(&target).unwrap();
    let at = target.to_str().unwrap();
    tool.ok(&["mount", "example.org/app:1", at]);
    assert_eq!(fs::read_to_string(target.join("bin/tool")).unwrap(), "one");
    assert!(fs::write(target.join("new"), "x").is_err());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(at)).unwrap();
    assert!(line.contains("ro,nosuid,nodev"), "{line}");
    tool.ok(&["remove", "example.org/app:1"]);
    assert!(target.join("etc/passwd").exists(), "its layers stay");
    tool.ok(&["unmount", at]);
    assert!(!target.join("etc").exists());
    assert!(tool.fails(&["unmount", at]).contains("no image"));
    tool.ok(&["prune"]);
    assert_eq!(fs::read_dir(tool.path("store/layers")).unwrap().count(), 0);
}

#[test]
fn a_diff_shows_what_a_container_wrote() {
    require!(Need::Root);
    let tool = Tool::new();
    tool.build("example.org/app:1");
    let bundle = tool.path("box");
    tool.ok(&["unpack", "example.org/app:1", bundle.to_str().unwrap()]);
    let upper = bundle.join("overlay/upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/passwd"), "changed").unwrap();
    fs::write(upper.join("etc/new"), "new").unwrap();
    fs::create_dir(upper.join("bin")).unwrap();
    kit::outside(
        "mknod",
        &[upper.join("bin/tool").to_str().unwrap(), "c", "0", "0"],
    );
    assert_eq!(
        tool.ok(&["diff", "box"]),
        "C /bin\nD /bin/tool\nC /etc\nA /etc/new\nC /etc/passwd"
    );
    tool.ok(&["release", "box"]);
    assert!(tool.fails(&["diff", "box"]).contains("box"));
}

/// A set-user-id program of an image, with whatever weakness its version has, must not be there
/// for the other users of the machine.
#[test]
fn cve_2021_41103_other_users_reach_no_layer_and_no_container() {
    require!(Need::Root, Need::Program("setpriv"));
    let tool = Tool::new();
    fs::set_permissions(tool.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    // A store of an older version was open to all.
    let store = tool.path("store");
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    tool.build("example.org/app:1");
    let bundle = tool.path("box");
    tool.ok(&["unpack", "example.org/app:1", bundle.to_str().unwrap()]);
    for dir in [&store, &bundle.join("overlay")] {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
        let listed = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls"])
            .arg(dir)
            .output()
            .unwrap();
        assert!(!listed.status.success());
    }
    tool.ok(&["release", "box"]);
}

#[test]
fn completion_needs_no_store() {
    let output = Command::new(env!("CARGO_BIN_EXE_rrun-image"))
        .args(["--store", "/proc/nowhere", "completion", "bash"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("rrun-image"));
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let tool = Tool::new();
    let pages = tool.path("man");
    tool.ok(&["man", pages.to_str().unwrap()]);
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("rrun-image.1").contains("rrun\\-image\\-build\\-layers(1)"));
    let pull = page("rrun-image-pull.1");
    assert!(
        pull.starts_with(".ie") && pull.contains("discard\\-blobs"),
        "{pull}"
    );
    assert!(pull.contains("Examples"), "{pull}");
    assert!(tool.ok(&["man"]).contains(".TH rrun"));
}

/// An ext4 with project quotas in a file.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(tool: &Tool) -> Option<Self> {
        let (file, mount) = (tool.path("disk"), tool.path("disk.mnt"));
        fs::create_dir(&mount).unwrap();
        let made = fs::File::create(&file).and_then(|f| f.set_len(64 << 20));
        made.unwrap();
        kit::outside(
            "mkfs.ext4",
            &[
                "-q",
                "-O",
                "quota,project",
                "-E",
                "quotatype=prjquota",
                file.to_str().unwrap(),
            ],
        );
        let mounted = Command::new("mount")
            .args(["-o", "loop,prjquota"])
            .args([&file, &mount])
            .output()
            .unwrap();
        mounted.status.success().then_some(Self(mount))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A container is told of the end of its space, keeps what it wrote when it is started again, and
/// who comes after it under the same name starts with nothing.
fn container_under_quota(tool: &Tool, disk: &Disk) {
    if rrun_tests::find_program("busybox").is_none() {
        return;
    }
    let rootfs = tool.path("rootfs");
    rrun_tests::busybox_rootfs(&rootfs);
    let rootfs = rootfs.to_str().unwrap();
    tool.ok(&["build-layers", rootfs, "--tag", "example.org/box:1"]);
    let (bundle, state) = (disk.0.join("full"), tool.path("state"));
    let fill =
        "dd if=/dev/zero of=/much bs=64k count=100 2>&1; stat -c %s /much /kept; echo x > /kept";
    let unpack = [
        "unpack",
        "example.org/box:1",
        bundle.to_str().unwrap(),
        "--disk",
        "1m",
    ];
    let run = || {
        let mut command = Command::new(rrun_tests::program("rrun"));
        command.arg("--root").arg(&state);
        let output = command
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg("full")
            .output();
        let output = output.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let project = || {
        let record = fs::read(tool.path("store/rootfs/full.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["project"].as_u64().unwrap()
    };
    let mut projects = Vec::new();
    for _ in 0..2 {
        tool.ok(&[&unpack[..], &["--", "sh", "-c", fill]].concat());
        let said = run();
        let told = said.contains("No space left") || said.contains("quota exceeded");
        assert!(told && !said.contains("6553600"), "{said}");
        // The same writable layer, under the same bound.
        let said = run();
        let told = said.contains("No space left") || said.contains("quota exceeded");
        assert!(told, "{said}");
        projects.push(project());
        tool.ok(&["release", "full"]);
        fs::remove_dir_all(&bundle).unwrap();
    }
    assert_eq!(
        projects[0], projects[1],
        "a project that was given back is free"
    );
}

#[test]
fn a_container_writes_no_more_than_its_quota() {
    require!(
        Need::Root,
        Need::Program("mkfs.ext4"),
        Need::Path("/dev/loop-control")
    );
    let tool = Tool::new();
    tool.build("example.org/app:1");
    let Some(disk) = Disk::new(&tool) else {
        rrun_tests::report_skip(module_path!(), "needs a kernel with quotas");
        return;
    };
    tool.ok(&[
        "unpack",
        "example.org/app:1",
        disk.0.join("free").to_str().unwrap(),
    ]);
    fs::write(disk.0.join("free/overlay/upper/much"), vec![1; 2_000_000]).unwrap();
    tool.ok(&["release", "free"]);
    container_under_quota(&tool, &disk);
    let plain = tool.path("plain");
    let refused = tool.fails(&[
        "unpack",
        "example.org/app:1",
        plain.to_str().unwrap(),
        "--disk",
        "1m",
    ]);
    assert!(refused.contains("prjquota"), "{refused}");
    assert!(
        tool.fails(&["diff", "plain"]).contains("plain"),
        "no record stays"
    );
}
