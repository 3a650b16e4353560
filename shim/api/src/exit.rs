//! `<bundle>/exit.json`: the record of an exit that survives everybody who could tell of it.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Name of the file in the bundle.
pub const FILE: &str = "exit.json";
/// The format that this code writes.
pub const VERSION: u32 = 1;

/// How a container's first process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Format of the file; [`VERSION`].
    pub version: u32,
    /// The process as the host saw it.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot; 0 where it was not known.
    pub start_time: u64,
    /// Exit code; 128 + signal where a signal ended it.
    pub code: u32,
    /// The signal that ended it, 0 for none.
    pub signal: u32,
    /// Nanoseconds since the epoch.
    pub exited_at: u64,
    /// The kernel's out-of-memory killer took a process of the container.
    pub oom_killed: bool,
}

impl Exit {
    /// Writes the record durably: temporary file, fsync, rename, fsync of the directory.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let temporary = bundle.join(".exit.json.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, bundle.join(FILE))?;
        File::open(bundle)?.sync_all()
    }

    /// Reads the record of a bundle; `None` where nothing has exited yet.
    pub fn read(bundle: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(bundle.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let exit: Self = serde_json::from_slice(&bytes)?;
        if exit.version != VERSION {
            let message = format!("{FILE} has version {}, known is {VERSION}", exit.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(exit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_version_one_is_read() {
        let bytes = br#"{"version":1,"pid":7,"start_time":9,"code":137,"signal":9,
            "exited_at":1790000000000000000,"oom_killed":true}"#;
        let exit: Exit = serde_json::from_slice(bytes).unwrap();
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, true));
    }
}
