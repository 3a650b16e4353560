//! A kill -9 at every write, and power cuts after which only what was synced is left.
#![allow(clippy::unwrap_used)]

mod kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kit::{Tool, outside};
use rrun_tests::{Need, Registry, require, wait_until};

/// System calls that change what a store holds.
const WRITES: &str = "write,pwrite64,writev,openat,?mkdir,mkdirat,mknodat,linkat,symlinkat,\
                      ?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,ftruncate,fsync,fdatasync";

/// Runs the tool on a store; `inject` is for strace.
fn traced(store: &Path, inject: &str, args: &[&str]) -> Output {
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .args(["-e", &format!("trace={WRITES}")])
        .args(["-e", &format!("inject={inject}")])
        .arg(env!("CARGO_BIN_EXE_rrun-image"))
        .arg("--store")
        .arg(store)
        .args(args)
        .output()
        .unwrap()
}

fn run(store: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rrun-image"))
        .arg("--store")
        .arg(store)
        .args(args)
        .output()
        .unwrap()
}

fn ok(store: &Path, args: &[&str]) -> String {
    let output = run(store, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What is listed is whole.
fn is_sound(store: &Path, when: &str) -> usize {
    let listed = ok(store, &["list", "--quiet"]).lines().count();
    let check = run(store, &["check"]);
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{when}: {text}");
    listed
}

fn pushed(tool: &Tool, registry: &Registry) -> String {
    let name = format!("{}/app:1", registry.host());
    tool.build(&name);
    tool.ok(&["push", "--quiet", &name]);
    name
}

#[test]
fn a_kill_at_every_write_loses_and_breaks_no_image() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("strace")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = pushed(&tool, &registry);
    let other = format!("{}/app:2", registry.host());
    let store = tool.path("killed");
    let mut killed = 0;
    // strace counts each call of each thread for itself: the n-th of any of them kills.
    for n in (1..16).chain((16..400).step_by(6)) {
        let inject = format!("{WRITES}:signal=SIGKILL:when={n}");
        let pull = traced(&store, &inject, &["pull", "--quiet", &name]);
        let listed = is_sound(&store, &format!("pull killed at write {n}"));
        if pull.status.success() {
            assert_eq!(listed, 1);
            break;
        }
        killed += 1;
        if listed == 1 {
            ok(&store, &["remove", &name]);
        }
        ok(&store, &["prune", "--all"]);
    }
    assert!(killed > 10, "the pull was killed {killed} times only");
    for n in (1..200).step_by(7) {
        let inject = format!("{WRITES}:signal=SIGKILL:when={n}");
        let tag = traced(&store, &inject, &["tag", &name, &other]);
        assert_eq!(is_sound(&store, &format!("tag killed at write {n}")), 1);
        if tag.status.success() {
            break;
        }
    }
    for n in (1..200).step_by(7) {
        let inject = format!("{WRITES}:signal=SIGKILL:when={n}");
        let remove = traced(&store, &inject, &["remove", &other]);
        is_sound(&store, &format!("remove killed at write {n}"));
        if remove.status.success() || !ok(&store, &["list"]).contains(&other) {
            break;
        }
    }
    assert!(ok(&store, &["list"]).contains(&name));
    ok(&store, &["remove", &name]);
    ok(&store, &["prune", "--all"]);
    for dir in ["blobs/sha256", "layers", "ingest", "leases", "trash"] {
        let left = std::fs::read_dir(store.join(dir)).unwrap().count();
        assert_eq!(left, 0, "{dir}");
    }
}

/// A disk in a file. What is in the file is what a disk has when the power goes: writes that
/// nobody waited for are in the kernel's memory only.
struct Disk {
    file: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// `None`, with the skip reported, where loop devices are there but may not be mounted (a
    /// container's device rules, a sandbox).
    fn new(tool: &Tool) -> Option<Self> {
        let (file, mount) = (tool.path("disk"), tool.path("mount"));
        std::fs::create_dir(&mount).unwrap();
        let size = std::fs::File::create(&file).and_then(|f| f.set_len(64 << 20));
        size.unwrap();
        let file_text = file.to_str().unwrap();
        outside(
            "mkfs.ext4",
            &[
                "-q",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                file_text,
            ],
        );
        let disk = Self { file, mount };
        if let Err(why) = disk.attach() {
            let why = format!("needs a loop device that may be mounted: {}", why.trim());
            rrun_tests::report_skip(module_path!(), &why);
            return None;
        }
        Some(disk)
    }

    /// The journal commits when it is asked to, not by the clock, so that a copy of the file is
    /// of one instant.
    fn attach(&self) -> Result<(), String> {
        let output = Command::new("mount")
            .args(["-o", "loop,commit=600"])
            .args([&self.file, &self.mount])
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(why)
        }
    }

    fn store(&self) -> PathBuf {
        self.mount.join("store")
    }

    /// The power goes and comes back.
    fn cut(&self) {
        let copy = self.file.with_extension("cut");
        let paths = [self.file.to_str().unwrap(), copy.to_str().unwrap()];
        outside("cp", &["--sparse=always", paths[0], paths[1]]);
        let patience = std::time::Duration::from_secs(60);
        wait_until("the disk to be free", patience, || self.detach());
        std::fs::rename(copy, &self.file).unwrap();
        self.attach().unwrap();
    }

    /// False where it is in use, as it is while a killed process is taken down.
    fn detach(&self) -> bool {
        let done = Command::new("umount").arg(&self.mount).output();
        done.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for _ in 0..200 {
            if self.detach() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

#[test]
fn only_what_was_synced_survives_and_it_is_whole() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("strace"),
        Need::Program("mkfs.ext4"),
        Need::Path("/dev/loop-control")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = pushed(&tool, &registry);
    let Some(disk) = Disk::new(&tool) else { return };
    let store = disk.store();
    ok(&store, &["list"]);
    // Power goes while it works, at different places.
    for n in [1, 3, 6, 9, 13, 17, 30, 50, 90] {
        let inject = format!("{WRITES}:signal=SIGKILL:when={n}");
        let pull = traced(&store, &inject, &["pull", "--quiet", &name]);
        disk.cut();
        let listed = is_sound(&store, &format!("power cut at write {n}"));
        assert!(
            n > 20 || !pull.status.success(),
            "it was not killed at write {n}"
        );
        if pull.status.success() {
            assert_eq!(listed, 1, "a pull that had ended was lost");
            ok(&store, &["remove", &name]);
        }
    }
    // Power goes just after it ended.
    ok(&store, &["pull", "--quiet", &name]);
    disk.cut();
    assert_eq!(is_sound(&store, "power cut after the pull"), 1);
    ok(&store, &["tag", &name, "example.org/other:1"]);
    disk.cut();
    assert!(ok(&store, &["list"]).contains("example.org/other:1"));
    ok(&store, &["remove", "example.org/other:1"]);
    ok(&store, &["remove", &name]);
    disk.cut();
    assert_eq!(is_sound(&store, "power cut after the removal"), 0);
}

/// Does the cut take anything away? Without the syncs the image must be lost or broken.
#[test]
fn a_power_cut_shows_syncs_that_are_missing() {
    require!(
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("strace"),
        Need::Program("mkfs.ext4"),
        Need::Path("/dev/loop-control")
    );
    let (tool, registry) = (Tool::new(), Registry::start());
    let name = pushed(&tool, &registry);
    let Some(disk) = Disk::new(&tool) else { return };
    let store = disk.store();
    // Where somebody syncs all of the machine meanwhile, or it takes half a minute, all is there.
    let lost = (0..5).any(|_| {
        let inject = "fsync,fdatasync:retval=0";
        let pull = traced(&store, inject, &["pull", "--quiet", &name]);
        assert!(pull.status.success());
        assert_eq!(is_sound(&store, "before the cut"), 1);
        disk.cut();
        let listed = run(&store, &["list", "--quiet"]);
        let whole = run(&store, &["check"]).status.success() && listed.stdout.len() > 64;
        if whole {
            ok(&store, &["remove", &name]);
            ok(&store, &["prune", "--all"]);
        }
        !whole
    });
    assert!(lost, "nothing was lost: the cut cuts nothing");
}
