//! The mark of this process's own sockets, by which the guard of their ports knows them: it holds for as
//! long as they are open, and for nobody who has the port later.

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Stands in no mask that others are known to route or filter by. What is sent bears it too.
pub const MARK: u32 = 0x72;

/// Marks a socket, and all connections that it takes. False where that is not allowed.
pub fn mark(socket: &impl AsFd) -> bool {
    setsockopt(socket, sockopt::Mark, &MARK).is_ok()
}
