//! Layers that are broken or mean harm: refused with the layer and the entry named, and nothing
//! left behind.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::path::Path;

use kit::{Blob, Tar, gzip, layout, plain, zstd};
use rrun_images::{Error, Limits, Store};
use rrun_tests::{Need, require};

/// Loads an image of these layers into a fresh store and gives the error.
fn refused(layers: &[Blob], limits: &Limits) -> Error {
    let dir = tempfile::tempdir().unwrap();
    layout(&dir.path().join("layout"), "example.org/bad:1", layers);
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let error = store
        .load(&dir.path().join("layout"), None, limits)
        .expect_err("it was taken");
    assert!(store.list().unwrap().is_empty());
    store.gc().unwrap();
    nothing_left(&root);
    assert_eq!(
        kit::paths(dir.path())
            .iter()
            .filter(|p| p.contains("escaped"))
            .count(),
        0
    );
    error
}

fn nothing_left(root: &Path) {
    for dir in [
        "blobs/sha256",
        "layers",
        "ingest",
        "leases",
        "rootfs",
        "trash",
        "locks",
    ] {
        let left: Vec<_> = fs::read_dir(root.join(dir)).unwrap().collect();
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
}

fn refuses(tar: Tar, entry: &str, why: &str) {
    let good = plain(
        Tar::default()
            .dir("etc/", 0o755)
            .file("etc/passwd", "root")
            .end(),
    );
    let bad = gzip(&tar.end());
    let layer = rrun_images::Digest::of(&bad.bytes).to_string();
    let error = refused(&[good, bad], &Limits::default());
    let text = error.to_string();
    assert!(text.contains(&layer), "{text}: no layer");
    assert!(
        text.contains(&format!("entry {entry:?}")),
        "{text}: no entry {entry:?}"
    );
    assert!(text.contains(why), "{text}: not {why:?}");
}

#[test]
fn paths_out_of_the_layer_are_refused() {
    require!(Need::Root);
    refuses(Tar::default().file("../escaped", "x"), "../escaped", "..");
    refuses(
        Tar::default().file("a/../../escaped", "x"),
        "a/../../escaped",
        "..",
    );
    refuses(Tar::default().file("..", "x"), "..", "..");
    refuses(
        Tar::default().file("a/.wh...", "x"),
        "a/.wh...",
        "hides a directory",
    );
    refuses(
        Tar::default().file("a/.wh..", "x"),
        "a/.wh..",
        "hides a directory",
    );
    refuses(
        Tar::default().pax(&[("path", b"../escaped")]).file("x", ""),
        "../escaped",
        "..",
    );
}

#[test]
fn symbolic_links_do_not_lead_out_of_the_layer() {
    require!(Need::Root);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    refuses(
        Tar::default().symlink("a", target).file("a/escaped", "x"),
        "a/escaped",
        "open its directory",
    );
    refuses(
        Tar::default()
            .symlink("a", "../../../../../..")
            .symlink("b", &format!("a{target}"))
            .file("b/escaped", "x"),
        "b/escaped",
        "open its directory",
    );
    refuses(
        Tar::default().symlink("a", target).file("a/.wh.x", ""),
        "a/.wh.x",
        "open its directory",
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_file_replaces_a_link_and_does_not_write_through_it() {
    require!(Need::Root);
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "safe").unwrap();
    let tar = Tar::default()
        .symlink("a", victim.to_str().unwrap())
        .file("a", "evil")
        .end();
    layout(&dir.path().join("layout"), "example.org/a:1", &[plain(tar)]);
    let store = Store::open(&dir.path().join("store")).unwrap();
    store
        .load(&dir.path().join("layout"), None, &Limits::default())
        .unwrap();
    assert_eq!(fs::read_to_string(victim).unwrap(), "safe");
    let image = store.inspect("example.org/a:1").unwrap();
    assert_eq!(store.read_file(&image, "a", 100).unwrap().unwrap(), b"evil");
}

#[test]
fn hard_links_out_of_the_layer_are_refused() {
    require!(Need::Root);
    refuses(Tar::default().hard("a", "/etc/passwd"), "a", "absolute");
    refuses(Tar::default().hard("a", "../../etc/passwd"), "a", "..");
    refuses(Tar::default().hard("a", "nowhere"), "a", "not in the image");
    refuses(Tar::default().hard("a", "a"), "a", "itself");
    refuses(
        Tar::default().dir("d/", 0o755).hard("a", "d"),
        "a",
        "directory",
    );
    refuses(
        Tar::default()
            .symlink("etc2", "/etc")
            .hard("a", "etc2/passwd"),
        "a",
        "not in the image",
    );
}

#[test]
fn overlay_attributes_and_floods_are_refused() {
    require!(Need::Root);
    let redirect: (&str, &[u8]) = ("SCHILY.xattr.trusted.overlay.redirect", b"/etc");
    refuses(
        Tar::default().pax(&[redirect]).dir("d/", 0o755),
        "d/",
        "overlay",
    );
    let names: Vec<String> = (0..300).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
    let flood: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    refuses(
        Tar::default().pax(&flood).file("f", ""),
        "f",
        "more than 256",
    );
}

#[test]
fn names_too_long_and_odd_entries_are_refused() {
    require!(Need::Root);
    let long = "n".repeat(256);
    refuses(
        Tar::default()
            .pax(&[("path", long.as_bytes())])
            .file("x", ""),
        &long,
        "255 bytes",
    );
    refuses(
        Tar::default().pax(&[("path", b"a\0b")]).file("x", ""),
        "a\0b",
        "NUL",
    );
    refuses(
        Tar::default().raw(b"s", b'S', b"", b"", 0o644),
        "s",
        "sparse",
    );
    refuses(
        Tar::default().raw(b"q", b'Q', b"", b"", 0o644),
        "q",
        "not supported",
    );
    refuses(Tar::default().symlink("./", "x"), "./", "root");
}

#[test]
fn streams_that_break_off_are_refused() {
    require!(Need::Root);
    let tar = Tar::default()
        .file("first", "x")
        .file("second", &"y".repeat(4000))
        .end();
    let cut = tar[..2048].to_vec();
    let text = refused(&[plain(cut)], &Limits::default()).to_string();
    assert!(
        text.contains("\"second\"") && text.contains("ends inside"),
        "{text}"
    );
    for whole in [gzip(&tar), zstd(&tar)] {
        let half = whole.bytes[..whole.bytes.len() - 9].to_vec();
        let text = refused(
            &[Blob {
                bytes: half,
                ..whole
            }],
            &Limits::default(),
        )
        .to_string();
        assert!(text.contains("layer sha256:"), "{text}");
    }
    let mut flipped = tar.clone();
    flipped[1024] ^= 1;
    let text = refused(&[plain(flipped)], &Limits::default()).to_string();
    assert!(
        text.contains("checksum") && text.contains("\"first\""),
        "{text}"
    );
}

#[test]
fn wrong_diff_ids_are_refused() {
    require!(Need::Root);
    let tar = Tar::default().file("a", "x").end();
    let lie = Blob {
        diff_id: rrun_images::Digest::of(b"lie"),
        ..gzip(&tar)
    };
    let error = refused(&[lie], &Limits::default());
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[test]
fn bombs_are_refused_within_bounds() {
    require!(Need::Root);
    let zeros = "\0".repeat(80 << 20);
    let tar = Tar::default().file("zeros", &zeros).end();
    let limits = Limits {
        ratio: 10,
        ..Limits::default()
    };
    let text = refused(&[gzip(&tar)], &limits).to_string();
    assert!(
        text.contains("10 times") && text.contains("\"zeros\""),
        "{text}"
    );
    let limits = Limits {
        layer_bytes: 1 << 20,
        ..Limits::default()
    };
    let text = refused(&[zstd(&tar)], &limits).to_string();
    assert!(text.contains("more than 1048576 bytes"), "{text}");
    let limits = Limits {
        layer_entries: 2,
        ..Limits::default()
    };
    let many = Tar::default()
        .file("a", "")
        .file("b", "")
        .file("c", "")
        .end();
    let text = refused(&[plain(many)], &limits).to_string();
    assert!(
        text.contains("more than 2 entries") && text.contains("\"c\""),
        "{text}"
    );
    let text = refused(
        &[plain(
            Tar::default()
                .raw(b"p", b'x', b"", &vec![b'a'; 2 << 20], 0)
                .end(),
        )],
        &Limits::default(),
    );
    assert!(text.to_string().contains("extension header"), "{text}");
}

#[test]
fn links_of_earlier_layers_lead_nowhere() {
    require!(Need::Root);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    // The link is in the layer below: each layer is a tree of its own, so the upper one makes a
    // directory, and a file in it, and nothing is followed.
    let below = plain(Tar::default().symlink("data", target).end());
    let above = plain(Tar::default().file("data/file", "x").end());
    let dir = tempfile::tempdir().unwrap();
    layout(
        &dir.path().join("layout"),
        "example.org/a:1",
        &[below, above],
    );
    let store = Store::open(&dir.path().join("store")).unwrap();
    store
        .load(&dir.path().join("layout"), None, &Limits::default())
        .unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let image = store.inspect("example.org/a:1").unwrap();
    let file = store.read_file(&image, "data/file", 9).unwrap();
    assert_eq!(file.as_deref(), Some(&b"x"[..]));
    let flat = dir.path().join("flat");
    store.unpack_flat("example.org/a:1", &flat).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let hard = plain(Tar::default().hard("stolen", "data/passwd").end());
    fs::write(outside.path().join("passwd"), "secret").unwrap();
    let below = plain(Tar::default().symlink("data", target).end());
    let text = refused(&[below, hard], &Limits::default()).to_string();
    assert!(text.contains("\"stolen\""), "{text}");
}

#[test]
fn odd_names_are_kept_byte_for_byte() {
    require!(Need::Root);
    use std::os::unix::ffi::OsStrExt;
    let long = [b'n'; 255];
    let tar = Tar::default()
        .raw(b"caf\xe9", b'0', b"", b"latin", 0o644)
        .pax(&[("path", &long[..])])
        .file("x", "long")
        .file("new\nline", "1")
        .end();
    let dir = tempfile::tempdir().unwrap();
    layout(&dir.path().join("layout"), "example.org/a:1", &[plain(tar)]);
    let store = Store::open(&dir.path().join("store")).unwrap();
    store
        .load(&dir.path().join("layout"), None, &Limits::default())
        .unwrap();
    let flat = dir.path().join("flat");
    store.unpack_flat("example.org/a:1", &flat).unwrap();
    let mut names: Vec<Vec<u8>> = fs::read_dir(&flat)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [b"caf\xe9".to_vec(), b"new\nline".to_vec(), long.to_vec()]
    );
    assert!(store.check().unwrap().problems.is_empty());
}

#[test]
fn entries_beyond_the_bound_are_refused_by_number() {
    require!(Need::Root);
    let mut tar = Tar::default();
    for i in 0..20_000 {
        tar = tar.file(&format!("d{}/{i}", i % 50), "");
    }
    let bad = gzip(&tar.end());
    let limits = Limits {
        layer_entries: 19_999,
        ..Limits::default()
    };
    let text = refused(&[bad], &limits).to_string();
    assert!(text.contains("more than 19999 entries"), "{text}");
}

#[test]
fn a_file_that_says_it_is_larger_than_the_layer_is_refused() {
    require!(Need::Root);
    // The header promises a terabyte (a sparse bomb's way to say it); 5 bytes come.
    let tar = Tar::default()
        .pax(&[("size", b"1099511627776")])
        .file("big", "12345");
    let text = refused(&[gzip(&tar.end())], &Limits::default()).to_string();
    assert!(
        text.contains("\"big\"") && text.contains("ends inside"),
        "{text}"
    );
    let sparse: (&str, &[u8]) = ("GNU.sparse.realsize", b"1099511627776");
    let tar = Tar::default().pax(&[sparse]).file("sparse", "");
    let text = refused(&[gzip(&tar.end())], &Limits::default()).to_string();
    assert!(text.contains("sparse"), "{text}");
}
