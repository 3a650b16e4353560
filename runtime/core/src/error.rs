//! The library's error: what was being done, where, and why it failed.

use std::borrow::Cow;
use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step failed. Each level adds its context once ([`Context`]); the chain
/// is printed once, at the top, on one line ([`Error::chain`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step with its cause below it.
    #[error("{what}")]
    Step {
        /// What was being done, and on what.
        what: Cow<'static, str>,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] rrun_sys::Error),
    /// One of a process's last steps failed.
    #[error(transparent)]
    Process(#[from] rrun_process::Error),
    /// A file operation of the standard library failed.
    #[error("{call} {}: {}", path.display(), plain(source))]
    File {
        /// What was done: "open", "write", …
        call: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// config.json or another JSON document is not what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The document.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field of config.json holds something that cannot be carried out.
    #[error("{field}: {why}")]
    Config {
        /// Path of the field, as `linux.namespaces[2].path`.
        field: Cow<'static, str>,
        /// What is wrong and what to do.
        why: Cow<'static, str>,
    },
    /// A command-line argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// The container's state does not allow the request.
    #[error("{0}")]
    State(Cow<'static, str>),
    /// No such container.
    #[error("container does not exist")]
    NoContainer {
        /// Its id.
        id: String,
    },
    /// The kernel or this build lacks what was asked for.
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
    /// Another process that takes part (init, a hook) failed and said why.
    #[error("{0}")]
    Remote(String),
}

/// An error of the standard library in the words that system calls' errors have here.
fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => rrun_sys::Errno(number).to_string(),
        None => error.to_string(),
    }
}

impl Error {
    /// A field of config.json is wrong.
    pub fn config(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Config {
            field: field.into(),
            why: why.into(),
        }
    }

    /// A file operation failed.
    pub fn file(call: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File {
            call,
            path: path.into(),
            source,
        }
    }

    /// The error number at the bottom of the chain, if a system call is there.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Step { source, .. } => source.errno(),
            Self::Sys(error) => Some(error.errno().0),
            Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The whole chain on one line, outermost first.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut error = self;
        while let Self::Step { source, .. } = error {
            text.push_str(": ");
            text.push_str(&source.to_string());
            error = source;
        }
        text.replace('\n', " ")
    }
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// With a fixed text.
    fn context(self, what: &'static str) -> Result<T>;
    /// With a text made only when there is an error.
    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &'static str) -> Result<T> {
        self.map_err(|e| Error::Step {
            what: what.into(),
            source: Box::new(e.into()),
        })
    }

    fn with_context<S: Into<Cow<'static, str>>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::Step {
            what: what().into(),
            source: Box::new(e.into()),
        })
    }
}
