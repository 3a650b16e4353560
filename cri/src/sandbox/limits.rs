//! Limits of a whole pod, on the cgroup that its containers' are in.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1::{LinuxContainerResources, LinuxPodSandboxConfig};

use crate::cgroups::Cgroups;
use crate::error::{self, Error};
use crate::store::{SandboxPhase, SandboxRecord};

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    controller: &'static str,
    file: String,
    value: String,
}

impl Write {
    fn new(controller: &'static str, file: &str, value: String) -> Self {
        Self {
            controller,
            file: file.to_owned(),
            value,
        }
    }
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
        all.push(Write::new(controller, file, value));
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

/// What to do where the machine has no controller for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// An error: the limit was asked for by itself.
    Fails,
    /// The pod runs without.
    IsLeftOut,
}

/// Writes the limits. A pod whose cgroup is not there yet gets them with its first container.
pub fn apply(cgroups: &Cgroups, record: &SandboxRecord, lacking: Lacking) -> Result<()> {
    let Some(config) = record.config().linux.as_ref() else {
        return Ok(());
    };
    for write in plan(config, cgroups.unified)? {
        put(cgroups, &record.cgroup_parent, &write, lacking)?;
    }
    Ok(())
}

/// Weights of the cgroups between the machine's and a pod's, as far as they came into being with pods:
/// each has what the pods below it ask for together, so that requests count between pods in different
/// ones. Who asks for the least there is asks for nothing. Version 1 has 2 to 262144 shares.
pub fn weigh(cgroups: &Cgroups, record: &SandboxRecord, pods: &[Arc<SandboxRecord>]) -> Result<()> {
    for (cgroup, shares) in weights(record, pods) {
        let write = if cgroups.unified {
            Write::new("cpu", "cpu.weight", weight(shares).to_string())
        } else {
            Write::new("cpu", "cpu.shares", shares.to_string())
        };
        put(cgroups, &cgroup, &write, Lacking::IsLeftOut)?;
    }
    Ok(())
}

const LEAST_SHARES: i64 = 2;

fn weights(record: &SandboxRecord, pods: &[Arc<SandboxRecord>]) -> Vec<(String, i64)> {
    let own = Path::new(&record.cgroup_parent);
    let between = record.cgroups_made.iter().filter(|cgroup| {
        let cgroup = Path::new(cgroup);
        // The uppermost is among the machine's own.
        own != cgroup && own.starts_with(cgroup) && cgroup.components().count() > 2
    });
    between
        .map(|cgroup| {
            let below = pods.iter().filter(|pod| {
                pod.limits_set
                    && pod.phase() == SandboxPhase::Ready
                    && Path::new(&pod.cgroup_parent).starts_with(cgroup)
            });
            let asked = below.map(|pod| {
                let linux = pod.config().linux.as_ref();
                let resources = linux.and_then(|l| l.resources.as_ref());
                resources.map_or(0, |r| r.cpu_shares)
            });
            let sum: i64 = asked.filter(|shares| *shares > LEAST_SHARES).sum();
            (cgroup.clone(), sum.clamp(LEAST_SHARES, 262_144))
        })
        .collect()
}

fn put(cgroups: &Cgroups, cgroup: &str, write: &Write, lacking: Lacking) -> Result<()> {
    let Write {
        controller,
        file,
        value,
    } = write;
    let dir = cgroups.dir(controller, cgroup);
    let Some(dir) = dir else {
        match lacking {
            Lacking::Fails => bail!("no cgroup hierarchy has {controller}"),
            Lacking::IsLeftOut => return Ok(()),
        }
    };
    if !dir.exists() {
        return Ok(());
    }
    let path = dir.join(file);
    match fs::OpenOptions::new().write(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => match lacking {
            Lacking::Fails => bail!(
                "{} is not there: is the controller enabled?",
                path.display()
            ),
            Lacking::IsLeftOut => Ok(()),
        },
        opened => opened
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .with_context(|| format!("write {value:?} to {}", path.display())),
    }
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

    fn pod(parent: &str, shares: i64) -> Arc<SandboxRecord> {
        let mut record = SandboxRecord {
            cgroup_parent: parent.to_owned(),
            limits_set: true,
            cgroups_made: ["/k/b/p1", "/k/b", "/k"].map(str::to_owned).to_vec(),
            ..SandboxRecord::default()
        };
        record.set_phase(SandboxPhase::Ready);
        let config = record.config.get_or_insert_default();
        let linux = config.linux.get_or_insert_default();
        linux.resources.get_or_insert_default().cpu_shares = shares;
        Arc::new(record)
    }

    #[test]
    fn what_pods_have_in_common_has_their_weight_together() {
        let all = [
            pod("/k/b/p1", 102),
            pod("/k/b/p2", 409),
            pod("/k/b/p3", 2),
            pod("/k/p4", 1024),
        ];
        assert_eq!(weights(&all[0], &all), [("/k/b".to_owned(), 511)]);
        assert_eq!(weights(&all[3], &all), []);
        // All have gone, or ask for nothing.
        assert_eq!(weights(&all[0], &all[2..]), [("/k/b".to_owned(), 2)]);
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
