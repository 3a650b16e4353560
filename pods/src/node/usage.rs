//! What containers and the node use: counters read twice, and the difference.
//!
//! Nothing is measured unless somebody asks. The last reading is kept; who asks again measures since
//! then, who asks for the first time waits for a moment.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rrun_cri_api::v1 as cri;

use super::cri::{Cri, Result};
use super::names::{CONTAINER_NAME, POD_UID};
use crate::api::node::{ContainerUsage, Usage, Used};

/// A reading older than this tells nothing of now.
const OLD: Duration = Duration::from_secs(120);
/// The least between two readings.
const MOMENT: Duration = Duration::from_millis(500);

/// Counters at one instant.
#[derive(Clone)]
pub(super) struct Reading {
    at: Instant,
    /// By CRI id: pod's uid, name, CPU time so far in nanoseconds, memory in bytes.
    containers: HashMap<String, (String, String, u64, u64)>,
    /// CPU time of all so far in nanoseconds, memory in bytes.
    node: (u64, u64),
}

/// Measures, from the last reading that is young enough.
pub(super) async fn usage(cri: &Cri, last: &Mutex<Option<Reading>>) -> Result<Usage> {
    let lock = || {
        last.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let known = lock().clone().filter(|r| r.at.elapsed() < OLD);
    let before = match known {
        Some(reading) => reading,
        None => read(cri).await?,
    };
    if let Some(rest) = MOMENT.checked_sub(before.at.elapsed()) {
        tokio::time::sleep(rest).await;
    }
    let now = read(cri).await?;
    let told = between(&before, &now);
    *lock() = Some(now);
    Ok(told)
}

/// Nanoseconds of CPU time a second.
fn rate(before: u64, now: u64, time: Duration) -> u64 {
    let spent = u128::from(now.saturating_sub(before)) * 1_000_000_000;
    u64::try_from(spent / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn between(before: &Reading, now: &Reading) -> Usage {
    let window = now.at.saturating_duration_since(before.at);
    let of = |id: &String, (uid, name, cpu, memory): &(String, String, u64, u64)| {
        // One that is new since has spent all of it since.
        let spent = before.containers.get(id).map_or(0, |(_, _, cpu, _)| *cpu);
        ContainerUsage {
            uid: uid.clone(),
            name: name.clone(),
            used: Used {
                nano_cores: rate(spent, *cpu, window),
                memory: *memory,
            },
        }
    };
    let mut containers: Vec<_> = now.containers.iter().map(|(id, c)| of(id, c)).collect();
    containers.sort_by(|a, b| (&a.uid, &a.name).cmp(&(&b.uid, &b.name)));
    Usage {
        window,
        containers,
        node: Used {
            nano_cores: rate(before.node.0, now.node.0, window),
            memory: now.node.1,
        },
    }
}

async fn read(cri: &Cri) -> Result<Reading> {
    let request = cri::ListContainerStatsRequest::default();
    let answer = cri.runtime().list_container_stats(request).await?;
    let containers = answer
        .into_inner()
        .stats
        .into_iter()
        .filter_map(|stats| {
            let about = stats.attributes?;
            let cpu = stats.cpu?.usage_core_nano_seconds?.value;
            let memory = stats.memory?.working_set_bytes?.value;
            let uid = about.labels.get(POD_UID)?.clone();
            let name = about.labels.get(CONTAINER_NAME)?.clone();
            Some((about.id, (uid, name, cpu, memory)))
        })
        .collect();
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    Ok(Reading {
        at: Instant::now(),
        containers,
        node: (busy(&text("/proc/stat")), used(&text("/proc/meminfo"))),
    })
}

/// CPU time that was not idle, of all CPUs, in nanoseconds (proc_stat(5)).
fn busy(stat: &str) -> u64 {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "));
    let fields: Vec<u64> = line
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guests are in user already.
    let ticks: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|n| fields.get(*n))
        .sum();
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Memory that could not be given to others, in bytes.
fn used(meminfo: &str) -> u64 {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB"));
        kib.and_then(|k| k.trim().parse().ok()).unwrap_or(0)
    };
    field("MemTotal:").saturating_sub(field("MemAvailable:")) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_what_was_spent_between_two_readings() {
        let begun = Instant::now();
        let reading = |seconds, cpu: u64| Reading {
            at: begun + Duration::from_secs(seconds),
            containers: [("c".into(), ("u".into(), "n".into(), cpu, 4096))].into(),
            node: (cpu * 2, 8192),
        };
        let usage = between(&reading(0, 1_000_000_000), &reading(10, 3_000_000_000));
        assert_eq!(usage.containers[0].used.nano_cores, 200_000_000);
        assert_eq!(usage.node.nano_cores, 400_000_000);
        assert_eq!(
            (usage.containers[0].used.memory, usage.node.memory),
            (4096, 8192)
        );
    }

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(used("MemTotal:  100 kB\nMemAvailable:  40 kB\n"), 60 * 1024);
        let one_second = rustix::param::clock_ticks_per_second();
        let line = format!("cpu  {one_second} 0 0 999 999 0 0 0 5 5\n");
        assert_eq!(busy(&line), 1_000_000_000);
    }
}
