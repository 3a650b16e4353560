//! The error of a system call, with what it was called on.

use std::fmt;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A kernel error number, displayed as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's current `errno`.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = words(self.0) {
            return f.write_str(text);
        }
        // std appends " (os error N)", which users of a runtime do not need.
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let end = text.rfind(" (os error").unwrap_or(text.len());
        let mut text = text[..end].to_owned();
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        f.write_str(&text)
    }
}

/// What glibc and Go say, and callers look for, where musl has other words.
fn words(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EIO => "input/output error",
        libc::ECHILD => "no child processes",
        libc::ENOMEM => "cannot allocate memory",
        libc::EBUSY => "device or resource busy",
        libc::EXDEV => "invalid cross-device link",
        libc::EMFILE => "too many open files",
        libc::ENOTTY => "inappropriate ioctl for device",
        libc::ESPIPE => "illegal seek",
        libc::EDOM => "numerical argument out of domain",
        libc::ERANGE => "numerical result out of range",
        libc::EDEADLK => "resource deadlock avoided",
        libc::ENAMETOOLONG => "file name too long",
        libc::ELOOP => "too many levels of symbolic links",
        libc::ETIME => "timer expired",
        libc::EOVERFLOW => "value too large for defined data type",
        libc::EILSEQ => "invalid or incomplete multibyte or wide character",
        libc::EUSERS => "too many users",
        libc::ENOTSOCK => "socket operation on non-socket",
        libc::EMSGSIZE => "message too long",
        libc::EOPNOTSUPP => "operation not supported",
        libc::EADDRINUSE => "address already in use",
        libc::EADDRNOTAVAIL => "cannot assign requested address",
        libc::ENETUNREACH => "network is unreachable",
        libc::ENETRESET => "network dropped connection on reset",
        libc::ECONNABORTED => "software caused connection abort",
        libc::EISCONN => "transport endpoint is already connected",
        libc::ENOTCONN => "transport endpoint is not connected",
        libc::ESHUTDOWN => "cannot send after transport endpoint shutdown",
        libc::ETIMEDOUT => "connection timed out",
        libc::EHOSTUNREACH => "no route to host",
        libc::EINPROGRESS => "operation now in progress",
        libc::EUCLEAN => "structure needs cleaning",
        libc::EDQUOT => "disk quota exceeded",
        libc::EOWNERDEAD => "owner died",
        _ => return None,
    })
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

/// A failed system call: its name, its arguments as a person reads them, and
/// the error number.
#[derive(Debug, Clone)]
pub struct Error {
    call: &'static str,
    args: Box<str>,
    errno: Errno,
    note: Option<Box<str>>,
}

impl Error {
    /// An error of `call` on `args` (printed between parentheses).
    pub fn new(call: &'static str, args: fmt::Arguments<'_>, errno: Errno) -> Self {
        Self {
            call,
            args: args.to_string().into(),
            errno,
            note: None,
        }
    }

    /// The same with the calling thread's `errno`.
    pub fn last(call: &'static str, args: fmt::Arguments<'_>) -> Self {
        let errno = Errno::last();
        Self::new(call, args, errno)
    }

    /// From an I/O error of the standard library; an error without a number
    /// becomes EIO.
    pub fn io(call: &'static str, args: fmt::Arguments<'_>, error: &std::io::Error) -> Self {
        Self::new(call, args, Errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Adds what the kernel said besides the number.
    #[must_use]
    pub fn with_note(mut self, note: &str) -> Self {
        self.note = if note.is_empty() {
            None
        } else {
            Some(note.into())
        };
        self
    }

    /// The error number.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Whether the error number is `code` (a `libc::E…`).
    pub fn is(&self, code: i32) -> bool {
        self.errno.0 == code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): {}", self.call, self.args, self.errno)?;
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Self {
        Self(errno as i32)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

/// Turns the errors of nix and rustix into this crate's, with the call's name and arguments.
pub trait Call<T> {
    /// `call` and `args` as in [`Error::new`]; formatted only when there is an error.
    fn call(self, call: &'static str, args: std::fmt::Arguments<'_>) -> Result<T>;
}

impl<T, E: Into<Errno>> Call<T> for std::result::Result<T, E> {
    fn call(self, call: &'static str, args: std::fmt::Arguments<'_>) -> Result<T> {
        self.map_err(|e| Error::new(call, args, e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, words};

    #[test]
    fn words_are_those_of_callers_with_any_libc() {
        assert_eq!(Errno(libc::EBUSY).to_string(), "device or resource busy");
        assert_eq!(Errno(libc::ENOENT).to_string(), "no such file or directory");
        if cfg!(target_env = "gnu") {
            for (number, text) in (1..134).filter_map(|n| Some((n, words(n)?))) {
                let own = std::io::Error::from_raw_os_error(number).to_string();
                let own = own.to_lowercase();
                assert_eq!(own, format!("{text} (os error {number})"));
            }
        }
    }
}
