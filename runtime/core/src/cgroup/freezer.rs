//! Freezing all processes of a cgroup.
//!
//! v2 (5.2): write `cgroup.freeze`, wait for `frozen 1` in `cgroup.events`.
//! v1: write `freezer.state`; the kernel may get stuck in FREEZING while new
//! processes appear, so write again, and thaw for a moment now and then.

use super::write::{get, put};
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// ENODEV: the cgroup was removed while its file was open.
const ENODEV: i32 = 19;
/// Longest wait for v2: 1000 × 10 ms, as runc waits.
const WAITS: u32 = 1000;

/// Freezes (or thaws) a v2 cgroup, and waits until it is so.
pub fn set_unified(dir: &Path, frozen: bool) -> Result<()> {
    let value = if frozen { "1" } else { "0" };
    match put(dir, "cgroup.freeze", value) {
        Ok(()) if frozen => wait_frozen(dir),
        Ok(()) => Ok(()),
        Err(e) if !frozen && gone(&e) => Ok(()),
        Err(e) => Err(Error::file("write", dir.join("cgroup.freeze"), e)),
    }
}

fn wait_frozen(dir: &Path) -> Result<()> {
    for _ in 0..WAITS {
        let events = get(dir, "cgroup.events")
            .map_err(|e| Error::file("read", dir.join("cgroup.events"), e))?;
        if events.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    let _ = put(dir, "cgroup.freeze", "0");
    Err(Error::State(
        format!("{}: not frozen after 10 s; thawed again", dir.display()).into(),
    ))
}

/// Whether a v2 cgroup is itself frozen (not by an ancestor).
pub fn is_frozen_unified(dir: &Path) -> Result<bool> {
    match get(dir, "cgroup.freeze") {
        Ok(text) => Ok(text.trim_end() == "1"),
        Err(e) if gone(&e) => Ok(false),
        Err(e) => Err(Error::file("read", dir.join("cgroup.freeze"), e)),
    }
}

/// Freezes (or thaws) a v1 freezer cgroup. When it cannot be frozen it is thawed
/// again: half frozen is worse than either.
pub fn set_legacy(dir: &Path, frozen: bool) -> Result<()> {
    let file = |call, e| Error::file(call, dir.join("freezer.state"), e);
    if !frozen {
        return match put(dir, "freezer.state", "THAWED") {
            Err(e) if !gone(&e) => Err(file("write", e)),
            _ => Ok(()),
        };
    }
    for round in 1..=WAITS {
        if round % 50 == 0 {
            let _ = put(dir, "freezer.state", "THAWED");
            sleep(Duration::from_millis(10));
        }
        put(dir, "freezer.state", "FROZEN").map_err(|e| file("write", e))?;
        if round % 25 == 0 {
            sleep(Duration::from_micros(10));
        }
        let state = get(dir, "freezer.state").map_err(|e| file("read", e))?;
        if state.trim_end() == "FROZEN" {
            return Ok(());
        }
    }
    let _ = put(dir, "freezer.state", "THAWED");
    Err(Error::State(
        format!("unable to freeze {}; thawed again", dir.display()).into(),
    ))
}

/// Whether a v1 freezer cgroup is itself frozen.
pub fn is_frozen_legacy(dir: &Path) -> Result<bool> {
    for _ in 0..WAITS {
        match get(dir, "freezer.state") {
            Ok(state) if state.trim_end() == "FREEZING" => sleep(Duration::from_millis(1)),
            Ok(state) if state.trim_end() == "FROZEN" => {
                let own = get(dir, "freezer.self_freezing");
                return Ok(own.map_or(true, |text| text.trim_end() == "1"));
            }
            Ok(_) => return Ok(false),
            Err(e) if gone(&e) => return Ok(false),
            Err(e) => return Err(Error::file("read", dir.join("freezer.state"), e)),
        }
    }
    Ok(false)
}

/// Whether the error says that the cgroup (or the file) is not there.
pub fn gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV)
}
