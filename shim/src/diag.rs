//! What the shim has to say itself: to containerd's log FIFO in the bundle where there is one,
//! else to `shim.log` beside it. Opened for each line, as there are few and the daemon may be away.

use rrun_task_api::time::now_nanos;
use rustix::fs::{FileType, Mode, OFlags};
use std::path::Path;

/// Writes one line; failing to do so must not hurt the container.
pub fn warn(bundle: &Path, message: &str) {
    let path = bundle.join("log");
    let is_fifo = rustix::fs::stat(&path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let (path, flags) = if is_fifo {
        (path, OFlags::WRONLY | OFlags::NONBLOCK)
    } else {
        (
            bundle.join("shim.log"),
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        )
    };
    let Ok(fd) = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
    else {
        return;
    };
    let line = format!(
        "time={} level=warning msg={message:?}\n",
        now_nanos() / 1_000_000_000
    );
    let _ = rustix::io::write(fd, line.as_bytes());
}
