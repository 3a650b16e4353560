//! Layers kept as erofs images: what is in them, what protects them, and that nothing stays mounted.
#![allow(clippy::unwrap_used)]

#[path = "kit/mod.rs"]
mod kit;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kit::{Tool, outside};
use rrun_tests::{Need, program, require};

/// A store of its own for each of the two ways.
struct Stores {
    tool: Tool,
}

impl Stores {
    fn run(&self, store: &str, format: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rrun-image"))
            .arg("--store")
            .arg(self.tool.path(store))
            .args(["--snapshotter", format])
            .args(args)
            .output()
            .unwrap()
    }

    fn ok(&self, store: &str, format: &str, args: &[&str]) -> String {
        let output = self.run(store, format, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{format} {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Whether the machine lacks what images are mounted with; that is told then.
    fn cannot_mount(&self) -> bool {
        let dir = self.path("probe");
        fs::create_dir_all(&dir).unwrap();
        fs::write(self.tool.path("probe/file"), "x").unwrap();
        self.ok(
            "probes",
            "erofs",
            &["build-layers", &dir, "--tag", "t/p:1", "--cmd", "x"],
        );
        let output = self.run(
            "probes",
            "erofs",
            &["unpack", "t/p:1", &self.path("probe.b")],
        );
        let why = String::from_utf8_lossy(&output.stderr);
        let lacks = ["the kernel has no erofs", "/dev/loop"]
            .iter()
            .any(|w| why.contains(w));
        if lacks {
            rrun_tests::report_skip(
                module_path!(),
                "needs a kernel with erofs, and loop devices before 6.12",
            );
        } else {
            assert!(output.status.success(), "{why}");
            self.ok("probes", "overlayfs", &["release", "probe.b"]);
            self.ok("probes", "overlayfs", &["remove", "t/p:1"]);
        }
        lacks
    }

    fn path(&self, name: &str) -> String {
        self.tool.path(name).to_str().unwrap().to_owned()
    }

    fn layers(&self, store: &str) -> Vec<PathBuf> {
        let dir = self.tool.path(store).join("layers");
        let mut all: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        all.sort();
        all
    }

    fn mounts(&self) -> Vec<String> {
        let below = self.path("");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().map(|line| line.split(' ').nth(4).unwrap());
        points
            .filter(|point| point.starts_with(&below))
            .map(str::to_owned)
            .collect()
    }
}

/// What a test that failed left mounted.
impl Drop for Stores {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
}

/// All that can be seen of a tree: by path, the numbers, the attributes, the content.
fn seen(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            let names = fs::read_dir(&path).unwrap();
            pending.extend(names.map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let look = format!(
            "{:o} {}:{} {:x} {size} {links} {}.{} {} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            meta.mtime(),
            meta.mtime_nsec(),
            attributes(&path),
            rrun_images::Digest::of(&content),
        );
        let inner = path.strip_prefix(root).unwrap();
        all.insert(inner.as_os_str().as_bytes().to_vec(), look);
    }
    all
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut all: Vec<_> = names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            let digest = rrun_images::Digest::of(&value);
            format!("{}={}", String::from_utf8_lossy(name), &digest.hex()[..16])
        })
        .collect();
    all.sort();
    all.join(" ")
}

/// Two archives that hold one of everything, the second changing the first.
fn archives(stores: &Stores) {
    let one = stores.tool.path("one");
    fs::create_dir_all(one.join("many")).unwrap();
    for size in [
        0usize, 1, 31, 3967, 3968, 4031, 4032, 4033, 4096, 5000, 8192, 300_001,
    ] {
        let bytes: Vec<u8> = (0..size).map(|n| (n * 7 + n / 251) as u8).collect();
        fs::write(one.join(format!("size-{size}")), bytes).unwrap();
    }
    for n in 0..300 {
        let name = format!("{n:03}-{}", "n".repeat(n % 250));
        fs::write(one.join("many").join(name), n.to_string()).unwrap();
    }
    for name in ["!before", "-", "~after", "\u{e4}"] {
        fs::write(one.join("many").join(name), name).unwrap();
    }
    fs::write(one.join("many").join("x".repeat(255)), "long").unwrap();
    let raw = std::ffi::OsStr::from_bytes(b"many/\xff\xfe");
    fs::write(one.join(raw), "no text").unwrap();
    for dir in ["hidden/deep", "opaque", "replaced", "empty"] {
        fs::create_dir_all(one.join(dir)).unwrap();
        fs::write(one.join(dir).join("file"), dir).unwrap();
    }
    fs::remove_file(one.join("empty/file")).unwrap();
    fs::hard_link(one.join("size-5000"), one.join("many/same")).unwrap();
    fs::hard_link(one.join("size-1"), one.join("same")).unwrap();
    symlink("size-1", one.join("link")).unwrap();
    symlink("t/".repeat(2000), one.join("long-link")).unwrap();
    for (kind, name, numbers) in [
        ("c", "null", &["1", "3"][..]),
        ("b", "disk", &["259", "70000"]),
        ("p", "pipe", &[]),
    ] {
        let path = one.join(name).to_str().unwrap().to_owned();
        outside("mknod", &[&[&path, kind][..], numbers].concat());
    }
    for (name, value) in [("user.short", &b"v"[..]), ("user.long", &[7; 3000])] {
        // tmpfs of an old kernel has no user.*: then there is nothing to compare.
        let flags = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::setxattr(one.join("size-4096"), name, value, flags);
        let _ = rustix::fs::setxattr(one.join("empty"), name, value, flags);
    }
    let two = stores.tool.path("two");
    fs::create_dir_all(two.join("opaque")).unwrap();
    fs::create_dir_all(two.join("many")).unwrap();
    for name in [
        ".wh.hidden",
        "opaque/.wh..wh..opq",
        "many/.wh.same",
        "opaque/new",
        "replaced",
    ] {
        fs::write(two.join(name), "").unwrap();
    }
    let script = r#"cd "$1" && chown 33:1000000 one/size-31 one/link && chmod 4755 one/size-31 &&
        chmod 1777 one/empty && touch -d @1234567890 one/size-31 one/empty &&
        tar --numeric-owner --xattrs --xattrs-include='*' -cf one.tar -C one . &&
        tar --numeric-owner -cf two.tar -C two ."#;
    outside("sh", &["-c", script, "sh", &stores.path("")]);
}

#[test]
fn an_image_shows_what_the_directory_does_and_is_guarded() {
    require!(Need::Root, Need::Program("tar"), Need::Program("mknod"));
    let stores = Stores { tool: Tool::new() };
    if stores.cannot_mount() {
        return;
    }
    archives(&stores);
    let dockerfile = "FROM scratch\nADD one.tar /\nADD two.tar /\nCMD [\"x\"]\n";
    fs::write(stores.tool.path("Dockerfile"), dockerfile).unwrap();
    let (context, archive) = (stores.path(""), stores.path("img.tar"));
    let build = ["build", &context, "--tag", "t/all:1", "--quiet"];
    stores.ok("trees", "overlayfs", &build);
    stores.ok("trees", "overlayfs", &["save", "-o", &archive, "t/all:1"]);
    for store in ["images", "again"] {
        stores.ok(store, "erofs", &["load", &archive]);
        assert!(stores.mounts().len() <= 2, "{:?}", stores.mounts());
    }
    let bundle = stores.path("b");
    let unpack = ["unpack", "t/all:1", &bundle, "--id", "web"];
    stores.ok("images", "erofs", &unpack);
    // The store knows by itself what its layers are.
    stores.ok("images", "overlayfs", &["check"]);
    let (trees, images) = (stores.layers("trees"), stores.layers("images"));
    assert_eq!(images.len(), 2);
    for (tree, image) in trees.iter().zip(&images) {
        assert_eq!(tree.file_name(), image.file_name());
        let (want, got) = (seen(&tree.join("fs")), seen(&image.join("fs")));
        for (path, look) in &want {
            let shown = String::from_utf8_lossy(path);
            assert_eq!(got.get(path), Some(look), "{shown}");
        }
        assert_eq!(want.len(), got.len());
        // The same layer is the same file, whoever makes it.
        let again = stores
            .tool
            .path("again/layers")
            .join(image.file_name().unwrap());
        let bytes = |dir: &Path| fs::read(dir.join("layer.erofs")).unwrap();
        assert!(bytes(image) == bytes(&again), "the image differs");
        if rrun_tests::find_program("fsck.erofs").is_some() {
            outside("fsck.erofs", &[image.join("layer.erofs").to_str().unwrap()]);
        }
    }
    // Both layers on each other, as a container has them.
    let (dir, flat) = (stores.path("m"), stores.path("flat"));
    fs::create_dir(&dir).unwrap();
    stores.ok("images", "overlayfs", &["mount", "t/all:1", &dir]);
    stores.ok(
        "trees",
        "overlayfs",
        &["unpack", "--flat", "--rootfs-only", "t/all:1", &flat],
    );
    let names = |root: &str| seen(Path::new(root)).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&dir), names(&flat));
    stores.ok("images", "overlayfs", &["unmount", &dir]);
    stores.ok("images", "overlayfs", &["release", "web"]);
    damage(&stores, &images);
    stores.ok("images", "overlayfs", &["remove", "t/all:1"]);
    assert_eq!(stores.layers("images"), Vec::<PathBuf>::new());
    stores.ok("again", "overlayfs", &["prune", "--all"]);
    assert_eq!(stores.mounts(), Vec::<String>::new());
}

/// A bit that turned is found, and mended from the blob.
fn damage(stores: &Stores, images: &[PathBuf]) {
    let files = images.iter().map(|layer| layer.join("layer.erofs"));
    let image = files.max_by_key(|path| fs::metadata(path).unwrap().len());
    let image = image.unwrap();
    let copy = fs::read(&image).unwrap();
    // fs-verity would let nobody write: another file under its name.
    fs::remove_file(&image).unwrap();
    fs::write(&image, &copy).unwrap();
    let file = fs::File::options().write(true).open(&image).unwrap();
    let at = copy.len() as u64 - 5000;
    file.write_all_at(&[copy[at as usize] ^ 1], at).unwrap();
    let output = stores.run("images", "overlayfs", &["check"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("layer.erofs"), "{said}");
    stores.ok("images", "erofs", &["check", "--repair"]);
    assert!(fs::read(&image).unwrap() == copy, "it is not as it was");
    stores.ok("images", "overlayfs", &["check"]);
}

#[test]
fn a_container_runs_on_images_and_kill_leaves_nothing_that_stays() {
    require!(Need::Root, Need::Program("busybox"));
    let stores = Stores { tool: Tool::new() };
    let rootfs = stores.tool.path("rootfs");
    rrun_tests::busybox_rootfs(&rootfs);
    let args = [
        "build-layers",
        rootfs.to_str().unwrap(),
        "--tag",
        "t/box:1",
        "--cmd",
        "sh",
    ];
    if stores.cannot_mount() {
        return;
    }
    stores.ok("s", "erofs", &args);
    let bundle = stores.path("b");
    let command = [
        "--",
        "sh",
        "-c",
        "echo hello > /made && cat /made /etc/group",
    ];
    let unpack = ["unpack", "t/box:1", &bundle, "--id", "erofs-box"];
    stores.ok("s", "erofs", &[&unpack[..], &command].concat());
    let state = stores.path("state");
    let run = ["--root", &state, "run", "--bundle", &bundle, "erofs-box"];
    let output = Command::new(program("rrun")).args(run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "hello\nroot:x:0:\n", "{why}");
    assert_eq!(
        stores.ok("s", "overlayfs", &["diff", "erofs-box"]),
        "A /made"
    );
    // As after a reboot.
    for mount in stores.mounts() {
        outside("umount", &[&mount]);
    }
    let ran = || {
        let output = Command::new(program("rrun")).args(run).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ran(), "", "it stands on nothing");
    stores.ok("s", "overlayfs", &["remount"]);
    assert_eq!(ran(), "hello\nroot:x:0:\n");
    // A mount that its maker did not live to end: the next collection does, where nobody needs it.
    fs::remove_file(stores.tool.path("s/rootfs/erofs-box.json")).unwrap();
    assert_eq!(stores.mounts().len(), 1);
    stores.ok("s", "overlayfs", &["prune"]);
    assert_eq!(stores.mounts(), Vec::<String>::new());
    let said = stores.ok(
        "s",
        "overlayfs",
        &[
            "unpack",
            "--flat",
            "--rootfs-only",
            "t/box:1",
            &stores.path("f"),
        ],
    );
    assert_eq!(said, "");
    assert!(stores.tool.path("f/bin/busybox").is_file());
    stores.ok("s", "overlayfs", &["remove", "t/box:1"]);
    assert_eq!(stores.mounts(), Vec::<String>::new());
}

/// An ext4 with fs-verity in a file.
fn verity_disk(stores: &Stores) -> PathBuf {
    let (file, mount) = (stores.tool.path("disk"), stores.tool.path("disk.mnt"));
    fs::create_dir(&mount).unwrap();
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    outside(
        "mkfs.ext4",
        &["-q", "-b", "4096", "-O", "verity", file.to_str().unwrap()],
    );
    let mounted = Command::new("mount")
        .args(["-o", "loop"])
        .args([&file, &mount])
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&mounted.stderr);
    assert!(mounted.status.success(), "{why}");
    mount
}

#[test]
fn an_image_is_measured_before_it_is_mounted() {
    require!(
        Need::Root,
        Need::Program("mkfs.ext4"),
        Need::Path("/dev/loop-control"),
        Need::Path("/sys/fs/ext4/features/verity")
    );
    let stores = Stores { tool: Tool::new() };
    if stores.cannot_mount() {
        return;
    }
    let disk = verity_disk(&stores);
    let files = stores.tool.path("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("f"), vec![3; 50_000]).unwrap();
    let build = [
        "build-layers",
        files.to_str().unwrap(),
        "--tag",
        "t/v:1",
        "--cmd",
        "x",
    ];
    stores.ok("disk.mnt/s", "erofs-verity", &build);
    let image = stores.layers("disk.mnt/s")[0].join("layer.erofs");
    let note = fs::read_to_string(image.with_file_name("layer.json")).unwrap();
    assert!(note.contains("\"verity\":\"sha256:"), "{note}");
    assert!(
        fs::File::options().write(true).open(&image).is_err(),
        "it can be written"
    );
    let bundle = disk.join("b").to_str().unwrap().to_owned();
    stores.ok("disk.mnt/s", "overlayfs", &["unpack", "t/v:1", &bundle]);
    stores.ok("disk.mnt/s", "overlayfs", &["check"]);
    stores.ok("disk.mnt/s", "overlayfs", &["release", "b"]);
    stores.ok("disk.mnt/s", "overlayfs", &["prune"]);
    // The same bytes under the same name, but nobody watches over them.
    let copy = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    fs::write(&image, &copy).unwrap();
    let refused = stores.run("disk.mnt/s", "overlayfs", &["unpack", "t/v:1", &bundle]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && why.contains("fs-verity"),
        "{why}"
    );
    stores.ok("disk.mnt/s", "erofs-verity", &["check", "--repair"]);
    stores.ok("disk.mnt/s", "overlayfs", &["check"]);
    stores.ok("disk.mnt/s", "overlayfs", &["remove", "t/v:1"]);
}

/// A file system that cannot protect the image is no place for it where that was asked for.
#[test]
fn verity_that_is_asked_for_is_not_left_out() {
    require!(Need::Root);
    let stores = Stores { tool: Tool::new() };
    let files = stores.tool.path("files");
    fs::create_dir(&files).unwrap();
    let on = stores.tool.path("files/none");
    fs::write(&on, "x").unwrap();
    let tmpfs = stores.tool.path("tmpfs");
    fs::create_dir(&tmpfs).unwrap();
    outside("mount", &["-t", "tmpfs", "tmpfs", tmpfs.to_str().unwrap()]);
    let build = [
        "build-layers",
        files.to_str().unwrap(),
        "--tag",
        "t/v:1",
        "--cmd",
        "x",
    ];
    let output = stores.run("tmpfs/s", "erofs-verity", &build);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && why.contains("fs-verity"),
        "{why}"
    );
    assert_eq!(stores.layers("tmpfs/s"), Vec::<PathBuf>::new());
}
