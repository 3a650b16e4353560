//! v2: a device program attached to the cgroup.

use super::ebpf;
use super::rules::Policy;
use crate::{Context, Result};
use std::os::fd::BorrowedFd;

/// Loads the program of `policy` and attaches it to the cgroup `dir`. A refusal is
/// no error where it cannot matter: in a user namespace, where device nodes cannot
/// be made, or when `lax` (runc's and crun's rule).
pub fn execute(dir: BorrowedFd<'_>, policy: &Policy, lax: bool) -> Result<()> {
    let result = rrun_sys::bpf::load_cgroup_device(&ebpf::program(policy))
        .and_then(|program| rrun_sys::bpf::attach_cgroup_device(dir, &program));
    match result {
        Err(_) if lax || in_user_ns() => Ok(()),
        result => result.context("enforce linux.resources.devices by an eBPF program"),
    }
}

/// Whether the caller is in a user namespace other than the first: its map is not
/// the whole range one to one.
pub fn in_user_ns() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let mut fields = map.split_whitespace();
        [fields.next(), fields.next(), fields.next()] != [Some("0"), Some("0"), Some("4294967295")]
    })
}
