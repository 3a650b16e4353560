//! Scheduler, I/O priority, personality and memory policy as the kernel's numbers.

use crate::{Error, Result};
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType,
    Scheduler,
};
use rrun_sys::sched::SchedAttr;

/// For sched_setattr(2) (linux/sched.h).
pub fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in scheduler.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = scheduler.priority().unwrap_or(0);
    let priority = u32::try_from(priority).map_err(|_| {
        Error::config(
            "process.scheduler.priority",
            format!("{priority} is negative"),
        )
    })?;
    check_policy(scheduler, policy)?;
    Ok(SchedAttr {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    })
}

/// The kernel ignores, or takes for something else, what does not belong to the policy.
fn check_policy(scheduler: &Scheduler, policy: u32) -> Result<()> {
    let wrong =
        |name: &str, why: String| Err(Error::config(format!("process.scheduler.{name}"), why));
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, 0 | 3) && !(-20..=19).contains(&nice) {
        return wrong("nice", format!("{nice} is not between -20 and 19"));
    }
    if scheduler.priority().unwrap_or(0) != 0 && !matches!(policy, 1 | 2) {
        let why = "is for SCHED_FIFO and SCHED_RR alone";
        return wrong("priority", why.to_owned());
    }
    let times = [
        scheduler.runtime(),
        scheduler.deadline(),
        scheduler.period(),
    ];
    if times.iter().any(|t| t.unwrap_or(0) != 0) && policy != 6 {
        let why = "and deadline and period are for SCHED_DEADLINE alone";
        return wrong("runtime", why.to_owned());
    }
    Ok(())
}

/// For ioprio_set(2): class and level.
pub fn io_priority(priority: &LinuxIOPriority) -> Result<(i32, i32)> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match priority.priority() {
        level @ 0..=7 => Ok((class, level as i32)),
        level => {
            let why = format!("{level} is not between 0 and 7");
            Err(Error::config("process.ioPriority.priority", why))
        }
    }
}

/// For personality(2).
pub fn personality(personality: &LinuxPersonality) -> Result<u64> {
    if personality.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(Error::config(
            "linux.personality.flags",
            "are not defined by the specification",
        ));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// For set_mempolicy(2): mode with flags (linux/mempolicy.h), and the node mask.
pub fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<(i32, Vec<u64>)> {
    let mut mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    for flag in policy.flags().iter().flatten() {
        mode |= match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        };
    }
    let mut nodes = Vec::new();
    let list = number_list(policy.nodes().as_deref().unwrap_or_default()).map_err(|why| {
        Error::config(
            "linux.memoryPolicy.nodes",
            format!("invalid memory policy node: {why}"),
        )
    })?;
    if matches!(
        policy.mode(),
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal
    ) && !list.is_empty()
    {
        let why = format!("mode requires 0 nodes but got {}", list.len());
        return Err(Error::config("linux.memoryPolicy.nodes", why));
    }
    for node in list {
        let (word, bit) = (node / 64, node % 64);
        if nodes.len() <= word {
            nodes.resize(word + 1, 0u64);
        }
        nodes[word] |= 1 << bit;
    }
    Ok((mode, nodes))
}

/// "0-3,7" as numbers, each below 1024.
pub fn number_list(text: &str) -> std::result::Result<Vec<usize>, String> {
    let number = |s: &str| {
        s.trim()
            .parse::<usize>()
            .ok()
            .filter(|n| *n < 1024)
            .ok_or_else(|| {
                format!("{text:?} is not a list of numbers below 1024 such as \"0-3,7\"")
            })
    };
    let mut list = Vec::new();
    for part in text.split(',').filter(|p| !p.trim().is_empty()) {
        match part.split_once('-') {
            None => list.push(number(part)?),
            Some((first, last)) => list.extend(number(first)?..=number(last)?),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::number_list;

    #[test]
    fn lists() {
        assert_eq!(number_list("0-2, 7"), Ok(vec![0, 1, 2, 7]));
        assert!(number_list("0-99999999").is_err());
        assert!(number_list("x").is_err());
    }
}
