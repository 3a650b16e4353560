//! What an archive says is what the store has: whiteouts, links, modes, times, attributes.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use kit::{Blob, Tar, gzip, layout, plain, zstd};
use rrun_images::{Limits, Store};
use rrun_tests::{Need, require};

struct Loaded {
    _dir: tempfile::TempDir,
    store: Store,
    layers: Vec<PathBuf>,
}

fn load(layers: &[Blob]) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    layout(&dir.path().join("layout"), "example.org/a:1", layers);
    let store = Store::open(&dir.path().join("store")).unwrap();
    store
        .load(&dir.path().join("layout"), None, &Limits::default())
        .unwrap();
    let image = store.inspect("example.org/a:1").unwrap();
    let layers = image.layers.iter().map(|l| {
        store
            .root()
            .join("layers")
            .join(l.chain_id.hex())
            .join("fs")
    });
    Loaded {
        layers: layers.collect(),
        store,
        _dir: dir,
    }
}

fn xattr(path: &std::path::Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

#[test]
fn modes_times_links_and_nodes_are_kept() {
    require!(Need::Root);
    let tar = Tar::default()
        .dir("./", 0o750)
        .dir("d/", 0o2775)
        .file_mode("d/setuid", 0o4755)
        .symlink("d/link", "../nowhere")
        .hard("hard", "d/setuid")
        .device("null")
        .raw(b"fifo", b'6', b"", b"", 0o600)
        .pax(&[("mtime", b"12.5"), ("path", "n".repeat(255).as_bytes())])
        .file("short", "long")
        .raw(b"\xff\xfe", b'0', b"", b"bytes", 0o600)
        .file("/absolute", "x")
        .hard("early", "late")
        .file("late", "z")
        .end();
    let loaded = load(&[gzip(&tar)]);
    let fs = &loaded.layers[0];
    let meta = |name: &str| fs::symlink_metadata(fs.join(name)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o750);
    assert_eq!(meta("d").mode() & 0o7777, 0o2775);
    assert_eq!(meta("d/setuid").mode() & 0o7777, 0o4755);
    assert_eq!(
        (meta("hard").ino(), meta("hard").nlink()),
        (meta("d/setuid").ino(), 2)
    );
    assert_eq!(meta("early").ino(), meta("late").ino());
    assert_eq!(
        fs::read_link(fs.join("d/link")).unwrap().to_str(),
        Some("../nowhere")
    );
    assert!(meta("null").file_type().is_char_device());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(meta("fifo").file_type().is_fifo());
    let long = meta(&"n".repeat(255));
    assert_eq!((long.mtime(), long.mtime_nsec()), (12, 500_000_000));
    assert_eq!(meta("d").mtime(), 1_600_000_000);
    assert_eq!(meta("d/link").mtime(), 1_600_000_000);
    let odd = fs.join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(fs::read(odd).unwrap(), b"bytes");
    assert!(fs.join("absolute").exists());
}

#[test]
fn attributes_are_kept_capabilities_included() {
    require!(Need::Root);
    // cap_net_raw=ep in revision 2, with a newline byte in it to tempt parsers of lines.
    let capability =
        b"\x01\x00\x00\x02\x0a\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.a", b"1"),
        ])
        .file("ping", "x")
        .end();
    let loaded = load(&[zstd(&tar)]);
    let ping = loaded.layers[0].join("ping");
    assert_eq!(xattr(&ping, "security.capability").unwrap(), capability);
}

#[test]
fn whiteouts_become_overlays_own() {
    require!(Need::Root);
    let base = Tar::default()
        .dir("d/", 0o755)
        .file("d/a", "1")
        .file("d/b", "1")
        .file("c", "1")
        .end();
    let top = Tar::default()
        .file("d/.wh.a", "")
        .file(".wh.c", "")
        .dir("new/", 0o755)
        .file("new/.wh..wh..opq", "")
        .file("new/x", "2")
        // Within one layer a whiteout speaks of those below only, whatever the order.
        .file("both", "2")
        .file(".wh.both", "")
        .file(".wh.dir", "")
        .dir("dir/", 0o755)
        .end();
    let loaded = load(&[plain(base), plain(top)]);
    let fs = &loaded.layers[1];
    let is_whiteout = |name: &str| {
        fs::symlink_metadata(fs.join(name))
            .is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
    };
    assert!(is_whiteout("d/a") && is_whiteout("c") && !is_whiteout("both"));
    assert!(!fs.join("d/.wh.a").exists() && !fs.join("new/.wh..wh..opq").exists());
    for opaque in ["new", "dir"] {
        assert_eq!(
            xattr(&fs.join(opaque), "trusted.overlay.opaque").unwrap(),
            b"y",
            "{opaque}"
        );
    }
    let image = loaded.store.inspect("example.org/a:1").unwrap();
    let read = |path| loaded.store.read_file(&image, path, 10).unwrap();
    assert_eq!((read("d/a"), read("c")), (None, None));
    assert_eq!(read("d/b").unwrap(), b"1");
    assert_eq!(read("both").unwrap(), b"2");
}

#[test]
fn a_directory_the_layer_does_not_describe_looks_as_below() {
    // containerd#13044: a layer that has tmp/x but not tmp/ must not make /tmp 0755.
    require!(Need::Root);
    let base = Tar::default().dir("tmp/", 0o1777).file("etc", "x").end();
    let top = Tar::default().file("tmp/x", "1").file("fresh/y", "2").end();
    let loaded = load(&[plain(base), plain(top)]);
    let mode = |name: &str| fs::metadata(loaded.layers[1].join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("fresh")), (0o1777, 0o755));
}

#[test]
fn a_hard_link_to_a_file_below_is_copied_up() {
    require!(Need::Root);
    let base = Tar::default()
        .dir("bin/", 0o755)
        .file_mode("bin/busybox", 0o755)
        .end();
    let top = Tar::default().hard("bin/sh", "bin/busybox").end();
    let loaded = load(&[plain(base), plain(top)]);
    let sh = loaded.layers[1].join("bin/sh");
    assert_eq!(fs::metadata(&sh).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(sh).unwrap(), b"x");
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    require!(Need::Root);
    let tar = Tar::default()
        .dir("d/", 0o755)
        .file("d/x", "1")
        .file("d", "now a file")
        .file("f", "1")
        .dir("f/", 0o700)
        .file("f/y", "2")
        .end();
    let loaded = load(&[plain(tar)]);
    let fs = &loaded.layers[0];
    assert_eq!(fs::read(fs.join("d")).unwrap(), b"now a file");
    assert_eq!(fs::read(fs.join("f/y")).unwrap(), b"2");
}

#[test]
fn containers_get_users_and_files_through_links() {
    require!(Need::Root);
    let base = Tar::default()
        .dir("usr/", 0o755)
        .file(
            "usr/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        )
        .symlink("etc", "/usr/../usr/etc")
        .end();
    let top = Tar::default().file("usr/etc/group", "www:x:50:web\n").end();
    let loaded = load(&[plain(base), plain(top)]);
    let ids = loaded.store.user("example.org/a:1", "web").unwrap();
    assert_eq!((ids.uid, ids.gid, ids.additional_gids), (33, 33, vec![50]));
    assert!(loaded.store.user("example.org/a:1", "nobody").is_err());
}

#[test]
fn a_rootfs_holds_its_layers_until_it_is_released() {
    require!(Need::Root);
    let loaded = load(&[plain(Tar::default().dir("./", 0o700).file("a", "1").end())]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("overlay");
    let rootfs = loaded.store.rootfs("example.org/a:1", "c1", &at).unwrap();
    assert_eq!(rootfs.lower, loaded.layers);
    assert_eq!(fs::metadata(&rootfs.upper).unwrap().mode() & 0o7777, 0o700);
    assert!(loaded.store.rootfs("example.org/a:1", "c1", &at).is_err());
    assert_eq!(loaded.store.find_rootfs("c1").unwrap().unwrap(), rootfs);
    loaded.store.remove("example.org/a:1").unwrap();
    assert!(loaded.layers[0].join("a").exists());
    fs::write(rootfs.upper.join("b"), "2").unwrap();
    loaded.store.release("c1").unwrap();
    loaded.store.release("c1").unwrap();
    assert!(!at.exists());
    loaded.store.gc().unwrap();
    assert!(!loaded.layers[0].exists());
}
