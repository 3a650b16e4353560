//! The Task API's methods for a container that another shim runs.

use crate::machine::{Ask, Verdict};
use crate::ops::{Kind, gone};
use crate::poll::Key;
use crate::server::{Answer, Call, Reply, Shim};
use crate::spawn::Ended;
use rrun_task_api::Status;
use rrun_task_api::pb::events_service::ForwardRequest;
use rrun_task_api::pb::{events, task};
use rrun_task_api::prost::Message;

/// Fields 1 and 2 of most requests.
type Ids = task::StateRequest;

impl Shim {
    /// The answer for a container of another shim's; `None` where it is ours, or the method is.
    pub fn task_of_peer(&mut self, call: &Call) -> Option<Answer> {
        let asked = ask_of(&call.request.method)?;
        // Unknown fields are passed over. Pause and Resume have no second one.
        let ids = Ids::decode(&call.request.payload[..]).ok()?;
        let exec_id = match call.request.method.as_str() {
            "Start" | "Delete" | "Kill" | "ResizePty" => ids.exec_id.as_str(),
            _ => "",
        };
        let key = self.find(&ids.id, exec_id).ok()?;
        if !self.is_peers(key) {
            return None;
        }
        Some(self.pass(call, key, asked))
    }

    fn pass(&mut self, call: &Call, key: Key, (ask, kind): (Option<Ask>, Kind)) -> Answer {
        let process = self.processes.get_mut(&key).ok_or_else(gone)?;
        let is_exec = !process.exec_id.is_empty();
        let was_started = process.pid != 0;
        if let Some(ask) = ask {
            match process.life.ask(ask) {
                Verdict::Go => {}
                Verdict::Later => return Ok(Reply::Later),
                Verdict::Refused(status) => return Err(status),
            }
        }
        let method = call.request.method.as_str();
        let payload = call.request.payload.clone();
        if kind == Kind::Delete && !is_exec && self.container_of(key)?.link.is_none() {
            // It went with its shim.
            self.settle(kind, key, Some(call.caller), Ok(()), Ended::Code(0));
            return Ok(Reply::Pending);
        }
        let sent = match (method, is_exec) {
            ("Start", true) => self.run_exec(key, call.caller, Kind::Exec(None)),
            ("Delete", true) => {
                if was_started {
                    self.call_peer(Kind::Told, key, None, method, payload)?;
                }
                return self.delete_exec(key);
            }
            _ => self.call_peer(kind, key, Some(call.caller), method, payload),
        };
        if let Err(error) = sent {
            if ask.is_some()
                && let Some(process) = self.processes.get_mut(&key)
            {
                process.life.done(false);
            }
            return Err(error);
        }
        Ok(Reply::Pending)
    }

    /// Input has ended: the other shim, which holds its FIFO open too, is to let go of it.
    pub fn close_peers_stdin(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key).filter(|process| process.remote) else {
            return;
        };
        let request = task::CloseIoRequest {
            id: process.container.clone(),
            exec_id: process.exec_id.clone(),
            stdin: true,
        };
        // It may be gone, and its input with it.
        let _ = self.call_peer(Kind::Told, key, None, "CloseIO", request.encode_to_vec());
    }

    /// An event of the other shim's: ours has told of everything but memory.
    pub fn event_of_peer(&mut self, call: &Call) -> Answer {
        let request = ForwardRequest::decode(&call.request.payload[..])
            .map_err(|error| Status::invalid(format!("Forward request: {error}")))?;
        let envelope = request.envelope.unwrap_or_default();
        if envelope.topic == "/tasks/oom"
            && let Some(event) = envelope.event
            && let Ok(oom) = events::TaskOom::decode(&event.value[..])
            && let Some(container) = self.containers.get_mut(&oom.container_id)
        {
            container.oom_killed = true;
        }
        Ok(Reply::Now(Vec::new()))
    }
}

/// What a method asks of a process's life, and what its answer is for.
fn ask_of(method: &str) -> Option<(Option<Ask>, Kind)> {
    Some(match method {
        "Start" => (Some(Ask::Start), Kind::Start),
        "Delete" => (Some(Ask::Delete), Kind::Delete),
        "Pause" => (Some(Ask::Pause), Kind::Pause),
        "Resume" => (Some(Ask::Resume), Kind::Resume),
        "Kill" => (Some(Ask::Kill), Kind::Other),
        "Update" => (Some(Ask::Update), Kind::Other),
        "Checkpoint" => (Some(Ask::Checkpoint), Kind::Other),
        "ResizePty" => (None, Kind::Other),
        "Stats" => (None, Kind::Forward),
        _ => return None,
    })
}
