//! OCI bundles made of busybox-static.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::find_program;

/// Fills `rootfs` with a static busybox, its usual applets as links, and empty standard
/// directories.
///
/// # Panics
///
/// Where busybox is missing or the directory cannot be written.
pub fn busybox_rootfs(rootfs: &Path) {
    let busybox = find_program("busybox").expect("busybox-static is installed");
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(dir)).expect("a directory of the rootfs");
    }
    copy_program(&busybox, &rootfs.join("bin/busybox"));
    for applet in [
        "sh", "cat", "echo", "sleep", "ls", "id", "mount", "env", "hostname", "ps", "kill", "true",
        "false", "stat", "touch", "mkdir", "head", "grep", "dd", "readlink", "wc", "sed", "test",
        "printf", "pwd", "umask", "httpd", "wget", "nc", "ip", "rm", "ln", "chmod", "mknod",
        "date",
    ] {
        symlink("busybox", rootfs.join("bin").join(applet)).expect("an applet link");
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("etc/passwd");
    fs::write(rootfs.join("etc/group"), "root:x:0:\n").expect("etc/group");
}

/// Copies a program that is to be executed, with its mode.
///
/// By another process: what this one writes a file by is in every child that another test's thread
/// makes meanwhile, and until that child executes, nobody can execute the file (ETXTBSY).
///
/// # Panics
///
/// Where that is not possible.
pub fn copy_program(from: &Path, to: &Path) {
    let busybox = find_program("busybox").expect("busybox-static is installed");
    let copied = Command::new(busybox)
        .args(["cp", "-p"])
        .args([from, to])
        .status();
    assert!(
        copied.is_ok_and(|s| s.success()),
        "{} is copied",
        to.display()
    );
}

/// Writes a script that is to be executed, mode 0755; by another process, as [`copy_program`].
///
/// # Panics
///
/// Where that is not possible.
pub fn write_script(path: &Path, text: &str) {
    let busybox = find_program("busybox").expect("busybox-static is installed");
    let written = Command::new(busybox)
        .args(["sh", "-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
        .arg(path)
        .arg(text)
        .status();
    assert!(
        written.is_ok_and(|s| s.success()),
        "{} is written",
        path.display()
    );
}

/// A bundle in a temporary directory, removed on drop.
#[derive(Debug)]
pub struct Bundle {
    dir: TempDir,
    /// The `config.json` to be; written by [`Bundle::write`].
    pub config: Value,
}

impl Bundle {
    /// A busybox bundle that runs `args`, with its own pid, mount, ipc, uts and network
    /// namespaces, and a `/proc`, `/dev` and read-only `/sys`.
    pub fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        busybox_rootfs(&dir.path().join("rootfs"));
        let config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args,
                "env": ["PATH=/bin", "HOME=/root"],
            },
            "root": {"path": "rootfs"},
            "hostname": "bundle",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"},
            ]},
        });
        Self { dir, config }
    }

    /// Writes `config.json` and gives the bundle's directory.
    pub fn write(&self) -> &Path {
        let text = serde_json::to_vec_pretty(&self.config).expect("JSON values serialize");
        fs::write(self.dir.path().join("config.json"), text).expect("config.json is written");
        self.dir.path()
    }

    /// The root file system's directory.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }
}
