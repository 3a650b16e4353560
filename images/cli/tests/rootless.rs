//! The whole way of a user who is not root: load, build, unpack, run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rrun_tests::{Need, busybox_rootfs, program, require};

/// An id that owns nothing on this machine, and the first that it is lent.
const NOBODY: u32 = 65534;
const LENT: u32 = 3_000_000;

/// Lays files over /etc for what follows, and becomes nobody.
const AS_NOBODY: &str = r#"
if [ -n "$LENT" ]; then mount -t overlay overlay -o "lowerdir=$LENT:/etc" /etc || exit 99; fi
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@""#;

/// A directory of nobody's with the programs in it.
struct User {
    dir: tempfile::TempDir,
    lent: bool,
}

impl User {
    fn new(lent: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = Self { dir, lent };
        let tool = PathBuf::from(env!("CARGO_BIN_EXE_rrun-image"));
        // By another process, as in rrun_tests::busybox_rootfs.
        for (from, to) in [(tool, "rrun-image"), (program("rrun"), "rrun")] {
            let copied = Command::new("cp").arg(from).arg(user.path(to)).status();
            assert!(copied.unwrap().success());
        }
        if lent {
            fs::create_dir(user.path("etc")).unwrap();
            for name in ["subuid", "subgid"] {
                let text = format!("{NOBODY}:{LENT}:65536\n");
                fs::write(user.path("etc").join(name), text).unwrap();
            }
        }
        fs::create_dir(user.path("run")).unwrap();
        for dir in ["", "run"] {
            chown(user.path(dir), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        self.run_by(&[], program, args)
    }

    /// The same by another program, which gets it as its arguments.
    fn run_by(&self, wrapper: &[&str], program: &str, args: &[&str]) -> Output {
        let lent = if self.lent {
            self.path("etc").display().to_string()
        } else {
            String::new()
        };
        let shell: &[&str] = if self.lent {
            &["unshare", "--mount", "--propagation", "private", "sh"]
        } else {
            &["sh"]
        };
        Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", AS_NOBODY, "sh"])
            .args(wrapper)
            .arg(self.path(program))
            .args(args)
            .current_dir(self.dir.path())
            .env("LENT", lent)
            .env("RRUN_IMAGE_STORE", self.path("store"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("HOME", self.dir.path())
            .output()
            .unwrap()
    }

    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {args:?}: {} {stderr}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// busybox with a file of another user's, as an archive that root made.
    fn image(&self) {
        let context = self.path("context");
        busybox_rootfs(&context.join("root"));
        fs::write(context.join("page"), "hello\n").unwrap();
        let text = "FROM scratch\nCOPY root /\nCOPY --chown=33:34 page /srv/page\nCMD [\"sh\"]\n";
        fs::write(context.join("Dockerfile"), text).unwrap();
        let tool = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rrun-image"));
            command.arg("--store").arg(self.path("roots")).args(args);
            let output = command.current_dir(self.dir.path()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {stderr}");
        };
        tool(&["build", "context", "--tag", "test/box:1", "--quiet"]);
        tool(&["save", "-o", "box.tar", "test/box:1"]);
        chown(self.path("box.tar"), Some(NOBODY), Some(NOBODY)).unwrap();
    }

    /// Loads it, and runs a command in a container of it.
    fn in_container(&self, bundle: &str, options: &[&str], command: &str) -> String {
        let args = [
            &["unpack", "test/box:1", bundle][..],
            options,
            &["--", "sh", "-c", command],
        ];
        self.ok("rrun-image", &args.concat());
        self.ok("rrun", &["run", "--bundle", bundle, bundle])
    }

    /// Below its directory, seen from outside.
    fn mounts(&self) -> Vec<String> {
        let below = self.dir.path().to_str().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points
            .filter(|point| point.starts_with(below))
            .map(str::to_owned)
            .collect()
    }

    /// Kills the programs that serve its mounts.
    fn kill_servers(&self) {
        let below = self.dir.path().to_str().unwrap();
        for entry in fs::read_dir("/proc").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let line = fs::read_to_string(format!("/proc/{name}/cmdline")).unwrap_or_default();
            if line.starts_with("fuse-overlayfs\0") && line.contains(below) {
                let killed = Command::new("kill").args(["-KILL", &name]).status();
                assert!(killed.unwrap().success());
                let gone = || !fs::exists(format!("/proc/{name}")).unwrap();
                rrun_tests::wait_until("the end of fuse-overlayfs", Duration::from_secs(30), gone);
            }
        }
    }

    /// A RUN whose files the next stage of the test looks at.
    fn build(&self, run: &str) {
        let context = self.path("mine");
        fs::create_dir(&context).unwrap();
        let text = format!("FROM test/box:1\nRUN {run}\n");
        fs::write(context.join("Dockerfile"), text).unwrap();
        chown(&context, Some(NOBODY), Some(NOBODY)).unwrap();
        let runtime = self.path("rrun").display().to_string();
        let args = ["build", "mine", "--tag", "test/mine:1", "--quiet"];
        self.ok(
            "rrun-image",
            &[&args[..], &["--runtime", &runtime]].concat(),
        );
    }

    /// Owners of the files of the last layer, by its archive's headers.
    fn owners(&self, name: &str) -> String {
        self.ok("rrun-image", &["save", "-o", "mine.tar", "test/mine:1"]);
        let list = r#"rm -rf x && mkdir x && tar -xf mine.tar -C x && for f in x/blobs/sha256/*; do
            tar -tvf $f --numeric-owner 2>/dev/null | grep " $1\$" | awk '{print $2}'; done"#;
        let output = Command::new("sh")
            .args(["-c", list, "sh", name])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// What a test that failed left mounted.
impl Drop for User {
    fn drop(&mut self) {
        for point in self.mounts() {
            let _ = Command::new("umount").args(["-l", &point]).status();
        }
    }
}

fn owner(path: PathBuf) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn a_user_with_one_id_runs_images_as_their_root() {
    require!(
        Need::Root,
        Need::Program("setpriv"),
        Need::Program("unshare"),
        Need::Program("busybox")
    );
    let user = User::new(false);
    user.image();
    user.ok("rrun-image", &["load", "box.tar"]);
    let command =
        "id -u; cat /srv/page; stat -c %u:%g /srv/page; touch /srv/new; cat /proc/self/uid_map";
    let said = user.in_container("one", &[], command);
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "hello", "0:0", "0", "65534", "1"], "{said}");
    assert_eq!(owner(user.path("one/overlay/upper/srv/new")), NOBODY);
    assert!(user.ok("rrun-image", &["diff", "one"]).contains("srv/new"));
    user.ok("rrun-image", &["release", "one"]);
    assert!(!user.path("one/overlay/upper").exists());
    // With the host's network, /sys is the host's; as a plain copy, no overlay is needed.
    let said = user.in_container("two", &["--host-network"], "ls -d /sys/kernel; id -g");
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["/sys/kernel", "0"]
    );
    let said = user.in_container("flat", &["--flat"], "cat /srv/page");
    assert_eq!(said, "hello");
    // An id that nobody lent.
    let other = user.run("rrun-image", &["unpack", "test/box:1", "u", "--user", "33"]);
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert!(
        !other.status.success() && stderr.contains("subuid"),
        "{stderr}"
    );
    user.build("mkdir /made && rm /srv/page && id -u > /made/id");
    assert_eq!(user.owners("made/id"), "0/0");
    let files = user.path("files").display().to_string();
    user.ok(
        "rrun-image",
        &["unpack", "--flat", "--rootfs-only", "test/mine:1", &files],
    );
    assert_eq!(
        fs::read_to_string(user.path("files/made/id")).unwrap(),
        "0\n"
    );
    assert!(!user.path("files/srv/page").exists());
}

#[test]
fn a_user_with_lent_ids_keeps_the_owners_of_files() {
    require!(
        Need::Root,
        Need::Program("setpriv"),
        Need::Program("unshare"),
        Need::Program("newuidmap"),
        Need::Program("newgidmap"),
        Need::Program("busybox")
    );
    let user = User::new(true);
    user.image();
    user.ok("rrun-image", &["load", "box.tar"]);
    let other = user.run("rrun-image", &["--snapshotter", "fuse-overlayfs", "list"]);
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert!(
        !other.status.success() && stderr.contains("subuid"),
        "{stderr}"
    );
    let command = "id -u; stat -c %u:%g /srv/page; touch /srv/new; ls /proc/1 > /dev/null && head -1 /proc/self/uid_map";
    let said = user.in_container("one", &[], command);
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "33:34", "0", "65534", "1"], "{said}");
    let said = user.in_container(
        "web",
        &["--user", "33:34"],
        "id -u; id -g; echo x > /srv/page; cat /srv/page",
    );
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["33", "34", "x"]
    );
    assert_eq!(owner(user.path("web/overlay/upper/srv/page")), LENT + 32);
    user.ok("rrun-image", &["check"]);
    user.build("mkdir /made && touch /made/id && chown 7:8 /made/id && rm /srv/page");
    assert_eq!(user.owners("made/id"), "7/8");
    user.ok("rrun-image", &["release", "web"]);
    assert!(!user.path("web/overlay/upper").exists());
    user.ok("rrun-image", &["release", "one"]);
    user.ok("rrun-image", &["prune", "--all"]);
    let left = fs::read_dir(user.path("store/layers")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_user_stands_on_fuse_overlayfs_where_that_is_said() {
    require!(
        Need::Root,
        Need::Program("setpriv"),
        Need::Program("busybox"),
        Need::Program("fuse-overlayfs"),
        Need::Program("fusermount3"),
        Need::Path("/dev/fuse")
    );
    // As udev makes it; a machine without leaves it to root.
    if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
        rrun_tests::report_skip(module_path!(), "needs a /dev/fuse that users may open");
        return;
    }
    let user = User::new(false);
    user.image();
    let fuse = ["--snapshotter", "fuse-overlayfs"];
    user.ok("rrun-image", &[&fuse[..], &["load", "box.tar"]].concat());
    // From then on the store knows.
    let command = "grep -w / /proc/mounts; id -u; cat /srv/page; rm /srv/page; echo y > /srv/new";
    let said = user.in_container("one", &[], command);
    assert!(said.contains(" fuse.fuse-overlayfs "), "{said}");
    assert!(said.ends_with("0\nhello"), "{said}");
    assert_eq!(owner(user.path("one/overlay/upper/srv/new")), NOBODY);
    let diff = user.ok("rrun-image", &["diff", "one"]);
    assert_eq!(
        diff.replace("A /dev\nA /proc\n", "")
            .replace("\nA /sys", ""),
        "C /srv\nA /srv/new\nD /srv/page"
    );
    // As after a reboot: whoever asks for the rootfs gets it again.
    user.kill_servers();
    user.ok("rrun-image", &["diff", "one"]);
    user.kill_servers();
    user.ok("rrun-image", &["remount"]);
    let config = fs::read_to_string(user.path("one/config.json")).unwrap();
    let config = config.replace(&serde_json::to_string(command).unwrap(), "\"cat /srv/*\"");
    fs::write(user.path("one/config.json"), config).unwrap();
    assert_eq!(user.ok("rrun", &["run", "--bundle", "one", "again"]), "y");
    user.ok("rrun-image", &["release", "one"]);
    assert!(!user.path("one/overlay/upper").exists());
    user.build("rm -r /srv && mkdir /srv && head -c 100000 /dev/zero > /srv/new");
    assert_eq!(user.owners("srv/new"), "0/0");
    assert_eq!(user.owners("srv/.wh..wh..opq"), "0/0");
    assert_eq!(user.owners("dev/.wh..wh..opq"), "");
    let files = user.path("files").display().to_string();
    let flat = ["unpack", "--flat", "--rootfs-only", "test/mine:1", &files];
    user.ok("rrun-image", &flat);
    assert_eq!(
        fs::metadata(user.path("files/srv/new")).unwrap().len(),
        100_000
    );
    assert!(!user.path("files/srv/page").exists());
    user.ok("rrun-image", &["mount", "test/box:1", "run"]);
    assert_eq!(user.mounts().len(), 1);
    let both = user.run("rrun-image", &["mount", "test/box:1", "run"]);
    assert!(!both.status.success());
    user.ok("rrun-image", &["unmount", "run"]);
    assert_eq!(user.mounts(), Vec::<String>::new());
}

/// What the kernel says before 5.11, and where a rule of the machine keeps users from it.
#[test]
fn fuse_overlayfs_is_taken_where_the_kernel_refuses_its_own() {
    require!(
        Need::Root,
        Need::Program("setpriv"),
        Need::Program("strace")
    );
    let user = User::new(false);
    let refuse = "strace -f -o /dev/null -e trace=fsconfig -e inject=fsconfig:error=EPERM";
    let refuse: Vec<&str> = refuse.split(' ').collect();
    let knows = |store: &str| user.path(store).join("snapshotter").exists();
    for (wrapper, store) in [(&[][..], "kernel"), (&refuse, "fuse")] {
        let output = user.run_by(wrapper, "rrun-image", &["--store", store, "list"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }
    assert!(knows("fuse") && !knows("kernel"));
}
