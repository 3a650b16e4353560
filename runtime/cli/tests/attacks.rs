//! Known attacks on container runtimes, tried. Each test is named after the CVE
//! that it guards against.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, add_mount, shell};
use rrun_tests::{Bundle, Need, require};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

/// Replaces what the root file system has at `name` by a link.
fn link(bundle: &Bundle, name: &str, target: &str) {
    let path = bundle.rootfs().join(name);
    let _ = fs::remove_dir(&path);
    let _ = fs::remove_file(&path);
    symlink(target, path).unwrap();
}

/// Removes the mount on `destination`.
fn without_mount(bundle: &mut Bundle, destination: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with(destination));
}

#[test]
fn cve_2016_9962_init_cannot_be_traced_from_inside() {
    require!(Need::Root);
    let rrun = Runtime::new();
    // Init waits for its start; an exec looks at it from inside.
    let bundle = Bundle::new(&["sleep", "1000"]);
    let (id, created) = rrun.create(&bundle);
    created.ok();
    let ran = rrun.rrun(&["exec", &id, "ls", "-l", "/proc/1/fd"]);
    assert!(ran.err.contains("Permission denied"), "{ran:?}");
    assert!(!ran.out.contains("->"), "{ran:?}");
}

#[test]
fn cve_2019_5736_own_binary_cannot_be_written() {
    require!(Need::Root);
    let rrun = Runtime::new();
    // A copy of its own: the kernel refuses writers as long as any process executes a file.
    let copy = tempfile::tempdir().unwrap();
    let program = copy.path().join("rrun");
    fs::copy(env!("CARGO_BIN_EXE_rrun"), &program).unwrap();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.id();
    let mut command = std::process::Command::new(&program);
    command
        .arg("--root")
        .arg(rrun.root())
        .args(["create", "--bundle", bundle.write().to_str().unwrap(), &id])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    // Another test's child may hold the copy's writable descriptor until it executes its program.
    let status = loop {
        match command.status() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            status => break status,
        }
    };
    assert!(status.unwrap().success());
    let pid = rrun.state(&id)["pid"].as_i64().unwrap();
    // Even the host's root cannot by this way, so the container's cannot either.
    let file = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    let exe = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&file)
    );
    rrun.rrun(&["delete", "--force", &id]).ok();
    // Nothing executes it any more: only the mount keeps writers away.
    let error = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ReadOnlyFilesystem,
        "{error}"
    );
    let host = Bundle::new(&["true"]);
    let dir = host.write().to_str().unwrap().to_owned();
    for script in [
        "mount -c -o remount,rw,bind $EXE $EXE",
        "mount -c --bind $EXE $DIR/copy",
        "mount -c -o remount,rw none $EXE",
    ] {
        fs::write(host.write().join("copy"), "").unwrap();
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .env("EXE", &exe)
            .env("DIR", &dir)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{script}");
    }
    assert!(fs::OpenOptions::new().write(true).open(&exe).is_err());
}

#[test]
fn cve_2019_16884_nothing_is_mounted_over_parts_of_proc() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let source = tempfile::tempdir().unwrap();
    for destination in [
        "/proc/self/attr",
        "/proc/sys",
        "/proc/x/../sys/kernel",
        "/proc",
    ] {
        let mut bundle = Bundle::new(&["true"]);
        add_mount(
            &mut bundle,
            json!({"destination": destination, "source": source.path(), "options": ["bind"]}),
        );
        let error = rrun.run(&bundle).fails();
        assert!(
            error.contains("mounts[4].destination"),
            "{destination}: {error}"
        );
    }
}

#[test]
fn cve_2019_19921_2023_27561_and_2023_28642_proc_and_sys_are_not_mounted_through_links() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("inner")).unwrap();
    for (name, target) in [
        ("proc", "elsewhere"),
        ("sys", "elsewhere"),
        // By way of a volume that another container may write to (CVE-2023-27561).
        ("proc", "volume/inner"),
        ("sys", "volume/inner"),
    ] {
        let mut bundle = shell("cat /proc/self/mounts");
        fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        link(&bundle, name, target);
        bundle.config["mounts"].as_array_mut().unwrap().insert(
            0,
            json!({"destination": "/volume", "source": volume.path(), "options": ["bind"]}),
        );
        let error = rrun.run(&bundle).fails();
        assert!(
            error.contains("must be mounted on ordinary directory"),
            "{name} -> {target}: {error}"
        );
    }
}

#[test]
fn cve_2023_25809_the_cgroups_of_others_are_not_writable_in_a_user_namespace() {
    require!(Need::Root);
    let rrun = Runtime::new();
    // Somebody else's cgroup, delegated to the ids that the container is mapped to.
    let top = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/pids"
    };
    let name = format!("rrun-victim-{}", std::process::id());
    let victim = std::path::Path::new(top).join(&name);
    fs::create_dir(&victim).unwrap();
    std::os::unix::fs::chown(&victim, Some(100_000), Some(100_000)).unwrap();
    let script = format!(
        "mkdir /sys/fs/cgroup/{name}/made /sys/fs/cgroup/pids/{name}/made 2>/dev/null && echo got in; \
         for d in /sys/fs/cgroup/{name} /sys/fs/cgroup/*/{name}; do test -e $d && echo seen; done; true"
    );
    let mut bundle = shell(&script);
    kit::add_user_namespace(&mut bundle);
    // Neither a cgroup namespace nor read-only: what CVE-2023-25809 took.
    add_mount(
        &mut bundle,
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}),
    );
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|m| m["destination"] == "/sys") {
        *mount = json!({"destination": "/sys", "source": "/sys", "options": ["rbind", "ro"]});
    }
    let ran = rrun.run(&bundle);
    fs::remove_dir(&victim).unwrap();
    assert_eq!(ran.ok(), "");
}

#[test]
fn cve_2021_30465_and_2024_45310_mount_targets_stay_inside() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let outside = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "x").unwrap();
    let out = outside.path().to_str().unwrap();
    for target in [
        out.to_owned(),
        format!("../../../../../../../../../..{out}"),
    ] {
        let mut bundle = shell("cat /link/file; cat /link2/made/file");
        link(&bundle, "link", &target);
        link(&bundle, "link2", &target);
        // A way that exists inside, so that the link resolves there.
        fs::create_dir_all(bundle.rootfs().join(&out[1..])).unwrap();
        for destination in ["/link2/made", "/link"] {
            add_mount(
                &mut bundle,
                json!({"destination": destination, "source": source.path(), "options": ["bind"]}),
            );
        }
        rrun.run(&bundle);
        assert!(
            fs::read_dir(outside.path()).unwrap().next().is_none(),
            "made outside: {target}"
        );
    }
    // Dangling inside: nothing may be made where it points on the host.
    let mut bundle = Bundle::new(&["true"]);
    link(&bundle, "link", out);
    add_mount(
        &mut bundle,
        json!({"destination": "/link/made", "source": source.path(), "options": ["bind"]}),
    );
    rrun.run(&bundle);
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
}

#[test]
fn cve_2021_30465_a_volume_that_changes_meanwhile_leads_nowhere() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let outside = tempfile::tempdir().unwrap();
    let volume = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    let path = |name: &str| volume.path().join(name);
    fs::create_dir(path("dir")).unwrap();
    symlink(
        format!("../../../../../../../../..{}", outside.path().display()),
        path("link"),
    )
    .unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // "target" is a directory and a link out of the container by turns.
            while !done.load(ordering) {
                for other in ["dir", "link"] {
                    let _ = fs::rename(path(other), path("target"));
                    std::thread::yield_now();
                    let _ = fs::rename(path("target"), path(other));
                }
            }
        });
        for _ in 0..10 {
            let mut bundle = Bundle::new(&["true"]);
            for (destination, from) in [
                ("/volume", volume.path()),
                ("/volume/target/made", source.path()),
                ("/volume/target", source.path()),
            ] {
                add_mount(
                    &mut bundle,
                    json!({"destination": destination, "source": from, "options": ["bind"]}),
                );
            }
            // It may fail, or win; what it may not is to reach out.
            rrun.run(&bundle);
        }
        done.store(true, ordering);
    });
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(outside.path().to_str().unwrap()));
}

#[test]
fn cve_2022_29162_exec_has_no_inheritable_capabilities() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let some = json!(["CAP_KILL", "CAP_CHOWN"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": some, "effective": some, "permitted": some});
    let id = rrun.start(&bundle);
    let out = rrun
        .rrun(&[
            "exec",
            "--cap",
            "CAP_NET_RAW",
            &id,
            "cat",
            "/proc/self/status",
        ])
        .ok();
    assert!(out.contains("CapInh:\t0000000000000000"), "{out}");
    assert!(out.contains("CapEff:\t0000000000002021"), "{out}");
    assert!(out.contains("CapBnd:\t0000000000002021"), "{out}");
}

#[test]
fn cve_2024_21626_no_descriptor_leads_out() {
    require!(Need::Root);
    let rrun = Runtime::new();
    // The working directory as a descriptor that the runtime may have left open.
    for (prefix, last) in [
        ("/proc/self/fd", 20),
        ("/proc/thread-self/fd", 10),
        ("/proc/1/fd", 10),
    ] {
        for number in 3..last {
            let mut bundle = shell("pwd -P; ls -d ../../../../../..");
            bundle.config["process"]["cwd"] = format!("{prefix}/{number}").into();
            let ran = rrun.run(&bundle);
            assert_ne!(ran.code, 0, "{prefix}/{number}: {ran:?}");
        }
    }
    // Nothing but the standard streams (and ls's own) is open.
    let out = rrun.run(&shell("ls /proc/self/fd")).ok();
    assert_eq!(out, "0\n1\n2\n3\n");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    assert_eq!(
        rrun.rrun(&["exec", &id, "ls", "/proc/self/fd"]).ok(),
        "0\n1\n2\n3\n"
    );
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        assert_ne!(
            rrun.rrun(&["exec", "--cwd", &cwd, &id, "true"]).code,
            0,
            "{cwd}"
        );
    }
}

#[test]
fn cve_2025_31133_masks_are_not_made_of_the_image_s_dev_null() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("cat /etc/secret");
    without_mount(&mut bundle, "/dev");
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    fs::write(bundle.rootfs().join("etc/other"), "other").unwrap();
    link(&bundle, "dev/null", "/etc/other");
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    let ran = rrun.run(&bundle);
    assert!(
        !ran.out.contains("secret") && !ran.out.contains("other"),
        "{ran:?}"
    );
    assert!(ran.fails().contains("is not the null device"));
}

#[test]
fn cve_2025_52565_the_console_is_not_mounted_through_a_link() {
    require!(Need::Root, Need::Program("script"));
    let rrun = Runtime::new();
    let mut bundle = shell("cat /etc/target; echo end");
    without_mount(&mut bundle, "/dev");
    add_mount(
        &mut bundle,
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts"}),
    );
    fs::write(bundle.rootfs().join("etc/target"), "untouched").unwrap();
    link(&bundle, "dev/console", "/etc/target");
    bundle.config["process"]["terminal"] = true.into();
    let dir = bundle.write().to_str().unwrap().to_owned();
    let command = format!(
        "{} --root {} run --bundle {dir} {}",
        env!("CARGO_BIN_EXE_rrun"),
        rrun.root().display(),
        rrun.id()
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("end"),
        "{output:?}"
    );
}

#[test]
fn cve_2025_52881_sysctls_go_to_the_kernel_s_proc() {
    require!(Need::Root);
    let rrun = Runtime::new();
    // No procfs in the container, but a directory that looks like one.
    let mut bundle = shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    without_mount(&mut bundle, "/proc");
    let fake = bundle.rootfs().join("proc/sys/net/ipv4");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("ip_unprivileged_port_start"), "fake\n").unwrap();
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "99"});
    assert_eq!(rrun.run(&bundle).ok(), "fake\n");
}

#[test]
fn cve_2025_52881_labels_go_to_the_kernel_s_proc() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = shell("true");
    without_mount(&mut bundle, "/proc");
    let fakes = ["self", "thread-self"].map(|own| bundle.rootfs().join("proc").join(own));
    let fakes = fakes.map(|own| [own.join("attr/exec"), own.join("attr/apparmor/exec")]);
    for fake in fakes.iter().flatten() {
        fs::create_dir_all(fake.parent().unwrap()).unwrap();
        fs::write(fake, "fake\n").unwrap();
    }
    for field in ["selinuxLabel", "apparmorProfile"] {
        // Whether there is such a module, and such a label, the kernel says: not these files.
        bundle.config["process"][field] = json!("unconfined");
        rrun.run(&bundle);
        bundle.config["process"]
            .as_object_mut()
            .unwrap()
            .remove(field);
        for fake in fakes.iter().flatten() {
            assert_eq!(fs::read_to_string(fake).unwrap(), "fake\n", "{field}");
        }
    }
}

#[test]
fn cve_2026_41579_and_crun_2026_47766_a_linked_dev_stays_inside() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    for target in [out.to_owned(), format!("../../../../../../../../..{out}")] {
        let mut bundle = shell("ls /dev/");
        without_mount(&mut bundle, "/dev");
        link(&bundle, "dev", &target);
        rrun.run(&bundle);
        assert!(
            fs::read_dir(outside.path()).unwrap().next().is_none(),
            "{target}"
        );
        // And where the link leads to a directory inside.
        fs::create_dir_all(bundle.rootfs().join(&out[1..])).unwrap();
        rrun.run(&bundle);
        assert!(
            fs::read_dir(outside.path()).unwrap().next().is_none(),
            "{target}"
        );
    }
}

/// What the caller has in its session keyring is not for the container, whose processes share one of
/// their own. A key is seen here by who possesses it alone: the user of the exec owns none.
#[test]
fn an_exec_has_the_containers_session_keyring() {
    require!(Need::Root, Need::Path("/proc/keys"));
    let rrun = Runtime::new();
    // Of this thread, and so of what it starts.
    rrun_sys::keyring::join_session(c"rrun-test-caller").unwrap();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let exec = [
        "exec",
        "--user",
        "7:8",
        "--cwd",
        "/tmp",
        &id,
        "cat",
        "/proc/keys",
    ];
    let keys = rrun.rrun(&exec).ok();
    assert!(keys.contains(&format!("_ses.{id}")), "{keys}");
    assert!(!keys.contains("rrun-test-caller"), "{keys}");
}
