//! The whole way of a user who is not root: load, build, unpack, run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Output};

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
        let lent = if self.lent {
            self.path("etc").display().to_string()
        } else {
            String::new()
        };
        Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-c", AS_NOBODY, "sh"])
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
        let list = r#"mkdir x && tar -xf mine.tar -C x && for f in x/blobs/sha256/*; do
            tar -tvf $f --numeric-owner 2>/dev/null | grep " $1\$" | awk '{print $2}'; done"#;
        let output = Command::new("sh")
            .args(["-c", list, "sh", name])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
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
