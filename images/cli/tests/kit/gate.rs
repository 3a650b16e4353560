//! The way to a registry, which breaks in the middle of a transfer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A port that leads to a registry, and back until so many bytes came from there. What comes
/// after them is held, until [`Gate::cut`] ends the connections that it came over. The thread
/// ends with the process.
pub struct Gate {
    pub host: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that may still pass.
    left: usize,
    /// Connections with bytes that may not.
    held: usize,
    /// What is held is dropped, and all passes from now on.
    cut: bool,
}

/// Longest time that a test waits for another program to do what it is to do.
const PATIENCE: Duration = Duration::from_secs(120);

impl Gate {
    pub fn new(to: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        shared.state.lock().unwrap().left = bytes;
        let (to, state) = (to.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // Nobody there: the client's connection ends.
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&to)) else {
                    continue;
                };
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let shared = Arc::clone(&state);
                std::thread::spawn(move || copy(&up, &server, |n| n));
                std::thread::spawn(move || copy(&down, &client, |n| shared.allow(n)));
            }
        });
        Self { host, shared }
    }

    /// Waits until something is held.
    pub fn await_held(&self) {
        let state = self.shared.state.lock().unwrap();
        let none = |state: &mut State| state.held == 0;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, none);
        assert!(!waited.unwrap().1.timed_out(), "too little was asked for");
    }

    pub fn cut(&self) {
        self.shared.state.lock().unwrap().cut = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// How many of `wanted` bytes may pass; 0 where the connection is cut.
    fn allow(&self, wanted: usize) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cut {
            return wanted;
        }
        let passes = state.left.min(wanted);
        state.left -= passes;
        if passes == 0 {
            state.held += 1;
            self.changed.notify_all();
            let _cut = self.changed.wait_while(state, |state| !state.cut);
        }
        passes
    }
}

/// Copies until one side ends or nothing is allowed, and then ends both.
fn copy(mut from: &TcpStream, mut to: &TcpStream, allow: impl Fn(usize) -> usize) {
    let mut buffer = [0; 16 << 10];
    'copy: while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let n = allow(rest.len());
            if n == 0 || to.write_all(&rest[..n]).is_err() {
                break 'copy;
            }
            rest = &rest[n..];
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
