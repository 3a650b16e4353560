//! Termination messages: what a container wrote before it ended.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rrun_cri_api::v1::ContainerStatus;

use super::names::{MESSAGE_FILE, MESSAGE_POLICY};

/// Longest message that is kept, in bytes.
const LONGEST: u64 = 4096;
/// Of the log's end, where the message is taken from there.
const LONGEST_LOG: u64 = 2048;
const LOG_LINES: usize = 80;

/// The message of a container that has ended: what it wrote to its termination message file, or
/// the end of its log where the policy says so and it failed, or the runtime's own words.
pub fn message(status: &ContainerStatus) -> Option<String> {
    let path = status.annotations.get(MESSAGE_FILE);
    let own = path.and_then(|path| tail(Path::new(path), LONGEST));
    let fall_back =
        status.annotations.get(MESSAGE_POLICY).map(String::as_str) == Some("FallbackToLogsOnError");
    let from_log = || {
        let failed = fall_back && status.exit_code != 0;
        failed.then(|| log_end(Path::new(&status.log_path)))?
    };
    let runtime = || Some(status.message.clone());
    own.or_else(from_log)
        .or_else(runtime)
        .filter(|text| !text.is_empty())
}

fn tail(path: &Path, longest: u64) -> Option<String> {
    // What the container made of the file is not followed anywhere else.
    let kind = std::fs::symlink_metadata(path).ok()?;
    if !kind.is_file() || kind.len() == 0 {
        return None;
    }
    let mut file = std::fs::File::open(path).ok()?;
    file.seek(SeekFrom::Start(kind.len().saturating_sub(longest)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(longest).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn log_end(path: &Path) -> Option<String> {
    let text = tail(path, 4 * LONGEST_LOG)?;
    let mut lines: Vec<&str> = text
        .lines()
        .filter_map(|l| l.splitn(4, ' ').nth(3))
        .collect();
    lines.drain(..lines.len().saturating_sub(LOG_LINES));
    let mut end = lines.join("\n");
    while end.len() as u64 > LONGEST_LOG {
        end.remove(0);
    }
    Some(end)
}
