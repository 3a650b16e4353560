//! Giving a v2 cgroup to the user of the container that may write it (runtime-spec,
//! config-linux.md#cgroup-ownership), so that it can make cgroups of its own below.

use super::freezer::gone;
use super::{Cgroup, Plan};
use crate::{Error, Result};
use std::os::unix::fs::chown;

/// What the kernel says may be given away (since 4.14).
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The same where the kernel does not say.
const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

impl Cgroup {
    /// Makes the planned owner that of the directory and of the files that are delegated.
    pub fn give(&self, plan: &Plan) -> Result<()> {
        let (Some(owner), Some(dir)) = (plan.owner, &self.unified) else {
            return Ok(());
        };
        if self.has_legacy() {
            // Delegation is not safe there.
            return Ok(());
        }
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| FILES.to_owned());
        let files = list.lines().map(|name| dir.join(name));
        for path in std::iter::once(dir.clone()).chain(files) {
            match chown(&path, Some(owner), None) {
                Err(e) if gone(&e) => {}
                // A user's own is given to another of theirs by nobody.
                Err(e) if plan.rootless && e.kind() == std::io::ErrorKind::PermissionDenied => {}
                Err(e) => return Err(Error::file("chown", path, e)),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}
