//! rrun without privileges: a user namespace with the caller's own id alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use rrun_tests::{Need, busybox_rootfs, program, require};

/// An id that owns nothing on this machine.
const NOBODY: u32 = 65534;

fn as_nobody(dir: &Path, args: &[&str]) -> std::process::Output {
    command(dir, args).output().expect("setpriv runs")
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(dir.join("program"))
        .args(args)
        .current_dir(dir)
        .env("XDG_RUNTIME_DIR", dir);
    command
}

#[test]
fn an_unprivileged_user_runs_a_container_as_its_root() {
    require!(
        Need::Root,
        Need::Program("setpriv"),
        Need::Program("busybox")
    );
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::copy(program("rrun"), dir.path().join("program")).expect("rrun is copied");
    busybox_rootfs(&dir.path().join("rootfs"));
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
    let spec = as_nobody(dir.path(), &["spec", "--rootless"]);
    assert!(
        spec.status.success(),
        "{}",
        String::from_utf8_lossy(&spec.stderr)
    );
    let config = dir.path().join("config.json");
    let text = fs::read_to_string(&config).expect("config.json");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["process"]["terminal"] = false.into();
    value["process"]["args"] = serde_json::json!(["sh", "-c", "id -u; cat /proc/self/uid_map"]);
    fs::write(&config, value.to_string()).expect("config.json is written");
    let run = as_nobody(dir.path(), &["run", "rootless"]);
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "65534", "1"]);

    value["process"]["args"] = serde_json::json!(["sleep", "1000"]);
    fs::write(&config, value.to_string()).expect("config.json is written");
    // Not pipes: the container would keep them open.
    let started = command(dir.path(), &["run", "--detach", "rootless"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(started.expect("setpriv runs").success());
    let exec = as_nobody(dir.path(), &["exec", "rootless", "sh", "-c", "id -u; ps"]);
    let deleted = as_nobody(dir.path(), &["delete", "--force", "rootless"]);
    let said = String::from_utf8_lossy(&exec.stdout);
    let why = String::from_utf8_lossy(&exec.stderr);
    assert!(
        said.starts_with("0\n") && said.contains("sleep 1000"),
        "{said}{why}"
    );
    assert!(deleted.status.success());
}
