//! Resource limits of a process.

use crate::{Context, Error, Result};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rrun_process::rlimits::NAMES;

/// EPERM.
const EPERM: i32 = 1;

/// One limit for prlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

fn number(typ: PosixRlimitType) -> u32 {
    use PosixRlimitType as T;
    match typ {
        T::RlimitCpu => 0,
        T::RlimitFsize => 1,
        T::RlimitData => 2,
        T::RlimitStack => 3,
        T::RlimitCore => 4,
        T::RlimitRss => 5,
        T::RlimitNproc => 6,
        T::RlimitNofile => 7,
        T::RlimitMemlock => 8,
        T::RlimitAs => 9,
        T::RlimitLocks => 10,
        T::RlimitSigpending => 11,
        T::RlimitMsgqueue => 12,
        T::RlimitNice => 13,
        T::RlimitRtprio => 14,
        T::RlimitRttime => 15,
    }
}

impl Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub fn name(&self) -> &'static str {
        NAMES
            .get(self.resource as usize)
            .copied()
            .unwrap_or("RLIMIT_?")
    }
}

/// Checks `process.rlimits`: no duplicates (runtime-spec config.md#posix-process), soft at
/// most hard.
pub fn from_spec(rlimits: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::with_capacity(rlimits.len());
    for (index, rlimit) in rlimits.iter().enumerate() {
        let limit = Rlimit {
            resource: number(rlimit.typ()),
            soft: rlimit.soft(),
            hard: rlimit.hard(),
        };
        let field = || format!("process.rlimits[{index}]");
        if limits.iter().any(|l| l.resource == limit.resource) {
            let why = format!("{} is given twice; keep one", limit.name());
            return Err(Error::config(field(), why));
        }
        if limit.soft > limit.hard {
            let why = format!(
                "{}: the soft limit {} is above the hard limit {}",
                limit.name(),
                limit.soft,
                limit.hard
            );
            return Err(Error::config(field(), why));
        }
        limits.push(limit);
    }
    Ok(limits)
}

/// Sets them on process `pid` (0: the caller).
pub fn apply(pid: i32, rlimits: &[Rlimit]) -> Result<()> {
    for limit in rlimits {
        rrun_sys::rlimit::set(pid, limit.resource, limit.soft, limit.hard)
            .with_context(|| {
                format!(
                    "error setting rlimit type {} ({})",
                    limit.resource,
                    limit.name()
                )
            })
            .map_err(|error| explain(limit, error))?;
    }
    Ok(())
}

/// A hard limit may be raised only with CAP_SYS_RESOURCE.
fn explain(limit: &Rlimit, error: Error) -> Error {
    let raised = rrun_sys::rlimit::get(limit.resource)
        .ok()
        .filter(|(_, hard)| limit.hard > *hard);
    match raised {
        Some((_, hard)) if error.errno() == Some(EPERM) => Error::Step {
            what: format!(
                "{} {} is above this process's hard limit {hard}, and CAP_SYS_RESOURCE is missing to raise it",
                limit.name(),
                limit.hard
            )
            .into(),
            source: Box::new(error),
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Rlimit>> {
        from_spec(&serde_json::from_str::<Vec<PosixRlimit>>(json).unwrap())
    }

    #[test]
    fn numbers_are_the_kernels() {
        let limits = parse(r#"[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}]"#).unwrap();
        assert_eq!(
            limits,
            [Rlimit {
                resource: 7,
                soft: 1,
                hard: 2
            }]
        );
        assert_eq!(limits[0].name(), "RLIMIT_NOFILE");
    }

    #[test]
    fn duplicates_and_soft_above_hard_are_refused() {
        let twice =
            r#"[{"type":"RLIMIT_AS","soft":1,"hard":2},{"type":"RLIMIT_AS","soft":1,"hard":2}]"#;
        assert!(
            parse(twice)
                .unwrap_err()
                .chain()
                .contains("process.rlimits[1]")
        );
        assert!(parse(r#"[{"type":"RLIMIT_AS","soft":3,"hard":2}]"#).is_err());
    }
}
