//! What can go wrong. An error's text is its own level only; `source` has the next one.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library. Each variant says what was wrong and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference that does not parse.
    #[error("image name {input:?}: {why}")]
    Reference {
        /// What was given.
        input: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A digest that does not parse.
    #[error("digest {input:?}: {why}")]
    Digest {
        /// What was given.
        input: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A platform that does not parse.
    #[error("platform {0:?}: write os/architecture or os/architecture/variant, as in linux/arm64")]
    Platform(String),
    /// The store has no such image.
    #[error("no image {0:?} in the store")]
    NoImage(String),
    /// The start of an image id that several images share.
    #[error("{0:?} is the start of more than one image id: write more of it")]
    Ambiguous(String),
    /// The image is used by a container.
    #[error("image {image} is used by {users}: remove those first")]
    InUse {
        /// Its id.
        image: String,
        /// The keys given to [`crate::Store::rootfs`].
        users: String,
    },
    /// A system call on a file failed.
    #[error("{verb} {path}")]
    File {
        /// What was tried: "read", "create" …
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A document (manifest, configuration, index) that is not as its specification says.
    #[error("{what}: {why}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes that do not have the digest they were asked by.
    #[error("{what}: expected digest {expected}, got {got}")]
    DigestMismatch {
        /// Whose bytes.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{what}: expected {expected} bytes, got {got}")]
    SizeMismatch {
        /// Whose bytes.
        what: String,
        /// Size in the descriptor.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A layer was refused. The entry is empty where the stream itself is broken.
    #[error("{}{}: {why}", layer_text(layer), entry_text(entry))]
    Layer {
        /// Digest of the layer as fetched.
        layer: String,
        /// Path of the entry in the archive, as far as it is readable.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry has no such manifest, blob or repository.
    #[error("{registry}: {what} not found")]
    NotFound {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry refused the credentials, or wants some.
    #[error(
        "{registry}: access to {what} denied{}: check the name, or log in",
        detail_text(detail)
    )]
    Denied {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry said.
        detail: String,
    },
    /// A request to a registry failed for good.
    #[error("{registry}: {what}: {why}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What was tried, and how often.
        what: String,
        /// What the last attempt gave.
        why: String,
    },
    /// The image exists, but not for the platform that was asked for.
    #[error("{image}: no manifest for {wanted}; there is {available}")]
    NoPlatform {
        /// The reference.
        image: String,
        /// The platform that was asked for.
        wanted: String,
        /// Those that the index lists.
        available: String,
    },
    /// The machine's policy does not allow the image.
    #[error("{image} is not allowed here: {why}")]
    Rejected {
        /// The reference.
        image: String,
        /// Which rule, or what its signatures lack.
        why: String,
    },
    /// Something that exists in the standards and is refused here.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What.
        what: String,
        /// Why, or what to use instead.
        why: String,
    },
    /// The rootfs key is already taken.
    #[error("rootfs {0:?} exists already: release it first")]
    RootfsExists(String),
    /// An instruction of a Dockerfile is wrong, or failed.
    #[error("{file}, line {line}: {why}")]
    Dockerfile {
        /// The file.
        file: String,
        /// Where the instruction starts, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A worker ended without a result.
    #[error("internal: {0}")]
    Worker(String),
}

/// An archive that a Dockerfile adds is no layer yet.
fn layer_text(layer: &str) -> String {
    if layer.is_empty() {
        "the archive".to_owned()
    } else {
        format!("layer {layer}")
    }
}

fn entry_text(entry: &str) -> String {
    if entry.is_empty() {
        String::new()
    } else {
        format!(", entry {entry:?}")
    }
}

fn detail_text(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

impl Error {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give texts and errors alike"
    )]
    pub(crate) fn document(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Document {
            what: what.into(),
            why: why.to_string(),
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }

    /// True where the store or the registry lacks what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoImage(_) | Self::NotFound { .. })
    }

    /// True where the machine's policy does not allow the image.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// True where the caller's input is at fault.
    pub fn is_invalid_input(&self) -> bool {
        matches!(
            self,
            Self::Reference { .. } | Self::Digest { .. } | Self::Platform(_)
        )
    }
}

/// Adds the verb and the path to an IO error.
pub(crate) trait FileContext<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> FileContext<T> for Result<T, E> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File {
            verb,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
