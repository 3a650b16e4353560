//! What each pod on the built-in bridge was given, one file a pod.
//!
//! The files lie where a reboot removes them, as it removes the namespaces and interfaces that
//! they speak of. Each is written whole under another name and renamed, so that a kill leaves the
//! old file or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::subnet::{Prefix6, Subnet};

const VERSION: u32 = 1;
const SETTINGS: &str = "bridge.json";
const LEASES: &str = "leases";

/// Transport protocol of a port mapping, by the name that nft gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As nft writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The host's address; none for all.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
}

impl Port {
    /// Whether a packet could be meant for both.
    fn clashes(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        same_address && self.protocol == other.protocol && self.host_port == other.host_port
    }
}

/// What a pod has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    version: u32,
    /// Id of the sandbox.
    pub pod_id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port mappings.
    pub ports: Vec<Port>,
}

/// What the bridge was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    version: u32,
    /// Name of the bridge.
    pub bridge: String,
    /// The subnet that was chosen.
    pub subnet: Subnet,
    /// Where the kernel has IPv6.
    pub prefix6: Option<Prefix6>,
}

impl Settings {
    /// Of a new bridge.
    pub fn new(bridge: &str, subnet: Subnet, prefix6: Option<Prefix6>) -> Self {
        Self {
            version: VERSION,
            bridge: bridge.to_owned(),
            subnet,
            prefix6,
        }
    }
}

/// The leases of a bridge, in memory and on disk.
#[derive(Debug)]
pub struct Leases {
    directory: PathBuf,
    settings: Option<Settings>,
    leases: BTreeMap<String, Lease>,
    last: Option<Ipv4Addr>,
}

impl Leases {
    /// Reads the leases below `directory`. A file that cannot be read is set aside, and a warning
    /// names it.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut leases = BTreeMap::new();
        let below = directory.join(LEASES);
        for path in files(&below)? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            if let Some(lease) = load::<Lease>(&path, |lease| lease.version)? {
                leases.insert(lease.pod_id.clone(), lease);
            }
        }
        let settings = load::<Settings>(&directory.join(SETTINGS), |found| found.version)?;
        let last = leases.values().map(|lease| lease.address).max();
        Ok(Self {
            directory: directory.to_owned(),
            settings,
            leases,
            last,
        })
    }

    /// What the bridge was made with; none before the first pod.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Keeps what the bridge will be made with.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        save(&self.directory.join(SETTINGS), &settings)?;
        self.settings = Some(settings);
        Ok(())
    }

    /// Forgets what the bridge was made with, once it is gone.
    pub fn clear_settings(&mut self) -> Result<()> {
        remove(&self.directory.join(SETTINGS))?;
        self.settings = None;
        Ok(())
    }

    /// All leases by pod id.
    pub fn all(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// A pod's lease.
    pub fn get(&self, pod_id: &str) -> Option<&Lease> {
        self.leases.get(pod_id)
    }

    /// Gives a pod an address and its ports; the same again where it has them.
    pub fn take(&mut self, pod_id: &str, subnet: Subnet, ports: Vec<Port>) -> Result<Lease> {
        if let Some(lease) = self.leases.get(pod_id) {
            return Ok(lease.clone());
        }
        self.check_ports(&ports)?;
        let taken: BTreeSet<_> = self.all().map(|lease| lease.address).collect();
        let address = subnet.next_free(self.last, &taken).with_context(|| {
            format!(
                "no address of {subnet} is free: {} pods have one",
                taken.len()
            )
        })?;
        let lease = Lease {
            version: VERSION,
            pod_id: pod_id.to_owned(),
            address,
            ports,
        };
        save(&self.path(pod_id)?, &lease)?;
        self.last = Some(address);
        self.leases.insert(pod_id.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Gives back what a pod has; nothing where it has nothing.
    pub fn release(&mut self, pod_id: &str) -> Result<()> {
        remove(&self.path(pod_id)?)?;
        self.leases.remove(pod_id);
        Ok(())
    }

    fn check_ports(&self, ports: &[Port]) -> Result<()> {
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.name();
            if ports[..index].iter().any(|other| other.clashes(port)) {
                bail!("host port {}/{protocol} is asked for twice", port.host_port);
            }
            let holder = self
                .all()
                .find(|lease| lease.ports.iter().any(|p| p.clashes(port)));
            if let Some(holder) = holder {
                bail!(
                    "host port {}/{protocol} is taken by pod {}",
                    port.host_port,
                    holder.pod_id
                );
            }
        }
        Ok(())
    }

    fn path(&self, pod_id: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !pod_id.is_empty() && !pod_id.starts_with('.') && pod_id.chars().all(plain),
            "pod id {pod_id:?} cannot be a file name"
        );
        Ok(self.directory.join(LEASES).join(format!("{pod_id}.json")))
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    entries
        .map(|entry| {
            Ok(entry
                .with_context(|| format!("list {}", directory.display()))?
                .path())
        })
        .collect()
}

fn load<T: DeserializeOwned>(path: &Path, version: fn(&T) -> u32) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    match serde_json::from_slice::<T>(&text) {
        Ok(value) if version(&value) == VERSION => Ok(Some(value)),
        Ok(_) => set_aside(path, "it has another version"),
        Err(error) => set_aside(path, &error.to_string()),
    }
}

fn set_aside<T>(path: &Path, why: &str) -> Result<Option<T>> {
    let aside = path.with_extension("unreadable");
    tracing::warn!(path = %path.display(), why, "an unreadable network record is set aside");
    fs::rename(path, &aside).with_context(|| format!("set {} aside", path.display()))?;
    Ok(None)
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        "10.1.0.0/24".parse().unwrap()
    }

    fn port(host_ip: Option<&str>, host_port: u16) -> Port {
        Port {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn leases_are_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        leases
            .set_settings(Settings::new("rrun0", subnet(), None))
            .unwrap();
        let lease = leases.take("a", subnet(), vec![port(None, 8080)]).unwrap();
        leases.take("b", subnet(), Vec::new()).unwrap();
        leases.release("b").unwrap();
        leases.release("never-there").unwrap();
        let again = Leases::open(directory.path()).unwrap();
        assert_eq!(again.all().collect::<Vec<_>>(), [&lease]);
        assert_eq!(again.settings().unwrap().subnet, subnet());
    }

    #[test]
    fn a_lease_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        let lease = leases.take("a", subnet(), Vec::new()).unwrap();
        assert_eq!(leases.take("a", subnet(), Vec::new()).unwrap(), lease);
        assert_ne!(
            leases.take("b", subnet(), Vec::new()).unwrap().address,
            lease.address
        );
    }

    #[test]
    fn a_host_port_goes_to_one_pod() {
        let directory = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        leases
            .take("a", subnet(), vec![port(Some("127.0.0.1"), 80)])
            .unwrap();
        leases
            .take("b", subnet(), vec![port(Some("127.0.0.2"), 80)])
            .unwrap();
        let refused = leases
            .take("c", subnet(), vec![port(None, 80)])
            .unwrap_err();
        assert!(
            refused.to_string().contains("80/tcp is taken by pod a"),
            "{refused}"
        );
        assert!(leases.get("c").is_none());
        leases.take("c", subnet(), vec![port(None, 81)]).unwrap();
    }

    #[test]
    fn a_cut_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        Leases::open(directory.path())
            .unwrap()
            .take("a", subnet(), Vec::new())
            .unwrap();
        let path = directory.path().join("leases/a.json");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(Leases::open(directory.path()).unwrap().all().count(), 0);
            assert!(path.with_extension("unreadable").exists());
        }
    }

    #[test]
    fn a_pod_id_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        for id in ["../a", ".", "", "a/b"] {
            assert!(leases.take(id, subnet(), Vec::new()).is_err(), "{id}");
        }
    }
}
