//! A container that another project's shim runs (`containerd-shim-runc-v2`, gVisor's, …), with ours in
//! front of it: that one owns the processes, ours the log, the attached clients, and the record of the
//! end. rrun-cri so speaks to one kind of shim, whatever runs a container.
//!
//! The other shim's bundle is `<bundle>/task/<id>`. It gets FIFOs there for stdio, and our own socket as
//! the address of containerd, of which it needs the events service.

mod calls;
mod end;
mod service;
mod start;
mod stdio;

pub use end::end;
pub use start::Starting;

use crate::conn::Conn;
use crate::poll::Key;
use rrun_task_api::service::{TASK_V2, TASK_V3};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The other shim, as it is written down for a `delete` after our death.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its program.
    pub program: PathBuf,
    /// Where it serves; empty until it has been started.
    pub address: String,
    /// It serves the Task API of version 3, else of version 2.
    pub v3: bool,
}

impl Peer {
    /// Name of its service.
    fn service(&self) -> &'static str {
        if self.v3 { TASK_V3 } else { TASK_V2 }
    }

    /// Path of its socket.
    fn socket(&self) -> &Path {
        let address = &self.address;
        Path::new(address.strip_prefix("unix://").unwrap_or(address))
    }
}

/// The connection to it.
pub struct Link {
    conn: Conn,
    service: &'static str,
    last_stream: u32,
    /// What waits for an answer, by stream.
    calls: BTreeMap<u32, Key>,
}

/// Its bundle, below ours. As ours it has the container's id for its name, by which runc's shim finds
/// it when it is to clean up.
pub fn bundle(ours: &Path) -> PathBuf {
    ours.join("task").join(ours.file_name().unwrap_or_default())
}
