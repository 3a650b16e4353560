//! The last steps of a process of a container, its first or an exec's: from root in the
//! container's namespaces to the user's program.
//!
//! The runtime takes them, and the shim, which makes most execs itself; hence a crate of its
//! own, that knows no configuration.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod identity;
pub mod program;
pub mod rlimits;

pub use capabilities::Sets;
pub use identity::Identity;
pub use program::Program;

use std::fmt;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What was done or which field is wrong, and why it failed: one line, worded as engines that
/// call a runtime look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// Of `what` failed, because of `why`.
    fn of(what: &str, why: &dyn fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.0
    }
}

/// Adds what was being done.
trait Told<T> {
    fn told(self, what: &str) -> Result<T>;
}

impl<T, E: fmt::Display> Told<T> for std::result::Result<T, E> {
    fn told(self, what: &str) -> Result<T> {
        self.map_err(|why| Error::of(what, &why))
    }
}
