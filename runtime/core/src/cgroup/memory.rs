//! memory: limit, swap, reservation, swappiness, OOM killer.

use super::write::{Rule, Write, get};
use crate::{Error, Result, warning};
use oci_spec::runtime::LinuxMemory;
use std::path::Path;

/// Kernel memory limits are gone from runc (1.0) and from the kernel (5.16, 6.1).
fn warn_kernel(memory: &LinuxMemory) {
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        warning!("Kernel memory settings are ignored and will be removed");
    }
}

/// Writes of v1. A value of 0 is "not set", -1 "unlimited".
pub fn legacy(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    warn_kernel(memory);
    let limit = memory.limit().unwrap_or(0);
    let swap = memory.swap().unwrap_or(0);
    // The limit may not exceed memory+swap: when both rise, the kernel refuses the first write
    // (EINVAL) and takes it after the second.
    if limit != 0 {
        writes.push(Write::new("memory.limit_in_bytes", limit).rule(Rule::Later));
    }
    if swap != 0 {
        writes.push(Write::new("memory.memsw.limit_in_bytes", swap));
    } else if limit == -1 {
        writes.push(Write::new("memory.memsw.limit_in_bytes", -1).rule(Rule::IfThere));
    }
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        writes.push(Write::new("memory.soft_limit_in_bytes", reservation));
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::new("memory.oom_control", 1));
    }
    match memory.swappiness() {
        None | Some(u64::MAX) => {}
        Some(value @ 0..=100) => writes.push(Write::new("memory.swappiness", value)),
        Some(value) => {
            return Err(Error::config(
                "linux.resources.memory.swappiness",
                format!("invalid memory swappiness value: {value} (valid range is 0-100)"),
            ));
        }
    }
    Ok(())
}

/// Writes of v2. v1's memory+swap becomes swap alone.
pub fn unified(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    warn_kernel(memory);
    let limit = memory.limit().unwrap_or(0);
    let combined = memory.swap().unwrap_or(0);
    let swap = swap_only(combined, limit)
        .map_err(|why| Error::config("linux.resources.memory.swap", why))?;
    if let Some(value) = swap {
        let rule = if value == "max" || value == "0" {
            Rule::IfThere
        } else {
            Rule::Must
        };
        writes.push(Write::new("memory.swap.max", value).rule(rule));
    }
    if let Some(value) = number(limit) {
        writes.push(Write::new("memory.max", value));
    }
    if let Some(value) = number(memory.reservation().unwrap_or(0)) {
        writes.push(Write::new("memory.low", value));
    }
    Ok(())
}

/// A v2 limit: 0 is not set, -1 is `max`.
fn number(value: i64) -> Option<String> {
    match value {
        0 => None,
        -1 => Some("max".into()),
        n => Some(n.to_string()),
    }
}

/// `memory.swap.max` from memory+swap and memory.
fn swap_only(combined: i64, limit: i64) -> std::result::Result<Option<String>, String> {
    match (combined, limit) {
        (0, -1) | (-1, _) => Ok(Some("max".into())),
        (0, _) => Ok(None),
        (n, -1) => Ok(number(n)),
        (_, 0) => Err("unable to set swap limit without memory limit".into()),
        (_, limit) if limit < 0 => Err(format!("invalid memory value: {limit}")),
        (n, limit) if n < limit => Err("memory+swap limit should be >= memory limit".into()),
        (n, limit) => Ok(Some((n - limit).to_string())),
    }
}

/// `checkBeforeUpdate`: refuses limits at or below what is in use, instead of
/// letting the kernel's OOM killer find room. Usage that cannot be read is no reason.
pub fn check(dir: &Path, memory: &LinuxMemory) -> Result<()> {
    let Some(usage) = read_number(dir, "memory.current") else {
        return Ok(());
    };
    for (what, value) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        if let Some(limit) = value.filter(|v| *v > 0 && *v as u64 <= usage) {
            return Err(Error::State(
                format!("rejecting {what} limit {limit} <= usage {usage}").into(),
            ));
        }
    }
    Ok(())
}

fn read_number(dir: &Path, file: &str) -> Option<u64> {
    get(dir, file).ok()?.trim_end().parse().ok()
}

/// v1 answers EBUSY to a limit below what is in use: say how much that is.
pub fn explain(dir: &Path, write: &Write, error: &std::io::Error) -> Option<Error> {
    if write.file != "memory.limit_in_bytes" || error.kind() != std::io::ErrorKind::ResourceBusy {
        return None;
    }
    let usage = read_number(dir, "memory.usage_in_bytes")?;
    let peak = read_number(dir, "memory.max_usage_in_bytes")?;
    let text = format!(
        "unable to set memory limit to {} (current usage: {usage}, peak usage: {peak})",
        write.value
    );
    Some(Error::State(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxMemoryBuilder;

    fn pairs(writes: &[Write]) -> Vec<(&str, &str)> {
        writes.iter().map(|w| (&*w.file, &*w.value)).collect()
    }

    #[test]
    fn swap_of_v2_is_what_is_above_memory() {
        assert_eq!(swap_only(0, 100), Ok(None));
        assert_eq!(swap_only(100, 100), Ok(Some("0".into())));
        assert_eq!(swap_only(300, 100), Ok(Some("200".into())));
        assert_eq!(swap_only(-1, 100), Ok(Some("max".into())));
        assert_eq!(swap_only(0, -1), Ok(Some("max".into())));
        assert_eq!(swap_only(7, -1), Ok(Some("7".into())));
        assert!(swap_only(50, 100).is_err());
        assert!(swap_only(50, 0).is_err());
    }

    #[test]
    fn legacy_limit_then_swap() {
        let memory = LinuxMemoryBuilder::default()
            .limit(64)
            .swap(128)
            .swappiness(0u64)
            .build()
            .unwrap();
        let mut writes = Vec::new();
        legacy(&memory, &mut writes).unwrap();
        assert_eq!(
            pairs(&writes),
            [
                ("memory.limit_in_bytes", "64"),
                ("memory.memsw.limit_in_bytes", "128"),
                ("memory.swappiness", "0")
            ]
        );
    }

    #[test]
    fn swappiness_out_of_range_is_refused() {
        let memory = LinuxMemoryBuilder::default()
            .swappiness(101u64)
            .build()
            .unwrap();
        assert!(legacy(&memory, &mut Vec::new()).is_err());
    }
}
