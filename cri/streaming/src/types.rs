//! Types that the server, the client and their callers share.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream from the peer; ends when the peer half-closed it.
pub type ReadStream = Box<dyn AsyncRead + Send + Unpin>;

/// A byte stream to the peer; `shutdown` half-closes it.
pub type WriteStream = Box<dyn AsyncWrite + Send + Unpin>;

/// Which of a process's streams a session carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// The client sends standard input.
    pub stdin: bool,
    /// The client is sent standard output.
    pub stdout: bool,
    /// The client is sent standard error; never together with `tty`.
    pub stderr: bool,
    /// The process has a terminal, and the client sends its size.
    pub tty: bool,
}

/// Size of a terminal in character cells, in the JSON form of the resize channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// What a peer may cost us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams open at once on one SPDY connection.
    pub streams: usize,
    /// Longest frame or message taken from the peer, in bytes.
    pub message: usize,
    /// Bytes of one stream that are held until its reader takes them.
    pub buffer: usize,
    /// How long a peer may take to open the streams of its session.
    pub creation: Duration,
    /// How long a connection on which no byte moves in either direction is kept.
    pub idle: Duration,
}

impl Default for Limits {
    /// 1000 streams, 4 MiB messages, 256 KiB a stream, 30 seconds to open (the value of
    /// Kubernetes' `DefaultStreamCreationTimeout`), 4 hours of silence (the kubelet's
    /// `streamingConnectionIdleTimeout`).
    fn default() -> Self {
        Self {
            streams: 1000,
            message: 4 << 20,
            buffer: 256 << 10,
            creation: Duration::from_secs(30),
            idle: Duration::from_hours(4),
        }
    }
}

/// Why a session could not be begun or went on no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not an upgrade that is served here; `code` is the HTTP status to answer.
    #[error("{message}")]
    Refused {
        /// The HTTP status to answer with.
        code: http::StatusCode,
        /// What was wrong and what to do.
        message: String,
    },
    /// The peer broke the protocol.
    #[error("{protocol}: {message}")]
    Protocol {
        /// The protocol that was broken, as `SPDY/3.1`.
        protocol: &'static str,
        /// What the peer sent.
        message: String,
    },
    /// The peer did not do its part in time.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The connection broke.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The error of the connection.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, source: std::io::Error) -> Self {
        Self::Io { what, source }
    }

    pub(crate) fn refused(code: http::StatusCode, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }
}
