//! The network of pods: CNI plugins where a CNI configuration is present, otherwise a bridge of
//! our own; port mappings by nftables.
//!
//! The caller gives a pinned network namespace and a request, which it also keeps in its durable
//! record: teardown gets the same request again, perhaps after a kill -9 in the middle of setup.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rrun_cri_api::v1;
use tokio::task::spawn_blocking;

use bridge::Bridge;
use cni::Cni;
use subnet::Subnet;

use crate::error::Error;

mod bridge;
mod cni;
mod conntrack;
mod forward;
mod guard;
mod leases;
mod netlink;
mod netns;
mod plan;
mod rules;
mod subnet;
#[cfg(test)]
mod tests;

/// Where the network keeps its things and how it is set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Directory of our own for leases and results, durable.
    pub root: PathBuf,
    /// Directory of our own that a reboot empties.
    pub state: PathBuf,
    /// CNI configuration files; the first by name counts, as with the peers.
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are looked for.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Name of the built-in bridge.
    pub bridge: String,
    /// IPv4 subnet of the built-in bridge, until UpdateRuntimeConfig tells another: `10.88.0.0/16`.
    pub subnet: String,
}

/// What a pod asks of the network. Everything that setup and teardown need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodNetRequest {
    /// Id of the sandbox.
    pub pod_id: String,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// The bind mount that pins the network namespace.
    pub netns: PathBuf,
    /// host_port 0 is none.
    pub port_mappings: Vec<v1::PortMapping>,
    /// For CNI's `dns` capability.
    pub dns: v1::DnsConfig,
    /// For CNI's capabilities (bandwidth).
    pub annotations: BTreeMap<String, String>,
    /// For CNI's cgroupPath capability.
    pub cgroup_parent: String,
}

/// The addresses of a pod, the main one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIps(pub Vec<IpAddr>);

/// Whether pods can get a network, for the condition NetworkReady.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// True where a setup would be tried.
    pub ready: bool,
    /// CamelCase, empty where ready.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl NetworkStatus {
    fn ready() -> Self {
        Self {
            ready: true,
            reason: String::new(),
            message: String::new(),
        }
    }
}

/// The network of this machine's pods. One per daemon, shared by reference.
pub struct Network {
    cni: Cni,
    bridge: Bridge,
}

/// Checks what is to become the built-in bridge's subnet.
pub fn check_subnet(text: &str) -> Result<()> {
    text.parse::<subnet::Subnet>().map(drop)
}

impl Network {
    /// Reads what is there. Changes nothing on the machine.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        let bridge = Bridge::open(&config.bridge, &config.subnet, &config.state)?;
        Ok(Self {
            cni: Cni::new(&config),
            bridge,
        })
    }

    /// Gives the namespace its loopback and interfaces, and the pod its port mappings. After an
    /// error, or a kill in the middle, teardown with the same request leaves nothing behind.
    pub async fn setup(&self, request: &PodNetRequest) -> Result<PodIps> {
        let Some(network) = self.cni.network()? else {
            return self.bridge.setup(request).await.map(PodIps);
        };
        let namespace = request.netns.clone();
        spawn_blocking(move || netns::set_loopback_up(&namespace))
            .await
            .context("the network's thread ended early")??;
        let added = self.cni.add(&network, request).await;
        if added.is_err()
            && let Err(error) = self.cni.del(&request.pod_id).await
        {
            // Teardown will try again: what was attached is on record.
            tracing::warn!(pod = request.pod_id, "undo a failed CNI ADD: {error:#}");
        }
        added.map(PodIps)
    }

    /// Undoes setup. Succeeds where there is nothing to undo, or the namespace is gone.
    pub async fn teardown(&self, request: &PodNetRequest) -> Result<()> {
        // Whichever of the two made it: a CNI configuration may have come or gone meanwhile.
        if self.cni.knows(&request.pod_id)? {
            return self.cni.del(&request.pod_id).await;
        }
        self.bridge.teardown(&request.pod_id).await
    }

    /// For the condition NetworkReady.
    pub async fn status(&self) -> NetworkStatus {
        let (reason, message) = match self.cni.network() {
            Ok(Some(network)) => match self.cni.status(&network).await {
                Ok(()) => return NetworkStatus::ready(),
                Err(error) => ("NetworkPluginNotReady", format!("{error:#}")),
            },
            Err(error) => ("NetworkConfigInvalid", format!("{error:#}")),
            Ok(None) if rules::available() => return NetworkStatus::ready(),
            Ok(None) => {
                let package = "Debian's package nftables";
                (
                    "NftNotFound",
                    format!("the program nft is not installed ({package})"),
                )
            }
        };
        NetworkStatus {
            ready: false,
            reason: reason.to_owned(),
            message,
        }
    }

    /// At start-up: `live` are the pods whose records say that they have a network. Leases, rules
    /// and interfaces of others are removed; what the live ones lack (rules lost in a flush) is
    /// made again.
    pub async fn recover(&self, live: &[PodNetRequest]) -> Result<()> {
        let by_cni = self.cni.recover(live).await;
        let by_bridge = self.bridge.recover(live).await;
        bridge::combine(
            [by_cni, by_bridge]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )
    }

    /// What UpdateRuntimeConfig tells; counts for pods that come later. Of several networks,
    /// separated by commas, the IPv4 one counts.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let mut four: Option<Subnet> = None;
        for part in cidr.split(',').map(str::trim) {
            let wrong = |why: &str| Error::invalid(format!("pod_cidr {part:?}: {why}"));
            if !part.contains(':') {
                let subnet = part.parse().map_err(|e| wrong(&format!("{e:#}")))?;
                four.get_or_insert(subnet);
            } else if !is_subnet_of_six(part) {
                return Err(wrong("is no IPv6 subnet").into());
            }
        }
        if let Some(subnet) = four {
            self.bridge.set_subnet(subnet).await;
        }
        Ok(())
    }
}

fn is_subnet_of_six(text: &str) -> bool {
    let parts = text.split_once('/');
    parts.is_some_and(|(address, length)| {
        address.parse::<Ipv6Addr>().is_ok() && length.parse::<u8>().is_ok_and(|l| l <= 128)
    })
}
