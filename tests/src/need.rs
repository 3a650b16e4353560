//! What a test needs of the machine, and the report of what is missing.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::programs::find_program;

/// A privilege, program or kernel feature that a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Effective user id 0.
    Root,
    /// A program on `PATH`, in `/usr/sbin` or in `/usr/lib/cni`, by file name.
    Program(&'static str),
    /// A file or directory that must exist.
    Path(&'static str),
    /// An environment variable that gives the path of a peer's program.
    Env(&'static str),
    /// Pure cgroup v2 at `/sys/fs/cgroup`.
    CgroupV2,
    /// cgroup v1 controllers at `/sys/fs/cgroup/<controller>`.
    CgroupV1,
    /// systemd is process 1.
    Systemd,
    /// CAP_SYS_RESOURCE in the effective set (bit 24, capability.h).
    CapSysResource,
    /// The loopback and veth devices, and network namespaces, can be made.
    Network,
}

/// Says what is missing of `needs`, or `None` where all are met.
pub fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(lacks)
}

fn lacks(need: &Need) -> Option<String> {
    let cgroup = Path::new("/sys/fs/cgroup");
    let (met, what) = match *need {
        Need::Root => (
            rustix::process::geteuid().is_root(),
            "needs root".to_owned(),
        ),
        Need::Program(name) => (find_program(name).is_some(), format!("needs {name}")),
        Need::Path(path) => (Path::new(path).exists(), format!("needs {path}")),
        Need::Env(name) => (
            std::env::var_os(name).is_some_and(|path| Path::new(&path).exists()),
            format!("needs {name}=/path/to/the/program"),
        ),
        Need::CgroupV2 => (
            cgroup.join("cgroup.controllers").exists(),
            "needs pure cgroup v2".to_owned(),
        ),
        Need::CgroupV1 => (
            cgroup.join("memory/cgroup.procs").exists(),
            "needs cgroup v1".to_owned(),
        ),
        Need::Systemd => (
            Path::new("/run/systemd/system").exists(),
            "needs systemd as process 1".to_owned(),
        ),
        Need::CapSysResource => (has_capability(24), "needs CAP_SYS_RESOURCE".to_owned()),
        Need::Network => (
            rustix::process::geteuid().is_root() && has_capability(12),
            "needs root with CAP_NET_ADMIN".to_owned(),
        ),
    };
    (!met).then_some(what)
}

/// Whether capability number `bit` is in this process's effective set (proc(5), CapEff).
fn has_capability(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> bit & 1 == 1)
}

/// Reports a skip of the running test. Used by [`require!`](crate::require).
pub fn report_skip(module: &str, why: &str) {
    let thread = std::thread::current();
    let line = format!(
        "skipped: {module}::{}: {why}\n",
        thread.name().unwrap_or("?")
    );
    // Past the harness's capture, which only sees the print macros.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("RRUN_SKIPS")
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}
