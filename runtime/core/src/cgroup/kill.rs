//! Signalling every process of a cgroup.

use super::freezer::gone;
use super::tree;
use super::write::put;
use super::{Cgroup, freezer};
use crate::{Error, Result};
use std::thread::sleep;
use std::time::Duration;

/// SIGKILL.
const KILL: i32 = 9;
/// ESRCH: the process is gone.
const ESRCH: i32 = 3;
/// Rounds of the loop over v1's processes.
const ROUNDS: u32 = 100;

impl Cgroup {
    /// Signals every process: `cgroup.kill` (5.14) for SIGKILL on v2, else freeze,
    /// signal, thaw. With SIGKILL no process is left in the cgroup's lists but those
    /// that are already dying. A cgroup that is gone has no processes.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if signal == KILL && self.kill_unified()? && self.legacy.is_empty() {
            return Ok(());
        }
        let Some(dir) = self.list_dir() else {
            return Ok(());
        };
        if signal != KILL {
            return self.signal_frozen(dir, signal);
        }
        for _ in 0..ROUNDS {
            let pids = list(dir)?;
            if pids.is_empty() {
                return Ok(());
            }
            self.signal_frozen(dir, KILL)?;
            if pids.iter().all(|pid| dying(*pid)) {
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        Err(Error::State(
            format!("processes are left in {} after SIGKILL", dir.display()).into(),
        ))
    }

    /// Whether `cgroup.kill` was there to do it.
    fn kill_unified(&self) -> Result<bool> {
        let Some(dir) = &self.unified else {
            return Ok(false);
        };
        match put(dir, "cgroup.kill", "1") {
            Ok(()) => {
                // What was paused has to run to its end; on v1 that needs the freezer's leave.
                self.thaw()?;
                Ok(true)
            }
            Err(e) if gone(&e) => Ok(!dir.exists()),
            Err(e) => Err(Error::file("write", dir.join("cgroup.kill"), e)),
        }
    }

    /// Freezes, so that none can fork away from the list; signals; thaws. Where it
    /// cannot be frozen the processes are signalled as they run.
    fn signal_frozen(&self, dir: &std::path::Path, signal: i32) -> Result<()> {
        let frozen = self.freeze().is_ok();
        let result = list(dir).and_then(|pids| {
            for pid in pids {
                match rrun_sys::cgroup::signal(pid, signal) {
                    Err(e) if !e.is(ESRCH) => return Err(e.into()),
                    _ => {}
                }
            }
            Ok(())
        });
        if frozen {
            self.thaw()?;
        } else if let Some(dir) = self.freezer_dir() {
            let _ = freezer::set_legacy(dir, false);
        }
        result
    }
}

fn list(dir: &std::path::Path) -> Result<Vec<i32>> {
    match tree::all_pids(dir) {
        Err(Error::File { source, .. }) if gone(&source) => Ok(Vec::new()),
        other => other,
    }
}

/// Whether the process is a zombie or gone: nothing more can be done to it.
fn dying(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The command may hold anything; the state is after its closing parenthesis.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}
