//! Limits of a whole pod, on the cgroup that its containers' are in.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1::{LinuxContainerResources, LinuxPodSandboxConfig};

use crate::cgroups::Cgroups;
use crate::error::{self, Error};
use crate::store::SandboxRecord;

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    controller: &'static str,
    file: String,
    value: String,
}

/// What the containers may use together, and what the pod costs besides: pod overhead is added to
/// whatever is limited. Zero leaves a value as it is, -1 takes the limit away.
pub fn plan(config: &LinuxPodSandboxConfig, unified: bool) -> error::Result<Vec<Write>> {
    let resources = config.resources.clone().unwrap_or_default();
    let overhead = config.overhead.clone().unwrap_or_default();
    let memory = sum(
        resources.memory_limit_in_bytes,
        overhead.memory_limit_in_bytes,
    );
    let shares = sum(resources.cpu_shares, overhead.cpu_shares);
    let period = first(resources.cpu_period, overhead.cpu_period).unwrap_or(100_000);
    let quota = sum(resources.cpu_quota, scaled_quota(&overhead, period));
    let mut all = Vec::new();
    let mut write = |controller, file: &str, value: String| {
        let file = file.to_owned();
        all.push(Write {
            controller,
            file,
            value,
        });
    };
    if unified {
        let or_max = |value: i64| match value {
            ..0 => "max".to_owned(),
            value => value.to_string(),
        };
        quota.inspect(|q| write("cpu", "cpu.max", format!("{} {period}", or_max(*q))));
        shares.inspect(|s| write("cpu", "cpu.weight", weight(*s).to_string()));
        memory.inspect(|m| write("memory", "memory.max", or_max(*m)));
        for (file, value) in &resources.unified {
            if file.contains('/') || !file.contains('.') {
                let why = format!("resources.unified: {file:?} is no file of a cgroup");
                return Err(Error::invalid(why));
            }
            write("", file, value.clone());
        }
    } else {
        quota.inspect(|q| {
            write("cpu", "cpu.cfs_period_us", period.to_string());
            write("cpu", "cpu.cfs_quota_us", q.to_string());
        });
        shares.inspect(|s| write("cpu", "cpu.shares", s.to_string()));
        memory.inspect(|m| write("memory", "memory.limit_in_bytes", m.to_string()));
    }
    Ok(all)
}

fn first(one: i64, other: i64) -> Option<i64> {
    [one, other].into_iter().find(|v| *v > 0)
}

fn sum(limit: i64, overhead: i64) -> Option<i64> {
    match limit {
        0 => None,
        ..0 => Some(-1),
        limit => Some(limit.saturating_add(overhead.max(0))),
    }
}

fn scaled_quota(overhead: &LinuxContainerResources, period: i64) -> i64 {
    match overhead.cpu_period {
        ..=0 => overhead.cpu_quota,
        own => overhead.cpu_quota.saturating_mul(period) / own,
    }
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), by runc's rule.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Writes the limits. A pod whose cgroup is not there yet gets them with its first container.
pub fn apply(cgroups: &Cgroups, record: &SandboxRecord) -> Result<()> {
    let Some(config) = record.config().linux.as_ref() else {
        return Ok(());
    };
    for Write {
        controller,
        file,
        value,
    } in plan(config, cgroups.unified)?
    {
        let dir = cgroups.dir(controller, &record.cgroup_parent);
        let dir = dir.with_context(|| format!("no cgroup hierarchy has {controller}"))?;
        if !dir.exists() {
            continue;
        }
        put(&dir.join(&file), &value)?;
    }
    Ok(())
}

fn put(path: &Path, value: &str) -> Result<()> {
    if !path.exists() {
        bail!(
            "{} is not there: is the controller enabled?",
            path.display()
        );
    }
    fs::write(path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LinuxPodSandboxConfig {
        LinuxPodSandboxConfig {
            resources: Some(LinuxContainerResources {
                cpu_quota: 50_000,
                cpu_period: 100_000,
                cpu_shares: 512,
                memory_limit_in_bytes: 1 << 20,
                ..Default::default()
            }),
            overhead: Some(LinuxContainerResources {
                cpu_quota: 5_000,
                cpu_period: 50_000,
                memory_limit_in_bytes: 4096,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn lines(config: &LinuxPodSandboxConfig, unified: bool) -> Vec<String> {
        let all = plan(config, unified).unwrap();
        all.iter()
            .map(|w| format!("{}={}", w.file, w.value))
            .collect()
    }

    #[test]
    fn overhead_is_added_to_what_is_limited() {
        assert_eq!(
            lines(&config(), true),
            [
                "cpu.max=60000 100000",
                "cpu.weight=20",
                "memory.max=1052672"
            ]
        );
        assert_eq!(
            lines(&config(), false),
            [
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=60000",
                "cpu.shares=512",
                "memory.limit_in_bytes=1052672"
            ]
        );
    }

    #[test]
    fn nothing_is_written_for_what_is_not_said() {
        assert!(lines(&LinuxPodSandboxConfig::default(), true).is_empty());
        let mut config = LinuxPodSandboxConfig::default();
        config
            .resources
            .get_or_insert_default()
            .memory_limit_in_bytes = -1;
        assert_eq!(lines(&config, true), ["memory.max=max"]);
    }

    #[test]
    fn unified_names_stay_in_the_cgroup() {
        let mut config = LinuxPodSandboxConfig::default();
        let unified = &mut config.resources.get_or_insert_default().unified;
        unified.insert("../x.y".into(), "1".into());
        assert!(plan(&config, true).is_err());
    }
}
