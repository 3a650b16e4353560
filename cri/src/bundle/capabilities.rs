//! Capability sets of a container.

use rrun_cri_api::v1::Capability;

use crate::error::{Error, Result};

/// What a container has where nothing is said, as with Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability by number (linux/capability.h).
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The sets of a container; inheritable is always empty (CVE-2022-24769).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Bounding, effective and permitted.
    pub bounding: Vec<String>,
    /// Ambient: kept over an execve by a process that is not root.
    pub ambient: Vec<String>,
}

/// The sets that a request asks for. `held` are those that this daemon has itself, and so can
/// give away; a privileged container gets all of them.
pub fn sets(asked: &Capability, privileged: bool, held: u64) -> Result<Sets> {
    if privileged {
        return Ok(Sets {
            bounding: held_names(held),
            ambient: vec![],
        });
    }
    let add = names("add_capabilities", &asked.add_capabilities)?;
    let drop = names("drop_capabilities", &asked.drop_capabilities)?;
    let ambient = names("add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    let mut set: Vec<String> = if add.iter().any(|c| c == "ALL") {
        held_names(held)
    } else if drop.iter().any(|c| c == "ALL") {
        vec![]
    } else {
        DEFAULT.iter().map(|c| (*c).to_owned()).collect()
    };
    set.retain(|c| !drop.contains(c));
    for cap in add.iter().chain(&ambient).filter(|c| *c != "ALL") {
        if !set.contains(cap) && !drop.contains(cap) {
            set.push(cap.clone());
        }
    }
    let mut ambient = if ambient.iter().any(|c| c == "ALL") {
        set.clone()
    } else {
        ambient
    };
    ambient.retain(|c| set.contains(c));
    Ok(Sets {
        bounding: set,
        ambient,
    })
}

fn held_names(held: u64) -> Vec<String> {
    let held = |(number, name): (usize, &&str)| (held >> number & 1 == 1).then(|| (*name).into());
    ALL.iter().enumerate().filter_map(held).collect()
}

/// Normalised names: upper case, with CAP_.
fn names(field: &str, asked: &[String]) -> Result<Vec<String>> {
    asked
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            let full = match upper.strip_prefix("CAP_") {
                Some(_) => upper,
                None => format!("CAP_{upper}"),
            };
            if ALL.contains(&full.as_str()) {
                Ok(full)
            } else {
                Err(Error::invalid(format!(
                    "linux.security_context.capabilities.{field}: {name:?} is no capability"
                )))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let asked = Capability {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            ..Default::default()
        };
        sets(&asked, false, u64::MAX).unwrap().bounding
    }

    #[test]
    fn add_and_drop_change_the_default() {
        assert_eq!(ask(&[], &[]).len(), 14);
        assert!(ask(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!ask(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(ask(&["SYS_TIME"], &["ALL"]), ["CAP_SYS_TIME"]);
        assert_eq!(ask(&["ALL"], &["CHOWN"]).len(), 40);
    }

    #[test]
    fn ambient_is_added_to_the_other_sets() {
        let asked = Capability {
            add_ambient_capabilities: vec!["NET_ADMIN".into()],
            ..Default::default()
        };
        let sets = sets(&asked, false, u64::MAX).unwrap();
        assert_eq!(sets.ambient, ["CAP_NET_ADMIN"]);
        assert!(sets.bounding.contains(&"CAP_NET_ADMIN".to_owned()));
    }

    #[test]
    fn privileged_gets_what_the_daemon_has() {
        let sets = sets(&Capability::default(), true, 0b101).unwrap();
        assert_eq!(sets.bounding, ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let asked = Capability {
            add_capabilities: vec!["FLY".into()],
            ..Default::default()
        };
        assert!(sets(&asked, false, u64::MAX).is_err());
    }
}
