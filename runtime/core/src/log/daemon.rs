//! The machine's log daemons as sinks: journald's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)
//! and syslog's (RFC 3164).

use super::Level;
use crate::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

/// journald's socket.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// syslog's.
const SYSLOG: &str = "/dev/log";
/// Facility "user", shifted (RFC 3164, 4.1.1).
const USER: u8 = 1 << 3;

/// A daemon, connected: it is reached from inside the container too.
#[derive(Debug)]
pub struct Daemon {
    socket: UnixDatagram,
    journal: bool,
    identifier: String,
}

impl Daemon {
    /// journald, with `SYSLOG_IDENTIFIER`.
    pub fn journal(identifier: &str) -> Result<Self> {
        Self::connect(JOURNAL, true, identifier)
    }

    /// syslog, with the tag.
    pub fn syslog(identifier: &str) -> Result<Self> {
        Self::connect(SYSLOG, false, identifier)
    }

    fn connect(path: &str, journal: bool, identifier: &str) -> Result<Self> {
        let failed = |e| Error::file("connect to", path, e);
        let socket = UnixDatagram::unbound().map_err(failed)?;
        socket.connect(path).map_err(failed)?;
        Ok(Self {
            socket,
            journal,
            identifier: identifier.to_owned(),
        })
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one message. Failure is not an error: there is nobody to tell.
    pub fn send(&self, level: Level, message: &str) {
        let text = if self.journal {
            journal_message(&self.identifier, level, message)
        } else {
            syslog_message(&self.identifier, level, message)
        };
        let _ = self.socket.send(text.as_bytes());
    }
}

/// syslog(3)'s severity.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug => 7,
    }
}

/// A newline would end the field.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn journal_message(identifier: &str, level: Level, message: &str) -> String {
    format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={}\nMESSAGE={}\n",
        severity(level),
        one_line(identifier),
        one_line(message)
    )
}

/// Without a time: the daemon adds its own.
fn syslog_message(identifier: &str, level: Level, message: &str) -> String {
    format!(
        "<{}>{}[{}]: {}",
        USER | severity(level),
        one_line(identifier),
        std::process::id(),
        one_line(message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_at_newlines_that_are_not_the_messages() {
        assert_eq!(
            journal_message("c1", Level::Warning, "a\nMESSAGE=b"),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=c1\nMESSAGE=a MESSAGE=b\n"
        );
        let text = syslog_message("c1", Level::Error, "x\ny");
        assert!(
            text.starts_with("<11>c1[") && text.ends_with("]: x y"),
            "{text}"
        );
    }
}
