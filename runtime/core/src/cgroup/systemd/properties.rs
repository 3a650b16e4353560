//! The files of limits as properties of a systemd unit (systemd.resource-control(5)).

use super::dbus::Value;
use crate::cgroup::write::{Rule, Write};
use crate::warning;

/// CPUQuotaPerSecUSec is kept as a whole percentage, rounded up.
const PERCENT: u64 = 10_000;

/// The properties for `writes`; of a file that is written twice (`unified` after
/// the rest) the last counts, as it does in the kernel.
pub fn of(writes: &[Write]) -> Vec<(&'static str, Value)> {
    let mut list = legacy_quota(writes);
    for write in writes {
        for (name, value) in one(&write.file, write.value.trim()) {
            list.retain(|(known, _)| *known != name);
            list.push((name, value));
        }
    }
    list
}

/// v1 has quota and period in two files.
fn legacy_quota(writes: &[Write]) -> Vec<(&'static str, Value)> {
    let value = |file: &str| {
        let write = writes.iter().rfind(|w| w.file == file);
        write.and_then(|w| w.value.parse::<i64>().ok())
    };
    let (limit, period) = (value("cpu.cfs_quota_us"), value("cpu.cfs_period_us"));
    if limit.is_none() && period.is_none() {
        return Vec::new();
    }
    let limit = limit.filter(|q| *q > 0);
    let limit = limit.map_or("max".to_owned(), |q| q.to_string());
    let mut list = quota(&format!("{limit} {}", period.unwrap_or(100_000)));
    if period.is_none() {
        list.retain(|(name, _)| *name != "CPUQuotaPeriodUSec");
    }
    list
}

/// Changes the quotas in `writes` to those that systemd will have: what it sets again at a reload is
/// then what was written. The files of `linux.resources.unified` stay as they were asked for.
pub fn round_quotas(writes: &mut [Write]) {
    let period = writes.iter().find(|w| w.file == "cpu.cfs_period_us");
    let period = period.map_or(Some(100_000), |w| w.value.parse().ok());
    for write in writes.iter_mut().filter(|w| w.rule != Rule::Unified) {
        let new = match (&*write.file, write.value.split_once(' ')) {
            ("cpu.max", Some((quota, period))) => {
                rounded(quota, period.parse().ok()).map(|quota| format!("{quota} {period}"))
            }
            ("cpu.cfs_quota_us", None) => rounded(&write.value, period).map(|q| q.to_string()),
            _ => None,
        };
        if let Some(new) = new {
            write.value = new;
        }
    }
}

/// Whether the cgroup is to be idle (`cpu.idle`), which has no weight.
pub fn idle(writes: &[Write]) -> bool {
    let last = writes.iter().rfind(|w| w.file == "cpu.idle");
    last.is_some_and(|w| w.value.trim() == "1")
}

/// Takes the weight from `writes` where the cgroup is to be idle: to systemd both are one property.
pub fn drop_weight_of_idle(writes: &mut Vec<Write>) {
    if idle(writes) && writes.iter().any(|w| w.file == "cpu.weight") {
        warning!("unable to apply both cpu.weight and cpu.idle to systemd, ignoring cpu.weight");
        writes.retain(|w| w.file != "cpu.weight");
    }
}

/// A quota of whole percents; `None` for one that is none.
fn rounded(quota: &str, period: Option<u64>) -> Option<u64> {
    let period = period.filter(|p| *p > 0)?;
    let per_second = quota.parse::<u64>().ok()?.checked_mul(1_000_000)? / period;
    if per_second.is_multiple_of(PERCENT) {
        return None;
    }
    let whole = per_second.next_multiple_of(PERCENT);
    Some(whole.checked_mul(period)? / 1_000_000)
}

fn one(file: &str, value: &str) -> Vec<(&'static str, Value)> {
    let number = || match value {
        "max" | "-1" => Some(u64::MAX),
        text => text.parse().ok(),
    };
    let single = |name, value: Option<Value>| value.map(|v| (name, v)).into_iter().collect();
    match file {
        "memory.max" => single("MemoryMax", number().map(Value::U64)),
        "memory.high" => single("MemoryHigh", number().map(Value::U64)),
        "memory.low" => single("MemoryLow", number().map(Value::U64)),
        "memory.min" => single("MemoryMin", number().map(Value::U64)),
        "memory.swap.max" => single("MemorySwapMax", number().map(Value::U64)),
        "pids.max" => single("TasksMax", number().map(|n| Value::U64(n.max(1)))),
        "cpu.weight" => single("CPUWeight", number().map(Value::U64)),
        "cpu.max" => quota(value),
        "memory.limit_in_bytes" => single("MemoryLimit", number().map(Value::U64)),
        "cpu.shares" => single("CPUShares", number().map(Value::U64)),
        "blkio.weight" => single("BlockIOWeight", number().map(Value::U64)),
        "cpuset.cpus" => single("AllowedCPUs", bits(value).map(Value::Bytes)),
        "cpuset.mems" => single("AllowedMemoryNodes", bits(value).map(Value::Bytes)),
        // systemd knows nothing of the rest; the file is written.
        _ => Vec::new(),
    }
}

/// `QUOTA PERIOD`, microseconds.
fn quota(value: &str) -> Vec<(&'static str, Value)> {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let Ok(period) = period.parse::<u64>() else {
        return Vec::new();
    };
    let per_second = match quota.parse::<u64>() {
        Ok(quota) if period > 0 => {
            (quota.saturating_mul(1_000_000) / period).next_multiple_of(PERCENT)
        }
        _ => u64::MAX,
    };
    vec![
        ("CPUQuotaPeriodUSec", Value::U64(period)),
        ("CPUQuotaPerSecUSec", Value::U64(per_second)),
    ]
}

/// `0-2,5` as bits, lowest first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // As many as the kernel can have (NR_CPUS).
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        for bit in first..=last.min(8191) {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_of_a_file_counts() {
        let writes = [
            Write::new("memory.max", 100),
            Write::new("io.max", "8:0 rbps=1"),
            Write::new("memory.max", "max"),
            Write::new("pids.max", 0),
        ];
        let expected = [
            ("MemoryMax", Value::U64(u64::MAX)),
            ("TasksMax", Value::U64(1)),
        ];
        assert_eq!(of(&writes), expected);
    }

    #[test]
    fn an_idle_cgroup_has_no_weight() {
        let asked = |idle: &str| {
            let mut writes = vec![
                Write::new("cpu.idle", idle),
                Write::new("cpu.weight", 28_u64),
            ];
            drop_weight_of_idle(&mut writes);
            let files: Vec<_> = writes.into_iter().map(|w| w.file.to_string()).collect();
            files
        };
        assert_eq!(asked("1"), ["cpu.idle"]);
        assert_eq!(asked("0"), ["cpu.idle", "cpu.weight"]);
    }

    #[test]
    fn quota_is_rounded_up_to_a_percent() {
        let per_second = |text| quota(text)[1].1.clone();
        assert_eq!(per_second("50000 100000"), Value::U64(500_000));
        assert_eq!(per_second("50001 100000"), Value::U64(510_000));
        assert_eq!(per_second("max 100000"), Value::U64(u64::MAX));
    }

    #[test]
    fn files_get_the_quota_that_systemd_has() {
        let round = |writes: &[(&'static str, &str)]| {
            let mut writes: Vec<_> = writes.iter().map(|(f, v)| Write::new(*f, v)).collect();
            round_quotas(&mut writes);
            let values = writes.into_iter().map(|w| w.value);
            values.collect::<Vec<_>>().join(",")
        };
        assert_eq!(round(&[("cpu.max", "500000 900000")]), "504000 900000");
        assert_eq!(round(&[("cpu.max", "50000 100000")]), "50000 100000");
        assert_eq!(round(&[("cpu.max", "max 100000")]), "max 100000");
        assert_eq!(round(&[("cpu.max", "1 100000")]), "1000 100000");
        let legacy = [
            ("cpu.cfs_period_us", "900000"),
            ("cpu.cfs_quota_us", "500000"),
        ];
        assert_eq!(round(&legacy), "900000,504000");
        assert_eq!(round(&[("cpu.cfs_quota_us", "33333")]), "34000");
        assert_eq!(round(&[("cpu.cfs_quota_us", "-1")]), "-1");
        assert_eq!(
            round(&[("cpu.cfs_period_us", "0"), ("cpu.cfs_quota_us", "5")]),
            "0,5"
        );
        let mut asked = [Write::new("cpu.max", "500000 900000").rule(Rule::Unified)];
        round_quotas(&mut asked);
        assert_eq!(asked[0].value, "500000 900000");
    }

    #[test]
    fn files_of_v1() {
        let writes = [
            Write::new("memory.limit_in_bytes", -1),
            Write::new("cpu.cfs_period_us", 50_000),
            Write::new("cpu.cfs_quota_us", 25_000),
        ];
        let expected = [
            ("CPUQuotaPeriodUSec", Value::U64(50_000)),
            ("CPUQuotaPerSecUSec", Value::U64(500_000)),
            ("MemoryLimit", Value::U64(u64::MAX)),
        ];
        assert_eq!(of(&writes), expected);
        let quota = of(&[Write::new("cpu.cfs_quota_us", -1)]);
        assert_eq!(quota, [("CPUQuotaPerSecUSec", Value::U64(u64::MAX))]);
    }

    #[test]
    fn processors_as_bits() {
        assert_eq!(bits("0-2,9"), Some(vec![0b111, 0b10]));
        assert_eq!(bits("x"), None);
    }
}
