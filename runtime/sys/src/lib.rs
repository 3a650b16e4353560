//! Every unsafe block and raw system call of rrun, one module per topic.
//!
//! Functions here are thin: one system call (or one protocol of a few), owned
//! descriptors in and out, and an [`Error`] that carries the call's name and
//! arguments. Policy lives in the crates above.

pub mod bpf;
pub mod cgroup;
pub mod cred;
pub mod dedupe;
mod entry;
pub mod error;
pub mod event;
pub mod fd;
pub mod keyring;
pub mod loopdev;
pub mod mem;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod path;
pub mod process;
pub mod quota;
pub mod reader;
pub mod rlimit;
pub mod rtnetlink;
pub mod sched;
pub mod seal;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tty;
pub mod verity;
pub mod writeback;

pub use error::{Errno, Error, Result};
