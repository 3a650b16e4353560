//! What a container sees: mounts, devices, masks, names, the overlay on "/".
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, add_mount, add_user_namespace, shell};
use rrun_tests::{Need, require};
use serde_json::json;
use std::fs;

#[test]
fn an_overlay_on_the_root_never_reaches_the_host() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // An overlay is no upper directory for another: a tmpfs of the test's own would do, but
    // the default temporary directory serves on ordinary machines.
    let mut bundle = shell("cat /top; cat /low; echo new > /new; mount | head -1");
    let rootfs = bundle.rootfs().to_str().unwrap().to_owned();
    fs::write(format!("{}/top", path("l2")), "top\n").unwrap();
    fs::write(format!("{}/low", path("l1")), "low\n").unwrap();
    fs::write(format!("{}/top", path("l1")), "hidden\n").unwrap();
    bundle.config["root"]["path"] = path("mountpoint").into();
    let lower = format!("lowerdir={}:{}:{rootfs}", path("l2"), path("l1"));
    let (upper, work) = (
        format!("upperdir={}", path("up")),
        format!("workdir={}", path("work")),
    );
    bundle.config["mounts"].as_array_mut().unwrap().insert(
        0,
        json!({"destination": "/", "type": "overlay", "source": "overlay",
               "options": [lower, upper, work]}),
    );
    let ran = rrun.run(&bundle);
    if ran.err.contains("overlay") && ran.err.contains("not supported") {
        eprintln!("skipped: no overlay over this temporary directory");
        return;
    }
    let out = ran.ok();
    assert!(
        out.starts_with("top\nlow\noverlay on / type overlay"),
        "{out}"
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("up/new")).unwrap(),
        "new\n"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&path("mountpoint")), "{mounts}");
}

#[test]
fn default_devices_and_links() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let out = rrun.run(&shell(
        "for d in null zero full random urandom tty; do stat -c '%n %a %t:%T' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; umask",
    ));
    assert_eq!(
        out.ok(),
        "/dev/null 666 1:3\n/dev/zero 666 1:5\n/dev/full 666 1:7\n/dev/random 666 1:8\n\
         /dev/urandom 666 1:9\n/dev/tty 666 5:0\n/proc/self/fd\n/proc/self/fd/0\n\
         /proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n0022\n"
    );
}

#[test]
fn masked_and_read_only_paths() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell(
        "cat /etc/secret; cat /secrets/x 2>&1; (echo x > /proc/sys/kernel/hostname) 2>&1; \
         (echo x > /fixed/x) 2>&1; true",
    );
    fs::write(bundle.rootfs().join("etc/secret"), "HIDDEN").unwrap();
    for dir in ["secrets", "fixed"] {
        fs::create_dir(bundle.rootfs().join(dir)).unwrap();
        fs::write(bundle.rootfs().join(dir).join("x"), "HIDDEN").unwrap();
    }
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/secrets", "/not/there"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/fixed", "/not/there"]);
    let out = rrun.run(&bundle).ok();
    assert!(!out.contains("HIDDEN"), "{out}");
    assert_eq!(out.matches("Read-only file system").count(), 2, "{out}");
}

#[test]
fn bind_mounts_with_attributes_and_propagation() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "inside\n").unwrap();
    let path = source.path().to_str().unwrap();
    let mut bundle = shell(
        "cat /data/deep/file /one; (echo x > /data/deep/new) 2>&1; \
         grep ' /data/deep ' /proc/self/mountinfo",
    );
    add_mount(
        &mut bundle,
        json!({"destination": "/data/deep", "source": path, "type": "bind",
               "options": ["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]}),
    );
    let file = format!("{path}/file");
    add_mount(
        &mut bundle,
        json!({"destination": "/one", "source": file, "options": ["bind"]}),
    );
    let out = rrun.run(&bundle).ok();
    assert!(out.starts_with("inside\ninside\n"), "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
    assert!(out.contains("ro,nosuid,nodev,noexec"), "{out}");
    assert!(
        !out.contains("shared:") && !out.contains("master:"),
        "{out}"
    );
}

#[test]
fn tmpcopyup_keeps_what_was_there() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("stat -c '%n %u %a' /data/sub /data/sub/file; readlink /data/link");
    let sub = bundle.rootfs().join("data/sub");
    fs::create_dir_all(&sub).unwrap();
    fs::write(sub.join("file"), "x").unwrap();
    std::os::unix::fs::chown(sub.join("file"), Some(7), None).unwrap();
    std::os::unix::fs::symlink("sub", bundle.rootfs().join("data/link")).unwrap();
    add_mount(
        &mut bundle,
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
               "options": ["tmpcopyup", "ro"]}),
    );
    assert_eq!(
        rrun.run(&bundle).ok(),
        "/data/sub 0 755\n/data/sub/file 7 644\nsub\n"
    );
}

#[test]
fn a_read_only_root_with_names_and_sysctls() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         (touch /x) 2>&1; true",
    );
    bundle.config["hostname"] = "first".into();
    bundle.config["domainname"] = "second".into();
    bundle.config["root"]["readonly"] = true.into();
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    let out = rrun.run(&bundle).ok();
    assert!(out.starts_with("first\nsecond\n77\n"), "{out}");
    assert!(out.contains("Read-only file system"), "{out}");
}

#[test]
fn a_user_namespace_maps_ids() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle =
        shell("id -u; cat /proc/self/uid_map; echo x > /tmp/new; stat -c %u /dev/null");
    add_user_namespace(&mut bundle);
    fs::set_permissions(
        bundle.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let out = rrun.run(&bundle).ok();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    let owner = std::os::unix::fs::MetadataExt::uid(
        &fs::metadata(bundle.rootfs().join("tmp/new")).unwrap(),
    );
    assert_eq!(owner, 100_000);
}

#[test]
fn a_time_namespace_has_its_offset() {
    require!(Need::Root, Need::Path("/proc/self/ns/time"));
    let rrun = Runtime::new();
    let mut bundle = shell("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime");
    fs::remove_file(bundle.rootfs().join("bin/cut")).ok();
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/cut")).unwrap();
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    let out = rrun.run(&bundle).ok();
    let uptime: u64 = out.lines().last().unwrap().parse().unwrap();
    assert!(uptime >= 1_000_000, "{out}");
}

#[test]
fn joined_namespaces_are_shared() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = rrun_tests::Bundle::new(&["sleep", "1000"]);
    let first = rrun.start(&bundle);
    let pid = rrun.state(&first)["pid"].as_i64().unwrap();
    let mut bundle = shell("ps; hostname; readlink /proc/self/ns/net");
    bundle.config.as_object_mut().unwrap().remove("hostname");
    let join =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    bundle.config["linux"]["namespaces"] =
        json!([join("pid", "pid"), join("uts", "uts"), join("network", "net"), {"type": "mount"}]);
    let out = rrun.run(&bundle).ok();
    assert!(
        out.contains("sleep 1000") && out.contains("bundle\n"),
        "{out}"
    );
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert!(out.contains(net.to_str().unwrap()), "{out}");
}

#[test]
fn mounts_on_a_shared_volume_reach_the_host_and_others_do_not() {
    require!(Need::Root, Need::Program("unshare"));
    let rrun = Runtime::new();
    let volume = tempfile::tempdir().unwrap();
    let dir = volume.path().to_str().unwrap();
    for (rootfs, option, reaches) in [
        ("rshared", "rshared", true),
        ("shared", "rslave", false),
        ("rslave", "rshared", false),
        ("rprivate", "rshared", false),
    ] {
        let mut bundle = shell("mount -t tmpfs none /data/inner && mount -t tmpfs none /tmp");
        let caps = json!(["CAP_SYS_ADMIN"]);
        bundle.config["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps});
        bundle.config["linux"]["rootfsPropagation"] = rootfs.into();
        add_mount(
            &mut bundle,
            json!({"destination": "/data", "source": dir, "options": ["rbind", option]}),
        );
        let bundle_dir = bundle.write().to_str().unwrap().to_owned();
        // A mount namespace of the test's own stands for the host.
        let script = format!(
            "mount -t tmpfs none {dir} && mount --make-shared {dir} && mkdir {dir}/inner && \
             {} --root {} run --bundle {bundle_dir} {} && cat /proc/self/mountinfo",
            env!("CARGO_BIN_EXE_rrun"),
            rrun.root().display(),
            rrun.id()
        );
        let output = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "shared", "sh", "-c", &script])
            .output()
            .unwrap();
        let ran = kit::Ran::from(output);
        let what = format!("rootfsPropagation {rootfs}, volume {option}: {ran:?}");
        assert_eq!(ran.code, 0, "{what}");
        assert_eq!(
            ran.out.contains(&format!(" {dir}/inner ")),
            reaches,
            "{what}"
        );
        assert!(!ran.out.contains(&bundle_dir), "{what}");
    }
}

#[test]
fn mounts_come_and_go_in_a_running_container() {
    require!(Need::Root);
    let rrun = Runtime::new();
    for user_namespace in [false, true] {
        let mut bundle = rrun_tests::Bundle::new(&["sleep", "1000"]);
        if user_namespace {
            add_user_namespace(&mut bundle);
            // There root is nobody who may make directories in this root file system.
            for dir in ["added/dir", "fresh"] {
                fs::create_dir_all(bundle.rootfs().join(dir)).unwrap();
            }
            fs::write(bundle.rootfs().join("one"), "").unwrap();
        }
        let id = rrun.start(&bundle);
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("file"), "added\n").unwrap();
        // Nobody but root may open the way to it.
        fs::set_permissions(
            source.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let file = source.path().join("file");
        let list = json!([
            {"destination": "/added/dir", "source": source.path(), "options": ["rbind", "ro"]},
            {"destination": "/one", "source": file, "type": "bind"},
            {"destination": "/fresh", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
        ]);
        let json_file = source.path().join("mounts.json");
        fs::write(&json_file, list.to_string()).unwrap();
        let json_file = json_file.to_str().unwrap();
        rrun.rrun(&["mounts", "add", &id, json_file]).ok();
        let look = "cat /added/dir/file /one; touch /fresh/x && ls /fresh; \
                    touch /added/dir/x 2>&1; grep -c -E ' /(added/dir|one|fresh) ' /proc/self/mountinfo";
        let out = rrun.rrun(&["exec", &id, "sh", "-c", look]).ok();
        assert!(out.starts_with("added\nadded\nx\n"), "{out}");
        assert!(out.contains("Read-only file system"), "{out}");
        assert!(out.ends_with("\n3\n"), "{out}");
        fs::write(json_file, json!({"mounts": list}).to_string()).unwrap();
        rrun.rrun(&["mounts", "remove", &id, json_file]).ok();
        let left = "grep -c -E ' /(added/dir|one|fresh) ' /proc/self/mountinfo; ls /added/dir";
        assert_eq!(rrun.rrun(&["exec", &id, "sh", "-c", left]).ok(), "0\n");
        let error = rrun.rrun(&["mounts", "remove", &id, json_file]).fails();
        assert!(error.contains("/added/dir"), "{error}");
        fs::write(
            json_file,
            r#"[{"destination":"/","source":"/etc","options":["bind"]}]"#,
        )
        .unwrap();
        rrun.rrun(&["mounts", "add", &id, json_file]).fails();
    }
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains("/added/dir"), "{host}");
}

#[test]
fn a_source_that_is_a_link_is_copied_or_followed() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "followed\n").unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
    let mut bundle = shell("cat /followed; readlink /made/copied");
    for (destination, option) in [("/followed", "bind"), ("/made/copied", "copy-symlink")] {
        add_mount(
            &mut bundle,
            json!({"destination": destination, "source": dir.path().join("link"),
                   "options": ["bind", option]}),
        );
    }
    assert_eq!(rrun.run(&bundle).ok(), "followed\nfile\n");
}
