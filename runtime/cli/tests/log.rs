//! `--log` at the machine's log daemons. Their sockets are at fixed paths: each test has a mount
//! namespace of its own, where it puts its own socket, or its own daemon's, there.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::Runtime;
use rrun_tests::{Bundle, Need, PATIENCE, require, wait_until};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// rrun with `args` where `prepare` has been done, by a shell, with `$1` the path of a socket.
fn elsewhere(rrun: &Runtime, prepare: &str, socket: &Path, args: &[&str]) -> Command {
    let program = rrun.command(args);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("{prepare}; shift; exec \"$@\""))
        .arg("sh")
        .arg(socket)
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The datagrams that come, until one has `word` in it. To be read while rrun runs: the socket's
/// queue may be as short as ten.
#[track_caller]
fn received_until(socket: &UnixDatagram, word: &str) -> Vec<String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|e| panic!("{e}: no {word} in {all:#?}"));
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        if all.last().unwrap().contains(word) {
            return all;
        }
    }
}

fn fails(mut command: Child) {
    assert!(!command.wait().unwrap().success());
}

const JOURNAL: &str = "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; ln -s \"$1\" /run/systemd/journal/socket";
const SYSLOG: &str =
    "mount -t tmpfs tmpfs /dev; mknod -m 666 /dev/null c 1 3; ln -s \"$1\" /dev/log";

#[test]
fn journald_gets_fields_with_the_identifier_and_the_severity() {
    require!(Need::Root, Need::Program("unshare"));
    let rrun = Runtime::new();
    let path = rrun.root().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    let bundle = Bundle::new(&["/no/such/program"]);
    let dir = bundle.write().to_str().unwrap().to_owned();
    let id = rrun.id();
    let args = ["--debug", "--log", "journald:web-1", "run", "-b", &dir, &id];
    let child = elsewhere(&rrun, JOURNAL, &path, &args).spawn().unwrap();
    let all = received_until(&socket, "/no/such/program");
    fails(child);
    for message in &all {
        assert!(message.contains("\nSYSLOG_IDENTIFIER=web-1\n"), "{message}");
    }
    assert!(all.last().unwrap().starts_with("PRIORITY=3\n"), "{all:#?}");
    assert!(all[0].starts_with("PRIORITY=7\n"), "debug: {all:#?}");
}

#[test]
fn syslog_gets_lines_with_the_tag_and_the_severity() {
    require!(Need::Root, Need::Program("unshare"));
    let rrun = Runtime::new();
    let path = rrun.root().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    let args = ["--log", "syslog:web-1", "state", "nothing"];
    let child = elsewhere(&rrun, SYSLOG, &path, &args).spawn().unwrap();
    let all = received_until(&socket, "container does not exist");
    fails(child);
    // Facility "user" and severity "error".
    assert!(all[0].starts_with("<11>web-1["), "{all:#?}");
}

/// Ends it with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// busybox's syslogd makes /dev/log itself: so the directory is given to both.
#[test]
fn syslog_daemon_understands_what_it_gets() {
    require!(
        Need::Root,
        Need::Program("unshare"),
        Need::Program("busybox")
    );
    let rrun = Runtime::new();
    let dev = rrun.root().join("dev");
    std::fs::create_dir(&dev).unwrap();
    let null = ["-m", "666", "null", "c", "1", "3"];
    let made = Command::new("mknod").args(null).current_dir(&dev).status();
    assert!(made.unwrap().success());
    let file = rrun.root().join("messages");
    let mount = "mount --bind \"$1\" /dev";
    let daemon = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!("{mount}; exec busybox syslogd -n -O \"$2\""))
        .arg("sh")
        .args([&dev, &file])
        .spawn();
    let _daemon = Daemon(daemon.unwrap());
    wait_until("syslogd listens", PATIENCE, || {
        UnixDatagram::unbound()
            .unwrap()
            .connect(dev.join("log"))
            .is_ok()
    });
    let args = ["--log", "syslog:web-1", "state", "nothing"];
    let status = elsewhere(&rrun, mount, &dev, &args).status().unwrap();
    assert!(!status.success());
    wait_until("the line is in its file", PATIENCE, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().any(|line| {
            line.contains("user.err web-1[") && line.ends_with(": container does not exist")
        })
    });
}

#[test]
fn destination_that_is_not_there_is_named() {
    require!(Need::Root, Need::Program("unshare"));
    let rrun = Runtime::new();
    let nowhere = rrun.root().join("nothing");
    let args = ["--log", "journald:web-1", "state", "nothing"];
    let mut command = elsewhere(&rrun, JOURNAL, &nowhere, &args);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("/run/systemd/journal/socket"), "{error}");
}
