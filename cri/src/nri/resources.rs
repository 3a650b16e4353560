//! Resources as plugins have them, as config.json has them, and as CRI has them.

use rrun_cri_api::{nri, v1};
use serde_json::{Map, Value, json};

use super::owners::Owners;
use anyhow::{Result, bail};
use nri::Field;

/// One number of the resources: where it is in config.json, whose it is, and its value.
struct Number {
    section: &'static str,
    key: &'static str,
    field: Field,
    value: Option<Value>,
}

fn numbers(asked: &nri::LinuxResources) -> Vec<Number> {
    let memory = asked.memory.unwrap_or_default();
    let cpu = asked.cpu.clone().unwrap_or_default();
    let text = |value: &str| (!value.is_empty()).then(|| json!(value));
    macro_rules! numbers {
        ($($section:literal $key:literal $field:ident $value:expr;)*) => {
            vec![$(Number { section: $section, key: $key, field: Field::$field, value: $value }),*]
        };
    }
    numbers! {
        "memory" "limit" MemLimit memory.limit.map(|v| json!(v.value));
        "memory" "reservation" MemReservation memory.reservation.map(|v| json!(v.value));
        "memory" "swap" MemSwapLimit memory.swap.map(|v| json!(v.value));
        "memory" "kernel" MemKernelLimit memory.kernel.map(|v| json!(v.value));
        "memory" "kernelTCP" MemTcpLimit memory.kernel_tcp.map(|v| json!(v.value));
        "memory" "swappiness" MemSwappiness memory.swappiness.map(|v| json!(v.value));
        "memory" "disableOOMKiller" MemDisableOomKiller
            memory.disable_oom_killer.map(|v| json!(v.value));
        "memory" "useHierarchy" MemUseHierarchy memory.use_hierarchy.map(|v| json!(v.value));
        "cpu" "shares" CpuShares cpu.shares.map(|v| json!(v.value));
        "cpu" "quota" CpuQuota cpu.quota.map(|v| json!(v.value));
        "cpu" "period" CpuPeriod cpu.period.map(|v| json!(v.value));
        "cpu" "realtimeRuntime" CpuRealtimeRuntime cpu.realtime_runtime.map(|v| json!(v.value));
        "cpu" "realtimePeriod" CpuRealtimePeriod cpu.realtime_period.map(|v| json!(v.value));
        "cpu" "cpus" CpuSetCpUs text(&cpu.cpus);
        "cpu" "mems" CpuSetMems text(&cpu.mems);
        "pids" "limit" PidsLimit asked.pids.as_ref().map(|p| json!(p.limit));
    }
}

/// Puts what a plugin asks for into `linux.resources`.
pub fn apply(
    asked: &nri::LinuxResources,
    spec: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    for number in numbers(asked) {
        if let Some(value) = number.value {
            owners.claim(number.field, "", plugin)?;
            spec[number.section][number.key] = value;
        }
    }
    for page in &asked.hugepage_limits {
        owners.claim(Field::HugepageLimits, &page.page_size, plugin)?;
        let limits = crate::bundle::list(spec, "hugepageLimits");
        limits.retain(|l| l["pageSize"] != page.page_size.as_str());
        limits.push(json!({"pageSize": page.page_size, "limit": page.limit}));
    }
    for (key, value) in &asked.unified {
        owners.claim(Field::CgroupsUnified, key, plugin)?;
        spec["unified"][key] = json!(value);
    }
    for rule in &asked.devices {
        let mut json = json!({"allow": rule.allow, "access": rule.access});
        if !rule.r#type.is_empty() {
            json["type"] = json!(rule.r#type);
        }
        for (key, number) in [("major", &rule.major), ("minor", &rule.minor)] {
            if let Some(number) = number {
                json[key] = json!(number.value);
            }
        }
        crate::bundle::list(spec, "devices").push(json);
    }
    let classes = [&asked.blockio_class, &asked.rdt_class];
    if classes.into_iter().flatten().any(|c| !c.value.is_empty()) {
        bail!("NRI plugin {plugin} asks for a block IO or RDT class, and none is configured");
    }
    Ok(())
}

/// `linux.resources` of config.json as plugins have it.
pub fn from_spec(spec: &Value) -> nri::LinuxResources {
    let int = |v: &Value| v.as_i64().map(|value| nri::OptionalInt64 { value });
    let uint = |v: &Value| v.as_u64().map(|value| nri::OptionalUInt64 { value });
    let flag = |v: &Value| v.as_bool().map(|value| nri::OptionalBool { value });
    let (memory, cpu) = (&spec["memory"], &spec["cpu"]);
    let pages = spec["hugepageLimits"].as_array().into_iter().flatten();
    let rules = spec["devices"].as_array().into_iter().flatten();
    nri::LinuxResources {
        memory: Some(nri::LinuxMemory {
            limit: int(&memory["limit"]),
            reservation: int(&memory["reservation"]),
            swap: int(&memory["swap"]),
            kernel: int(&memory["kernel"]),
            kernel_tcp: int(&memory["kernelTCP"]),
            swappiness: uint(&memory["swappiness"]),
            disable_oom_killer: flag(&memory["disableOOMKiller"]),
            use_hierarchy: flag(&memory["useHierarchy"]),
        }),
        cpu: Some(nri::LinuxCpu {
            shares: uint(&cpu["shares"]),
            quota: int(&cpu["quota"]),
            period: uint(&cpu["period"]),
            realtime_runtime: int(&cpu["realtimeRuntime"]),
            realtime_period: uint(&cpu["realtimePeriod"]),
            cpus: super::convert::text(&cpu["cpus"]),
            mems: super::convert::text(&cpu["mems"]),
        }),
        hugepage_limits: pages
            .map(|page| nri::HugepageLimit {
                page_size: super::convert::text(&page["pageSize"]),
                limit: page["limit"].as_u64().unwrap_or_default(),
            })
            .collect(),
        unified: super::convert::map(&spec["unified"]),
        pids: spec["pids"]["limit"]
            .as_i64()
            .map(|limit| nri::LinuxPids { limit }),
        devices: rules
            .map(|rule| nri::LinuxDeviceCgroup {
                allow: rule["allow"].as_bool().unwrap_or_default(),
                r#type: super::convert::text(&rule["type"]),
                major: int(&rule["major"]),
                minor: int(&rule["minor"]),
                access: super::convert::text(&rule["access"]),
            })
            .collect(),
        ..Default::default()
    }
}

/// What CRI can say of `linux.resources`, for the container's status.
pub fn to_cri(spec: &Value, oom_score_adj: i64) -> v1::LinuxContainerResources {
    let (memory, cpu) = (&spec["memory"], &spec["cpu"]);
    let int = |v: &Value| v.as_i64().unwrap_or_default();
    let pages = spec["hugepageLimits"].as_array().into_iter().flatten();
    v1::LinuxContainerResources {
        cpu_period: int(&cpu["period"]),
        cpu_quota: int(&cpu["quota"]),
        cpu_shares: int(&cpu["shares"]),
        memory_limit_in_bytes: int(&memory["limit"]),
        memory_swap_limit_in_bytes: int(&memory["swap"]),
        oom_score_adj,
        cpuset_cpus: super::convert::text(&cpu["cpus"]),
        cpuset_mems: super::convert::text(&cpu["mems"]),
        hugepage_limits: pages
            .map(|page| v1::HugepageLimit {
                page_size: super::convert::text(&page["pageSize"]),
                limit: page["limit"].as_u64().unwrap_or_default(),
            })
            .collect(),
        unified: super::convert::map(&spec["unified"]).into_iter().collect(),
    }
}

/// An object with nothing in it, for [`apply`] on a container that already runs.
pub fn empty() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_come_back_as_they_went() {
        let asked = nri::LinuxResources {
            memory: Some(nri::LinuxMemory {
                limit: Some(nri::OptionalInt64 { value: 1 << 20 }),
                ..Default::default()
            }),
            cpu: Some(nri::LinuxCpu {
                shares: Some(nri::OptionalUInt64 { value: 512 }),
                cpus: "0-1".into(),
                ..Default::default()
            }),
            unified: [("memory.high".to_owned(), "7".to_owned())].into(),
            pids: Some(nri::LinuxPids { limit: 9 }),
            hugepage_limits: vec![nri::HugepageLimit {
                page_size: "2MB".into(),
                limit: 3,
            }],
            ..Default::default()
        };
        let mut spec = empty();
        apply(&asked, &mut spec, &mut Owners::default(), "00-a").unwrap();
        assert_eq!(from_spec(&spec), asked);
        let cri = to_cri(&spec, -5);
        assert_eq!((cri.memory_limit_in_bytes, cri.cpu_shares), (1 << 20, 512));
        assert_eq!((cri.cpuset_cpus.as_str(), cri.oom_score_adj), ("0-1", -5));
    }

    #[test]
    fn a_class_without_a_configuration_is_refused() {
        let asked = nri::LinuxResources {
            blockio_class: Some(nri::OptionalString {
                value: "gold".into(),
            }),
            ..Default::default()
        };
        assert!(apply(&asked, &mut empty(), &mut Owners::default(), "00-a").is_err());
    }
}
