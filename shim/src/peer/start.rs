//! Starting the other shim: its bundle, its program, its address.

use super::{Peer, bundle};
use crate::args::Args;
use crate::io::{at, failed};
use crate::spawn::{self, Child, Ended};
use rrun_task_api::Status;
use rrun_task_api::pb::task::CreateTaskRequest;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use serde_json::{Map, Value};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Shims of runc's kind serve all containers of a group; here each has its own.
const GROUP: &str = "io.containerd.runc.v2.group";
/// Says that the container belongs to a sandbox that was made before, which none was.
const KIND: &str = "io.kubernetes.cri.container-type";
/// Variables that are for us alone.
const OURS: [&str; 5] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "TTRPC_ADDRESS",
];
/// What a shim has to say is a line or two.
const MOST: u64 = 64 * 1024;

/// A `start` that is under way.
pub struct Starting {
    /// The program.
    pub child: Child,
    /// What follows.
    pub request: Box<CreateTaskRequest>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Makes the bundle of the other shim out of ours.
pub fn lay_out(ours: &Path, id: &str) -> Result<(), Status> {
    let theirs = bundle(ours);
    fs::create_dir_all(theirs.join("rootfs")).map_err(at("make", &theirs))?;
    let config = ours.join("config.json");
    let text = fs::read(&config).map_err(at("read", &config))?;
    let mut spec: Map<String, Value> =
        serde_json::from_slice(&text).map_err(at("parse", &config))?;
    let annotations = spec
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(KIND);
        annotations.insert(GROUP.to_owned(), id.into());
    }
    let copy = theirs.join("config.json");
    let text = serde_json::to_vec(&spec).map_err(at("write", &copy))?;
    fs::write(&copy, text).map_err(at("write", &copy))?;
    // containerd makes a FIFO of it and reads that; a file needs no reader that lives on.
    let log = theirs.join("log");
    fs::write(&log, "").map_err(at("write", &log))
}

/// Runs `start`.
pub fn start(
    peer: &Peer,
    args: &Args,
    request: Box<CreateTaskRequest>,
) -> Result<Starting, Status> {
    let (stdout, stderr) = (memory(c"stdout")?, memory(c"stderr")?);
    let child = run(peer, args, "start", [&stdout, &stderr])?;
    Ok(Starting {
        child,
        request,
        stdout,
        stderr,
    })
}

/// A file for what a program says.
pub(super) fn memory(name: &CStr) -> Result<OwnedFd, Status> {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map_err(failed("make a file in memory"))
}

/// Runs an action of the other shim's program in its bundle.
pub(super) fn run(
    peer: &Peer,
    args: &Args,
    action: &str,
    outputs: [&OwnedFd; 2],
) -> Result<Child, Status> {
    let bundle = bundle(&args.bundle);
    let text = |text: &[u8]| {
        CString::new(text).map_err(|_| Status::invalid("a NUL in an argument of a shim"))
    };
    let socket = args.socket.as_os_str().as_bytes();
    let line: [&[u8]; 10] = [
        peer.program.as_os_str().as_bytes(),
        b"-namespace",
        args.namespace.as_bytes(),
        b"-id",
        args.id.as_bytes(),
        b"-address",
        socket,
        b"-bundle",
        bundle.as_os_str().as_bytes(),
        action.as_bytes(),
    ];
    let line = line.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut env = spawn::environment();
    let ours = |entry: &CString| {
        let name = entry.as_bytes().split(|b| *b == b'=').next();
        OURS.iter().any(|own| name == Some(own.as_bytes()))
    };
    env.retain(|entry| !ours(entry));
    env.push(text(&[b"TTRPC_ADDRESS=", socket].concat())?);
    env.push(text(format!("NAMESPACE={}", args.namespace).as_bytes())?);
    let null = spawn::null().map_err(failed("open /dev/null"))?;
    let fds = [null.as_fd(), outputs[0].as_fd(), outputs[1].as_fd()];
    in_directory(&bundle, || {
        spawn::spawn(peer.program.as_os_str(), &line, &env, &fds)
            .map_err(at("start the shim", &peer.program))
    })
}

/// Its working directory says where a shim's bundle is. This process has one thread.
fn in_directory<T>(dir: &Path, act: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    let before = std::env::current_dir().map_err(failed("read the working directory"))?;
    std::env::set_current_dir(dir).map_err(at("enter", dir))?;
    let done = act();
    std::env::set_current_dir(&before).map_err(at("enter", &before))?;
    done
}

impl Starting {
    /// Where the shim that was started serves.
    pub fn address(self, ended: Ended, peer: &mut Peer) -> Result<(), Status> {
        if ended != Ended::Code(0) {
            let said = last_line(self.stderr);
            let program = peer.program.display();
            return Err(Status::internal(format!("{program} start: {said}")));
        }
        let said = read(self.stdout);
        parse(said.trim(), peer).ok_or_else(|| {
            let program = peer.program.display();
            Status::internal(format!("{program} start: no address of a socket: {said:?}"))
        })
    }
}

/// The bare address of containerd 1, or JSON as from 2.0 on.
fn parse(said: &str, peer: &mut Peer) -> Option<()> {
    let (address, version) = match serde_json::from_str::<Value>(said) {
        Ok(json) if json["protocol"] == "ttrpc" => (
            json["address"].as_str()?.to_owned(),
            json["version"].as_u64()?,
        ),
        Ok(_) => return None,
        Err(_) => (said.to_owned(), 2),
    };
    let path = address.strip_prefix("unix://")?;
    path.starts_with('/').then_some(())?;
    peer.address = address;
    peer.v3 = version >= 3;
    Some(())
}

/// What went wrong.
pub(super) fn last_line(said: OwnedFd) -> String {
    let said = read(said);
    said.trim()
        .lines()
        .last()
        .unwrap_or("no message")
        .to_owned()
}

fn read(fd: OwnedFd) -> String {
    let mut file = File::from(fd);
    let mut text = Vec::new();
    // What cannot be read was not said.
    let _ = file
        .rewind()
        .and_then(|()| file.take(MOST).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_address_are_understood() {
        let mut peer = Peer::default();
        assert!(parse("unix:///run/containerd/s/ab", &mut peer).is_some());
        assert_eq!(
            (peer.socket(), peer.v3),
            (Path::new("/run/containerd/s/ab"), false)
        );
        let json = r#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#;
        assert!(parse(json, &mut peer).is_some());
        assert!(peer.v3);
        for bad in [
            "",
            "/s",
            "unix://s",
            r#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#,
            r#"{"version":3,"address":"vsock://3:1","protocol":"ttrpc"}"#,
        ] {
            assert!(parse(bad, &mut peer).is_none(), "{bad}");
        }
    }

    #[test]
    fn their_bundle_speaks_of_no_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"annotations":{"io.kubernetes.cri.container-type":"container","a":"b"}}"#;
        fs::write(dir.path().join("config.json"), config).unwrap();
        lay_out(dir.path(), "c1").unwrap();
        let text = fs::read(bundle(dir.path()).join("config.json")).unwrap();
        let spec: Value = serde_json::from_slice(&text).unwrap();
        let wanted = serde_json::json!({"a": "b", GROUP: "c1"});
        assert_eq!(spec["annotations"], wanted);
    }
}
