//! What a call ends with when it does not succeed.

use tonic::Status;

/// The result of everything that answers a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: what the client can act on, or everything else.
#[derive(Debug)]
pub enum Error {
    /// No object of this kind and id.
    NotFound {
        /// "container", "sandbox", "image" …
        kind: &'static str,
        /// As the client gave it.
        id: String,
    },
    /// A registry has no such image.
    NoManifest(String),
    /// The request itself is at fault; retrying it is useless.
    Invalid(String),
    /// An object with the same name and another content exists.
    Exists(String),
    /// The object's state does not allow it.
    State(String),
    /// Not to be had here; the client knows another way.
    Unimplemented(String),
    /// Not within the time that the client gave.
    Deadline(String),
    /// The machine's policy does not allow the image. A kubelet knows the reason by the word that the
    /// message starts with, and reads that of errors of the code Unknown alone.
    Rejected(String),
    /// A system call, a file, the shim, the runtime, the network …
    Internal(anyhow::Error),
}

impl Error {
    /// A container that does not exist.
    pub fn no_container(id: &str) -> Self {
        Self::NotFound {
            kind: "container",
            id: id.to_owned(),
        }
    }

    /// A sandbox that does not exist.
    pub fn no_sandbox(id: &str) -> Self {
        Self::NotFound {
            kind: "pod sandbox",
            id: id.to_owned(),
        }
    }

    /// gRPC's name of what the client gets.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoManifest(_) => "NotFound",
            Self::Invalid(_) => "InvalidArgument",
            Self::Exists(_) => "AlreadyExists",
            Self::State(_) => "FailedPrecondition",
            Self::Unimplemented(_) => "Unimplemented",
            Self::Deadline(_) => "DeadlineExceeded",
            Self::Rejected(_) => "Unknown",
            Self::Internal(_) => "Internal",
        }
    }

    /// A request with a missing or wrong field.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound { kind, id } => write!(f, "{kind} {id:?} not found"),
            Self::NoManifest(why)
            | Self::Invalid(why)
            | Self::Exists(why)
            | Self::State(why)
            | Self::Unimplemented(why)
            | Self::Deadline(why) => f.write_str(why),
            Self::Rejected(why) => write!(f, "SignatureValidationFailed: {why}"),
            // The chain is printed here, once, since this is the top.
            Self::Internal(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        // A typed error that passed through code which adds context stays what it is.
        match error.downcast::<Error>() {
            Ok(typed) => typed,
            Err(error) => Self::Internal(error),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::NotFound { .. } | Error::NoManifest(_) => Self::not_found(message),
            Error::Invalid(_) => Self::invalid_argument(message),
            Error::Exists(_) => Self::already_exists(message),
            Error::State(_) => Self::failed_precondition(message),
            Error::Unimplemented(_) => Self::unimplemented(message),
            Error::Deadline(_) => Self::deadline_exceeded(message),
            Error::Rejected(_) => Self::unknown(message),
            Error::Internal(_) => Self::internal(message),
        }
    }
}
