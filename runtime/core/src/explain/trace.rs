//! The times of steps, from both processes, by a file in memory that the clone shares.
//! Without `--explain` a span costs the look whether there is one.

use crate::Result;
use rrun_sys::fd;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static FILE: OnceLock<File> = OnceLock::new();

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after its step")]
pub enum Key {
    Directory,
    Seccomp,
    Trees,
    CgroupBegin,
    Clone,
    IdMaps,
    OomScore,
    CgroupMake,
    Limits,
    Rdt,
    Join,
    Unshare,
    Loopback,
    EnterCgroup,
    CgroupNamespace,
    Names,
    NetDevices,
    Root,
    Devices,
    RuntimeHooks,
    ContainerHooks,
    Pivot,
    Console,
    Sysctls,
    Masks,
    Seal,
    Prepare,
    Identity,
    Record,
    StartHooks,
    Exec,
    PoststartHooks,
    /// `mounts[N]`.
    Mount(usize),
}

const FIXED: [Key; 32] = [
    Key::Directory,
    Key::Seccomp,
    Key::Trees,
    Key::CgroupBegin,
    Key::Clone,
    Key::IdMaps,
    Key::OomScore,
    Key::CgroupMake,
    Key::Limits,
    Key::Rdt,
    Key::Join,
    Key::Unshare,
    Key::Loopback,
    Key::EnterCgroup,
    Key::CgroupNamespace,
    Key::Names,
    Key::NetDevices,
    Key::Root,
    Key::Devices,
    Key::RuntimeHooks,
    Key::ContainerHooks,
    Key::Pivot,
    Key::Console,
    Key::Sysctls,
    Key::Masks,
    Key::Seal,
    Key::Prepare,
    Key::Identity,
    Key::Record,
    Key::StartHooks,
    Key::Exec,
    Key::PoststartHooks,
];

impl Key {
    fn code(self) -> u64 {
        match self {
            Self::Mount(index) => 1000 + index as u64,
            fixed => FIXED.iter().position(|k| *k == fixed).unwrap_or(0) as u64,
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        match code.checked_sub(1000) {
            Some(index) => usize::try_from(index).ok().map(Self::Mount),
            None => FIXED.get(usize::try_from(code).ok()?).copied(),
        }
    }
}

/// A step at work; what it took is written when it ends.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<(Key, Instant)>);

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some((key, began)), Some(file)) = (self.0, FILE.get()) {
            let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut record = [0; 16];
            record[..8].copy_from_slice(&key.code().to_le_bytes());
            record[8..].copy_from_slice(&nanos.to_le_bytes());
            // A time that is missing is no failure of the step.
            let _ = fd::write_all(file.as_fd(), &record);
        }
    }
}

/// Begins a span.
pub fn span(key: Key) -> Span {
    Span(FILE.get().map(|_| (key, Instant::now())))
}

/// Starts to keep times, in this process and those that it clones.
pub fn start() -> Result<()> {
    let file = fd::memory_file("explain")?;
    let _ = FILE.set(file);
    Ok(())
}

/// The file, for a process that closes what it does not know.
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    FILE.get().map(AsFd::as_fd)
}

/// The spans that have ended.
pub fn spans() -> Vec<(Key, Duration)> {
    let mut bytes = Vec::new();
    if let Some(mut file) = FILE.get() {
        let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    }
    let number = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes);
    bytes
        .chunks_exact(16)
        .filter_map(|record| {
            let (code, nanos) = record.split_at(8);
            Some((
                Key::from_code(number(code))?,
                Duration::from_nanos(number(nanos)),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_own_code() {
        for (index, key) in FIXED.into_iter().enumerate() {
            assert_eq!(key.code(), index as u64);
            assert_eq!(Key::from_code(key.code()), Some(key));
        }
        let mount = Key::Mount(7);
        assert_eq!(Key::from_code(mount.code()), Some(mount));
        assert_eq!(Key::from_code(999), None);
    }
}
