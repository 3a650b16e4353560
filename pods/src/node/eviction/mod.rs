//! Eviction: what goes when the node runs out of memory or disk, before the kernel chooses.
//!
//! The plan is a pure function of what is left and of what pods use: pods that use more than they
//! asked for go first, of these the ones of the least priority, of these the ones that are furthest
//! above. Pods of the node itself (static ones, those of a system priority) stay.

mod look;
mod run;
mod storage;
mod words;

use std::str::FromStr;

use k8s_openapi::api::core::v1::Pod;

pub use run::{Evictions, Evictor, Parts};

/// Priorities from here on are the system's.
const SYSTEM: i32 = 2_000_000_000;

/// A part of what there is, or an amount of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Percent.
    Share(f64),
    /// Bytes, or a number of inodes.
    Of(u64),
}

impl Amount {
    /// Of a total.
    pub fn of(self, total: u64) -> u64 {
        match self {
            // Percentages of sizes below 2^52.
            #[allow(clippy::cast_precision_loss)]
            Self::Share(percent) => (total as f64 * percent / 100.0) as u64,
            Self::Of(amount) => amount,
        }
    }
}

/// When less than this is left, pods go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// `memory.available`.
    pub memory: Option<Amount>,
    /// `nodefs.available`.
    pub disk: Option<Amount>,
    /// `nodefs.inodesFree`.
    pub inodes: Option<Amount>,
    /// `imagefs.available`.
    pub images: Option<Amount>,
    /// `imagefs.inodesFree`.
    pub image_inodes: Option<Amount>,
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut out = Self {
            memory: None,
            disk: None,
            inodes: None,
            images: None,
            image_inodes: None,
        };
        for part in text.split(',').filter(|p| !p.is_empty() && *p != "none") {
            let form = || format!("{part}: want a signal and an amount, as memory.available<100Mi");
            let (signal, amount) = part.split_once('<').ok_or_else(form)?;
            let amount = parse_amount(amount).ok_or_else(form)?;
            match signal {
                "memory.available" => out.memory = Some(amount),
                "nodefs.available" => out.disk = Some(amount),
                "nodefs.inodesFree" => out.inodes = Some(amount),
                "imagefs.available" => out.images = Some(amount),
                "imagefs.inodesFree" => out.image_inodes = Some(amount),
                _ => {
                    return Err(format!(
                        "{signal}: want memory.available, or available or inodesFree of nodefs or imagefs"
                    ));
                }
            }
        }
        Ok(out)
    }
}

fn parse_amount(text: &str) -> Option<Amount> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok()?;
        return (0.0..=100.0)
            .contains(&percent)
            .then_some(Amount::Share(percent));
    }
    let nano = crate::quantity::parse_nano(text)?;
    Some(Amount::Of(u64::try_from(nano / 1_000_000_000).ok()?))
}

/// What is left of what there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Left {
    /// What is left.
    pub left: u64,
    /// Of this.
    pub total: u64,
}

/// What lies on a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// Pods' volumes and logs: it is the node's file system.
    pub volumes: bool,
    /// Writable layers of containers.
    pub layers: bool,
    /// Images.
    pub images: bool,
}

impl Holds {
    /// Of a machine with one file system.
    pub const ALL: Self = Self {
        volumes: true,
        layers: true,
        images: true,
    };
}

/// A file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filesystem {
    /// What lies there.
    pub holds: Holds,
    /// Bytes.
    pub bytes: Left,
    /// Inodes; of no total where it does not count them.
    pub inodes: Left,
}

/// What the machine says.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Bytes of memory.
    pub memory: Left,
    /// The file systems that pods take from, each once.
    pub disks: Vec<Filesystem>,
}

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Memory.
    Memory,
    /// Bytes of a file system.
    Disk(Holds),
    /// Inodes of one.
    Inodes(Holds),
}

impl Lack {
    /// What lies on the file system that runs out.
    pub fn disk(self) -> Option<Holds> {
        match self {
            Self::Memory => None,
            Self::Disk(holds) | Self::Inodes(holds) => Some(holds),
        }
    }
}

/// A threshold that is crossed: what is left, and the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    /// Of what.
    pub lack: Lack,
    /// Is left.
    pub left: u64,
    /// Should be.
    pub threshold: u64,
}

/// The thresholds that are crossed.
pub fn crossed(signals: &Signals, thresholds: &Thresholds) -> Vec<Crossed> {
    let check = |lack, left: Left, amount: Option<Amount>| {
        let threshold = amount?.of(left.total);
        let crossed = left.total > 0 && left.left < threshold;
        crossed.then_some(Crossed {
            lack,
            left: left.left,
            threshold,
        })
    };
    let memory = check(Lack::Memory, signals.memory, thresholds.memory);
    let disks = signals.disks.iter().flat_map(|disk| {
        let Filesystem {
            holds,
            bytes,
            inodes,
        } = *disk;
        // Layers that lie apart from both are the node's.
        let node = holds.volumes || !holds.images;
        let of_node = |amount: Option<Amount>| amount.filter(|_| node);
        let of_images = |amount: Option<Amount>| amount.filter(|_| holds.images);
        [
            check(Lack::Disk(holds), bytes, of_node(thresholds.disk)),
            check(Lack::Inodes(holds), inodes, of_node(thresholds.inodes)),
            check(Lack::Disk(holds), bytes, of_images(thresholds.images)),
            check(
                Lack::Inodes(holds),
                inodes,
                of_images(thresholds.image_inodes),
            ),
        ]
    });
    std::iter::once(memory).chain(disks).flatten().collect()
}

/// A pod that runs.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// `spec.priority`.
    pub priority: i32,
    /// Bytes that it uses of what lacks.
    pub used: u64,
    /// Bytes that it asked for.
    pub asked: u64,
}

/// Whether a pod stays whatever lacks: it is the node's own, or of a priority of the system's.
pub fn is_critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let is_static = annotations.is_some_and(|a| a.contains_key("kubernetes.io/config.source"));
    let priority = pod.spec.as_ref().and_then(|s| s.priority);
    is_static || priority.unwrap_or(0) >= SYSTEM
}

/// Who goes first; `None` where nobody may.
pub fn choose(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().max_by_key(|c| {
        (
            c.used > c.asked,
            std::cmp::Reverse(c.priority),
            c.used.saturating_sub(c.asked),
            c.used,
            std::cmp::Reverse(c.uid.clone()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(uid: &str, priority: i32, used: u64, asked: u64) -> Candidate {
        Candidate {
            uid: uid.to_owned(),
            priority,
            used,
            asked,
        }
    }

    fn order(mut all: Vec<Candidate>) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(next) = choose(&all).map(|c| c.uid.clone()) {
            all.retain(|c| c.uid != next);
            out.push(next);
        }
        out
    }

    #[test]
    fn who_uses_more_than_asked_goes_first_then_the_least_priority_then_the_largest_excess() {
        let all = vec![
            candidate("modest", 0, 50, 100),
            candidate("best-effort", 0, 60, 0),
            candidate("burst", 0, 160, 50),
            candidate("important", 1000, 500, 0),
        ];
        assert_eq!(order(all), ["burst", "best-effort", "important", "modest"]);
    }

    #[test]
    fn pods_of_the_node_and_of_the_system_stay() {
        let pod = |value| -> Pod { serde_json::from_value(value).unwrap() };
        let source = serde_json::json!({"annotations": {"kubernetes.io/config.source": "file"}});
        assert!(is_critical(&pod(serde_json::json!({"metadata": source}))));
        let of = |priority: i32| {
            pod(serde_json::json!({"spec": {"containers": [], "priority": priority}}))
        };
        assert!(is_critical(&of(SYSTEM)));
        assert!(!is_critical(&of(SYSTEM - 1)) && !is_critical(&Pod::default()));
    }

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let all: Thresholds = "memory.available<100Mi,nodefs.available<10%"
            .parse()
            .unwrap();
        assert_eq!(all.memory, Some(Amount::Of(100 << 20)));
        let left = |left, total| Left { left, total };
        let signals = Signals {
            memory: left(50 << 20, 1 << 30),
            disks: vec![Filesystem {
                holds: Holds::ALL,
                bytes: left(11, 100),
                inodes: left(0, 0),
            }],
        };
        let found = crossed(&signals, &all);
        assert_eq!(
            found,
            [Crossed {
                lack: Lack::Memory,
                left: 50 << 20,
                threshold: 100 << 20
            }]
        );
        let none: Thresholds = "none".parse().unwrap();
        assert!(crossed(&signals, &none).is_empty());
        for wrong in [
            "memory",
            "memory.available<x",
            "pid.available<1",
            "memory.available<101%",
        ] {
            assert!(wrong.parse::<Thresholds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn images_may_have_a_file_system_of_their_own() {
        let all = "nodefs.available<10%,imagefs.available<20%,imagefs.inodesFree<5";
        let all: Thresholds = all.parse().unwrap();
        let disk = |holds, left, inodes| Filesystem {
            holds,
            bytes: Left { left, total: 100 },
            inodes: Left {
                left: inodes,
                total: 50,
            },
        };
        let node = Holds {
            images: false,
            ..Holds::ALL
        };
        let images = Holds {
            images: true,
            ..Holds::default()
        };
        let lacks = |disks: &[Filesystem]| -> Vec<(Lack, u64)> {
            let signals = Signals {
                disks: disks.to_vec(),
                ..Signals::default()
            };
            let found = crossed(&signals, &all).into_iter();
            found.map(|c| (c.lack, c.threshold)).collect()
        };
        assert_eq!(lacks(&[disk(node, 15, 9), disk(images, 25, 9)]), []);
        assert_eq!(
            lacks(&[disk(node, 9, 1), disk(images, 15, 4)]),
            [
                (Lack::Disk(node), 10),
                (Lack::Disk(images), 20),
                (Lack::Inodes(images), 5)
            ]
        );
        assert_eq!(
            lacks(&[disk(Holds::ALL, 15, 9)]),
            [(Lack::Disk(Holds::ALL), 20)]
        );
    }
}
