//! Ending the other shim with whatever it has, whether or not it lives. Everything may be gone.

use super::{Peer, start};
use crate::args::Args;
use crate::exits;
use crate::sock;
use crate::spawn::{self, Ended};
use rrun_task_api::pb::task;
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::prost::Message;
use rrun_task_api::{Code, Status, frame};
use rustix::process::{Signal, kill_process};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For one answer. A container that was killed ends at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills and removes the container, and ends its shim: by its own calls, or, where it does not answer,
/// by its program.
pub fn end(peer: &Peer, args: &Args) -> Result<(), String> {
    if peer.address.is_empty() {
        return Ok(());
    }
    let ended = match by_calls(peer, &args.id) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => by_program(peer, args),
    };
    // A shim that was killed leaves it behind.
    crate::server::forget(peer.socket());
    if let Some(init) = exits::recorded_init(&args.bundle) {
        // Its program does not always say that it failed.
        let _ = kill_process(init, Signal::KILL);
    }
    ended
}

/// Whether the container is gone.
fn by_calls(peer: &Peer, id: &str) -> io::Result<bool> {
    let stream = UnixStream::from(sock::connect_to(peer.socket(), false)?);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut calls = Calls {
        stream,
        service: peer.service(),
        last: 1,
    };
    let id = || id.to_owned();
    let kill = task::KillRequest {
        id: id(),
        signal: 9,
        all: true,
        ..Default::default()
    };
    // One that has ended, or was never there, is refused: its removal says which.
    let _: Result<(), Status> = calls.ask("Kill", &kill)?;
    let wait = task::WaitRequest {
        id: id(),
        ..Default::default()
    };
    let _: Result<(), Status> = calls.ask("Wait", &wait)?;
    let delete = task::DeleteRequest {
        id: id(),
        ..Default::default()
    };
    let gone = match calls.ask("Delete", &delete)? {
        Ok(()) => true,
        Err(status) => status.code == Code::NotFound,
    };
    let now = task::ShutdownRequest {
        id: id(),
        now: true,
    };
    // Its end may be faster than its answer.
    let _ = calls.ask("Shutdown", &now);
    Ok(gone)
}

struct Calls {
    stream: UnixStream,
    service: &'static str,
    last: u32,
}

impl Calls {
    fn ask(&mut self, method: &str, request: &impl Message) -> io::Result<Result<(), Status>> {
        self.last += 2;
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let bytes = frame::request(self.last, &request).map_err(io::Error::other)?;
        self.stream.write_all(&bytes)?;
        let mut input = Vec::new();
        loop {
            while let Some(answer) = frame::take(&mut input).map_err(io::Error::other)? {
                if answer.stream == self.last {
                    let answer = frame::open_response(&answer.data).map_err(io::Error::other)?;
                    return Ok(answer.map(drop));
                }
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.extend_from_slice(&chunk[..count]);
        }
    }
}

fn by_program(peer: &Peer, args: &Args) -> Result<(), String> {
    let null = spawn::null().map_err(|error| format!("open /dev/null: {error}"))?;
    let said = start::memory(c"stderr").map_err(|e| e.message)?;
    let child = start::run(peer, args, "delete", [&null, &said]).map_err(|e| e.message)?;
    if spawn::wait(&child) == Ended::Code(0) {
        return Ok(());
    }
    let (program, said) = (peer.program.display(), start::last_line(said));
    Err(format!("{program} delete: {said}"))
}
