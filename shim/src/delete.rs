//! `delete`: cleans up after a shim that died, whatever it had got to, and says how its container
//! ended. Every step is done even if the one before it failed.

use crate::args::Args;
use crate::cgroup::Cgroup;
use crate::exits;
use crate::machine::Exited;
use crate::peer;
use crate::rootfs;
use crate::runtime::{Fds, Runtime};
use crate::server::forget;
use crate::sock;
use crate::spawn::{self, Ended};
use rrun_task_api::exit::Exit;
use rrun_task_api::pb::task::DeleteResponse;
use rrun_task_api::prost::Message;
use rrun_task_api::time::{from_nanos, now_nanos};
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Code of a container that was killed because its shim was gone.
const KILLED: u32 = 128 + 9;

/// Cleans up and prints a DeleteResponse.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let bundle = &args.bundle;
    let init = exits::recorded(bundle);
    let alive = exits::recorded_init(bundle);
    let cgroup = alive.and_then(|pid| Cgroup::of(pid).ok());
    let mut errors = Vec::new();
    match Runtime::load(bundle) {
        Ok(Some(Runtime {
            peer: Some(peer), ..
        })) => {
            // Where its process is gone, its shim has been too.
            let ended = peer::end(&peer, args);
            errors.extend(
                ended
                    .err()
                    .filter(|_| exits::recorded_init(bundle).is_some()),
            );
        }
        Ok(Some(runtime)) => errors.extend(remove(&runtime, bundle, &args.id).err()),
        Ok(None) => {}
        Err(error) => errors.push(format!("read shim.json in {}: {error}", bundle.display())),
    }
    if let Some(cgroup) = cgroup.filter(|_| !peer::bundle(bundle).exists()) {
        cgroup.kill();
        cgroup.remove();
    }
    errors.extend(
        [bundle.join("rootfs"), peer::bundle(bundle)]
            .iter()
            .filter_map(|dir| rootfs::unmount_all(dir).err())
            .map(|e| e.message),
    );
    let socket = fs::read_to_string(bundle.join("address")).ok();
    let socket = socket
        .as_deref()
        .and_then(|address| address.strip_prefix("unix://"));
    sock::remove_all(&socket.map_or_else(|| sock::task_socket(args), Into::into));
    forget(&bundle.join("address"));
    if !errors.is_empty() {
        return Err(errors.join("; ").into());
    }
    io::stdout().write_all(&response(bundle, init).encode_to_vec())?;
    Ok(())
}

fn remove(runtime: &Runtime, bundle: &Path, id: &str) -> Result<(), String> {
    let log = bundle.join(".log-delete.json");
    let run = runtime
        .start(&log, &["delete", "--force", id], Fds::None)
        .map_err(|e| e.message)?;
    match spawn::wait(&run.child) {
        Ended::Code(0) => run.finish(),
        ended => {
            let error = run.error(ended).message;
            if !error.contains("does not exist") {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// How it ended: as recorded, or killed by us just now.
fn response(bundle: &Path, init: Option<(u32, u64)>) -> DeleteResponse {
    let recorded = Exit::read(bundle).ok().flatten();
    let (pid, exit) = if let Some(exit) = recorded {
        let at = exit.exited_at;
        (
            exit.pid,
            Exited {
                code: exit.code,
                signal: exit.signal,
                at,
            },
        )
    } else {
        let exit = Exited {
            code: KILLED,
            signal: 9,
            at: now_nanos(),
        };
        (init.map_or(0, |(pid, _)| pid), exit)
    };
    DeleteResponse {
        pid,
        exit_status: exit.code,
        exited_at: Some(from_nanos(exit.at)),
    }
}
