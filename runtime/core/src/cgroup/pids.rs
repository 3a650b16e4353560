//! pids: how many tasks there may be.

use super::write::Write;
use oci_spec::runtime::LinuxPids;

/// The same on both versions. -1 is unlimited; 0 becomes 1, as systemd cannot set
/// 0 and the effect is the same.
pub fn writes(pids: LinuxPids, writes: &mut Vec<Write>) {
    let value = match pids.limit() {
        0 => "1".into(),
        n if n > 0 => n.to_string(),
        _ => "max".into(),
    };
    writes.push(Write::new("pids.max", value));
}
