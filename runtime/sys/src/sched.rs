//! Scheduling: policy, affinity, I/O priority, personality, memory policy.

use crate::error::Call;
use crate::{Error, Result};

/// `struct sched_attr` of sched_setattr(2), size 48 (3.14).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) of the caller.
pub fn set_scheduler(attr: &SchedAttr) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        ..*attr
    };
    // SAFETY: a live struct whose size is in its first field.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0) } == 0 {
        return Ok(());
    }
    Err(Error::last(
        "sched_setattr",
        format_args!(
            "policy {}, nice {}, priority {}",
            attr.policy, attr.nice, attr.priority
        ),
    ))
}

/// ioprio_set(2) of the caller: class 1 real-time, 2 best effort, 3 idle; level 0 to 7.
pub fn set_io_priority(class: i32, level: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    let value = class << 13 | level;
    // SAFETY: plain integers.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) } == 0 {
        return Ok(());
    }
    Err(Error::last(
        "ioprio_set",
        format_args!("class {class}, level {level}"),
    ))
}

/// personality(2).
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: a plain integer.
    if unsafe { libc::personality(persona) } >= 0 {
        return Ok(());
    }
    Err(Error::last("personality", format_args!("{persona:#x}")))
}

/// sched_setaffinity(2) of process `pid` (0: the caller).
pub fn set_affinity(pid: i32, cpus: &[usize]) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).call("CPU_SET", format_args!("{cpu}"))?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(pid), &set)
        .call("sched_setaffinity", format_args!("{pid}, {cpus:?}"))
}

/// Lets the caller run on every processor that its cpuset has. The kernel takes
/// what is possible of a full mask; a failure leaves the affinity as it was.
pub fn reset_affinity() {
    let all = [u64::MAX; 16];
    // SAFETY: pointer and length in bytes describe `all`.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(&all),
            all.as_ptr(),
        )
    };
}

/// set_mempolicy(2): `mode` with its flags, `nodes` as a bit mask of up to 1024 nodes.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    let bits = nodes.len() * 64 + 1;
    // SAFETY: pointer and bit count describe `nodes`.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), bits) };
    if ret == 0 {
        return Ok(());
    }
    Err(Error::last("set_mempolicy", format_args!("mode {mode:#x}")))
}
