//! Waiting for a container's process in the foreground: signals are passed on,
//! the terminal relayed, orphans reaped.

use rrun_core::Result;
use rrun_core::plan::Console;
use rrun_sys::process::Exit;
use rrun_sys::{fd, process, signal, socket, tty};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The terminal of a container, relayed to that of the command.
#[derive(Debug)]
pub struct Terminal {
    socket: OwnedFd,
    master: Option<OwnedFd>,
    raw: Option<tty::Raw>,
}

impl Terminal {
    /// A console for the plan; the other end of its socket goes to `relay`.
    pub fn console(relay: &mut Option<Self>) -> Result<Option<Console>> {
        let (ours, theirs) = socket::pair()?;
        *relay = Some(Self {
            socket: ours,
            master: None,
            raw: None,
        });
        Ok(Some(Console::Socket(Arc::new(theirs))))
    }

    /// Takes the master that init sent, gives it the size of the command's own
    /// terminal, and puts that into raw mode.
    pub fn receive(mut self) -> Result<Self> {
        let master = socket::receive_fd(self.socket.as_fd())?;
        tty::clear_onlcr(master.as_fd())?;
        if let Some(stdin) = fd::standard().next().filter(|fd| tty::is_terminal(*fd)) {
            tty::copy_size(stdin, master.as_fd())?;
            self.raw = Some(tty::Raw::enter(stdin)?);
        }
        self.master = Some(master);
        Ok(self)
    }

    fn resize(&self) {
        let stdin = fd::standard().next();
        if let (Some(stdin), Some(master)) = (stdin, &self.master) {
            // Not a terminal any more: nothing to pass on.
            let _ = tty::copy_size(stdin, master.as_fd());
        }
    }
}

/// Blocks signals, to be read from the descriptor. Before anything is cloned.
pub fn signals() -> Result<OwnedFd> {
    Ok(signal::fd_of_all()?)
}

/// Waits until child `pid` ends, and returns its status as a shell would.
pub fn wait(pid: i32, signals: &OwnedFd, terminal: Option<Terminal>) -> Result<u8> {
    let mut relay = terminal.map(Relay::new);
    loop {
        let ready = match &mut relay {
            Some(relay) => relay.turn(signals)?,
            None => true,
        };
        if !ready {
            continue;
        }
        let number = signal::next(signals.as_fd())?;
        handle(number, pid, relay.as_ref());
        // An end before the wait began is told of as well: signals were blocked before the clone.
        if number == process::SIGCHLD
            && let Some(exit) = reap(pid)?
        {
            if let Some(relay) = &mut relay {
                relay.drain();
            }
            return Ok(exit.shell_code());
        }
    }
}

/// Reaps what has ended, until it is `pid`: its exit. What ends later is reaped by
/// whoever inherits it from this process.
fn reap(pid: i32) -> Result<Option<Exit>> {
    loop {
        match process::wait(-1, true)? {
            Some((ended, exit)) if ended == pid => return Ok(Some(exit)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

fn handle(number: i32, pid: i32, relay: Option<&Relay>) {
    match number {
        process::SIGCHLD | process::SIGPIPE | process::SIGURG => {}
        process::SIGWINCH => {
            if let Some(relay) = relay {
                relay.terminal.resize();
            }
        }
        number => {
            // It may have ended just now: then its exit is what comes next.
            let _ = process::kill(pid, number);
        }
    }
}

/// Copies between the command's standard streams and a terminal's master.
#[derive(Debug)]
struct Relay {
    terminal: Terminal,
    input: bool,
    output: bool,
}

impl Relay {
    fn new(terminal: Terminal) -> Self {
        Self {
            terminal,
            input: true,
            output: true,
        }
    }

    fn master(&self) -> &OwnedFd {
        self.terminal
            .master
            .as_ref()
            .expect("received before it is relayed")
    }

    /// Waits for input, output or a signal and copies; true when there is a signal.
    fn turn(&mut self, signals: &OwnedFd) -> Result<bool> {
        let mut streams = fd::standard();
        let (stdin, stdout) = (streams.next(), streams.next());
        let input = stdin.filter(|_| self.input);
        let output = self.output.then(|| self.master().as_fd());
        let ready = fd::wait_any([Some(signals.as_fd()), output, input])?;
        if ready[1] {
            self.output = copy(self.master().as_fd(), stdout);
        }
        if ready[2] {
            let stdin = input.expect("was waited for");
            self.input = copy(stdin, Some(self.master().as_fd()));
        }
        Ok(ready[0])
    }

    /// What the terminal still holds after its last user has gone.
    fn drain(&mut self) {
        let stdout = fd::standard().nth(1);
        while self.output {
            let waiting = fd::wait_readable(self.master().as_fd(), Some(std::time::Duration::ZERO));
            if !matches!(waiting, Ok(true)) {
                return;
            }
            self.output = copy(self.master().as_fd(), stdout);
        }
    }
}

/// Copies one buffer; false when either side has ended.
fn copy(from: std::os::fd::BorrowedFd<'_>, to: Option<std::os::fd::BorrowedFd<'_>>) -> bool {
    let mut buffer = [0u8; 8192];
    match (fd::read(from, &mut buffer), to) {
        (Ok(0) | Err(_), _) => false,
        (Ok(n), Some(to)) => fd::write_all(to, &buffer[..n]).is_ok(),
        (Ok(_), None) => true,
    }
}
