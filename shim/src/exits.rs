//! The end of a container, on disk before anybody is told of it.

use crate::machine::Exited;
use rrun_task_api::exit::{Exit, VERSION};
use rustix::process::Pid;
use std::fs;
use std::io;
use std::path::Path;

/// File in the bundle that names the first process: pid and start time.
const INIT_FILE: &str = ".init";

/// Writes down which process is the container's first.
pub fn record_init(bundle: &Path, pid: u32, start: u64) -> io::Result<()> {
    let temporary = bundle.join(".init.tmp");
    fs::write(&temporary, format!("{pid} {start}\n"))?;
    fs::rename(temporary, bundle.join(INIT_FILE))
}

/// The container's first process as the shim wrote it down: pid and start time.
pub fn recorded(bundle: &Path) -> Option<(u32, u64)> {
    let text = fs::read_to_string(bundle.join(INIT_FILE)).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// That process, if it still lives and is the one it was.
pub fn recorded_init(bundle: &Path) -> Option<Pid> {
    let (pid, start) = recorded(bundle)?;
    (start_time(pid) == Some(start))
        .then(|| Pid::from_raw(pid as i32))
        .flatten()
}

/// Writes `exit.json` into the bundle.
pub fn record(bundle: &Path, pid: u32, start: u64, exit: Exited, oom: bool) -> io::Result<()> {
    let record = Exit {
        version: VERSION,
        pid,
        start_time: start,
        code: exit.code,
        signal: exit.signal,
        exited_at: exit.at,
        oom_killed: oom,
    };
    record.write(bundle)
}

/// Field 22 of `/proc/<pid>/stat`: when it started, in clock ticks since boot. With the pid it
/// names a process for as long as the machine is up.
pub fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field is a program's name, which may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_cannot_mislead() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_time(stat), Some(4242));
    }

    #[test]
    fn our_own_start_time_is_known() {
        assert!(start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
    }
}
