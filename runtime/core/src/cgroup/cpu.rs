//! cpu: shares or weight, quota, burst, idle, real time.

use super::write::{Rule, Write};
use crate::{Error, Result};
use oci_spec::runtime::LinuxCpu;

/// cpu.shares that the kernel takes as they are; it silently clamps others.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// Default period, microseconds (kernel: admin-guide/cgroup-v2, cpu.max).
const PERIOD: u64 = 100_000;

/// Writes of v1. 0 is "not set".
pub fn legacy(cpu: &LinuxCpu, writes: &mut Vec<Write>) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        check_shares(shares)?;
        writes.push(Write::new("cpu.shares", shares));
    }
    let quota = cpu.quota().filter(|q| *q != 0);
    // Period and burst are held against the quota that is set at that moment: when the quota
    // changes as well, a refusal (EINVAL) is tried again after it.
    let (period_rule, burst_rule) = match quota {
        Some(_) => (Rule::Later, Rule::LaterIfThere),
        None => (Rule::Must, Rule::IfThere),
    };
    if let Some(period) = cpu.period().filter(|p| *p != 0) {
        writes.push(Write::new("cpu.cfs_period_us", period).rule(period_rule));
    }
    if let Some(burst) = cpu.burst() {
        writes.push(Write::new("cpu.cfs_burst_us", burst).rule(burst_rule));
    }
    if let Some(quota) = quota {
        writes.push(Write::new("cpu.cfs_quota_us", quota));
    }
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu.idle", idle));
    }
    real_time(cpu, writes);
    Ok(())
}

/// Real-time limits (v1 alone), needed before a real-time process may join.
pub fn real_time(cpu: &LinuxCpu, writes: &mut Vec<Write>) {
    let runtime = cpu.realtime_runtime().filter(|r| *r != 0);
    if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
        let rule = if runtime.is_some() {
            Rule::Later
        } else {
            Rule::Must
        };
        writes.push(Write::new("cpu.rt_period_us", period).rule(rule));
    }
    if let Some(runtime) = runtime {
        writes.push(Write::new("cpu.rt_runtime_us", runtime));
    }
}

/// Whether the write must come before a process joins.
pub fn is_real_time(write: &Write) -> bool {
    write.file.starts_with("cpu.rt_")
}

fn check_shares(shares: u64) -> Result<()> {
    let field = "linux.resources.cpu.shares";
    if shares > *SHARES.end() {
        return Err(Error::config(
            field,
            format!("the maximum allowed cpu-shares is {}", SHARES.end()),
        ));
    }
    if shares < *SHARES.start() {
        return Err(Error::config(
            field,
            format!("the minimum allowed cpu-shares is {}", SHARES.start()),
        ));
    }
    Ok(())
}

/// Writes of v2.
pub fn unified(cpu: &LinuxCpu, writes: &mut Vec<Write>) {
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        writes.push(Write::new("cpu.weight", weight_of_shares(shares)));
    }
    let quota = cpu.quota().filter(|q| *q != 0);
    let period = cpu.period().filter(|p| *p != 0);
    if let Some(burst) = cpu.burst() {
        let rule = if quota.is_some() {
            Rule::Later
        } else {
            Rule::Must
        };
        writes.push(Write::new("cpu.max.burst", burst).rule(rule));
    }
    if quota.is_some() || period.is_some() {
        let quota = quota
            .filter(|q| *q > 0)
            .map_or("max".into(), |q| q.to_string());
        writes.push(Write::new(
            "cpu.max",
            format!("{quota} {}", period.unwrap_or(PERIOD)),
        ));
    }
}

/// v2's weight (1 to 10000, default 100) for v1's shares (2 to 262144, default 1024).
///
/// The exponent is quadratic in log2(shares), so that both ends and the default
/// meet; runc 1.4 and crun 1.24 changed to it from the linear formula, in which
/// 1024 shares became weight 39.
#[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 there")]
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCpuBuilder;

    #[test]
    fn weights_meet_the_ends_and_the_default() {
        for (shares, weight) in [
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "shares {shares}");
        }
    }

    #[test]
    fn quota_without_period_takes_the_default() {
        let mut writes = Vec::new();
        unified(
            &LinuxCpuBuilder::default().quota(50_000i64).build().unwrap(),
            &mut writes,
        );
        assert_eq!(
            (&*writes[0].file, &*writes[0].value),
            ("cpu.max", "50000 100000")
        );
        writes.clear();
        unified(
            &LinuxCpuBuilder::default().quota(-1i64).build().unwrap(),
            &mut writes,
        );
        assert_eq!(writes[0].value, "max 100000");
    }

    #[test]
    fn shares_that_the_kernel_would_clamp_are_refused() {
        let cpu = LinuxCpuBuilder::default()
            .shares(262_145u64)
            .build()
            .unwrap();
        let error = legacy(&cpu, &mut Vec::new()).unwrap_err().chain();
        assert!(
            error.contains("maximum allowed cpu-shares is 262144"),
            "{error}"
        );
    }
}
