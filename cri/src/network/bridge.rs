//! The built-in network: a bridge, a pair of interfaces for each pod, a table of rules; made with
//! the first pod, gone with the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;

use super::PodNetRequest;
use super::conntrack::{self, Stale};
use super::leases::{Lease, Leases, Port, Protocol, Settings};
use super::netlink::Netlink;
use super::plan::{self, BridgePlan, PodPlan, veth_name};
use super::subnet::{self, Prefix6, Subnet};
use super::{forward, guard, rules};

/// The built-in network of one daemon.
pub struct Bridge {
    /// The name that is tried first.
    name: String,
    /// What is written on the bridge.
    owner: String,
    /// Who may send.
    senders: Arc<guard::Sets>,
    state: Mutex<State>,
}

struct State {
    leases: Leases,
    wanted: Subnet,
    /// Whether this process has made the bridge and the table.
    made: bool,
    /// Whether the kernel knows tables of bridges, as far as is known.
    guards: bool,
}

impl Bridge {
    /// Reads the leases below `directory`.
    pub fn open(name: &str, wanted: &str, directory: &Path) -> Result<Self> {
        check_name(name)?;
        let state = State {
            leases: Leases::open(directory)?,
            wanted: wanted.parse()?,
            made: false,
            guards: true,
        };
        Ok(Self {
            name: name.to_owned(),
            owner: format!("rrun-cri {}", directory.display()),
            senders: Arc::default(),
            state: Mutex::new(state),
        })
    }

    /// Counts from when the bridge is made the next time.
    pub async fn set_subnet(&self, subnet: Subnet) {
        let mut state = self.state.lock().await;
        state.wanted = subnet;
        if let Some(settings) = state.leases.settings().filter(|s| s.subnet != subnet) {
            tracing::warn!(%subnet, kept = %settings.subnet, "pods keep the subnet until the last one is gone");
        }
    }

    /// Gives a pod its interfaces and port mappings, and tells its addresses.
    pub async fn setup(&self, request: &PodNetRequest) -> Result<Vec<IpAddr>> {
        let ports = ports(&request.port_mappings)?;
        let mut state = self.state.lock().await;
        let settings = self.settings(&mut state).await?;
        let lease = state.leases.take(&request.pod_id, settings.subnet, ports)?;
        if !state.made {
            self.make_bridge(&settings).await?;
        }
        let plug = self.plug(&lease, settings.clone(), request.netns.clone());
        if state.made && lease.ports.is_empty() {
            let guarded = state.guards;
            // The lease keeps the bridge; other pods need not wait for this one's interfaces.
            drop(state);
            let (admitted, plugged) = tokio::join!(self.admit(&lease, &settings), plug);
            if guarded && !admitted? {
                tracing::warn!(
                    bridge = settings.bridge,
                    "the rules were gone and are made again"
                );
                write_rules(&mut *self.state.lock().await, &settings).await?;
            }
            return plugged;
        }
        // nft takes longer than all the interfaces do.
        let (written, plugged) = tokio::join!(write_rules(&mut state, &settings), plug);
        written?;
        state.made = true;
        forget(taken(&lease, &settings)).await;
        plugged
    }

    /// Undoes setup.
    pub async fn teardown(&self, pod_id: &str) -> Result<()> {
        let mut errors = Vec::new();
        errors.extend(unplug(pod_id).await.err());
        let mut state = self.state.lock().await;
        let lease = state.leases.get(pod_id).cloned();
        let mut rules = lease.as_ref().is_some_and(|lease| !lease.ports.is_empty());
        let known = lease.zip(state.leases.settings().cloned());
        let stale = known.as_ref();
        let stale = stale.and_then(|(lease, settings)| gone(lease, settings));
        errors.extend(state.leases.release(pod_id).err());
        // Where the table is written or removed as a whole, that forgets the pod.
        let stays = !rules && state.guards && state.leases.all().next().is_some();
        if let Some((lease, settings)) = known.filter(|_| stays) {
            rules = !self.dismiss(lease, settings).await;
        }
        errors.extend(self.settle(&mut state, rules).await.err());
        // Only now: before, the rules would put the next packet on record again.
        forget(stale).await;
        combine(errors)
    }

    /// At start-up: removes what is not of `live`, and makes again what these lack.
    pub async fn recover(&self, live: &[PodNetRequest]) -> Result<()> {
        let live: BTreeMap<_, _> = live.iter().map(|pod| (pod.pod_id.as_str(), pod)).collect();
        let mut state = self.state.lock().await;
        let mut errors = Vec::new();
        let leases: Vec<_> = state.leases.all().cloned().collect();
        for lease in leases
            .iter()
            .filter(|lease| !live.contains_key(lease.pod_id.as_str()))
        {
            tracing::info!(pod = lease.pod_id, address = %lease.address, "released the address of a pod that is gone");
            errors.extend(unplug(&lease.pod_id).await.err());
            errors.extend(state.leases.release(&lease.pod_id).err());
        }
        errors.extend(self.settle(&mut state, true).await.err());
        if let Some(settings) = state.leases.settings().cloned() {
            state.made = true;
            errors.extend(
                self.remove_strangers(&state.leases, settings.bridge.clone())
                    .await
                    .err(),
            );
            for lease in state.leases.all() {
                let namespace = &live[lease.pod_id.as_str()].netns;
                errors.extend(self.replug(lease, &settings, namespace).await.err());
            }
        }
        combine(errors)
    }

    /// Brings the bridge and the rules in line with the leases.
    async fn settle(&self, state: &mut State, rules: bool) -> Result<()> {
        if state.leases.all().next().is_none() {
            return self.remove(state).await;
        }
        let settings = state.leases.settings().cloned();
        let settings = settings.context("there are leases, but the bridge's settings are lost")?;
        if !rules && state.made {
            return Ok(());
        }
        self.make_bridge(&settings).await?;
        write_rules(state, &settings).await
    }

    async fn remove(&self, state: &mut State) -> Result<()> {
        let Some(settings) = state.leases.settings().cloned() else {
            return Ok(());
        };
        let owner = self.owner.clone();
        let remove_link = move || {
            let netlink = Netlink::open()?;
            match netlink.link(&settings.bridge)? {
                Some(link) if link.alias.is_empty() || link.alias == owner => netlink
                    .delete_link(&settings.bridge)
                    .map(|_| Some(settings.bridge)),
                Some(_) => Ok(None),
                None => Ok(Some(settings.bridge)),
            }
        };
        // The table of somebody else's bridge is not ours either.
        if let Some(bridge) = blocking(remove_link).await? {
            let (table, guard) = (rules::remove(&bridge), guard::remove(&bridge));
            let chains = apply(state, &table, &guard, true).await?;
            forward::close(&bridge, &chains).await?;
        }
        let senders = self.senders.clone();
        let rest = move || {
            senders.rest();
            Ok(())
        };
        blocking(rest).await?;
        state.made = false;
        state.leases.clear_settings()
    }

    /// The bridge's settings, chosen now where there are none yet.
    async fn settings(&self, state: &mut MutexGuard<'_, State>) -> Result<Settings> {
        if let Some(settings) = state.leases.settings() {
            return Ok(settings.clone());
        }
        let (name, owner, wanted) = (self.name.clone(), self.owner.clone(), state.wanted);
        let settings = blocking(move || {
            let netlink = Netlink::open()?;
            let name = plan::choose_name(&name, &owner, &netlink.links()?)?;
            let own = netlink.link(&name)?.map(|link| link.index);
            let mut routes = netlink.routes()?;
            routes.retain(|route| own != Some(route.interface));
            let prefix6 = if plan::ipv6_is_on() {
                Some(random_prefix()?)
            } else {
                None
            };
            Ok(Settings::new(
                &name,
                subnet::choose(wanted, &routes)?,
                prefix6,
            ))
        })
        .await?;
        state.leases.set_settings(settings.clone())?;
        Ok(settings)
    }

    async fn make_bridge(&self, settings: &Settings) -> Result<()> {
        let plan = BridgePlan::new(settings, &self.owner);
        blocking(move || plan.execute(&Netlink::open()?).map(drop)).await
    }

    /// Lets a pod send under its addresses; false where the rules are gone.
    async fn admit(&self, lease: &Lease, settings: &Settings) -> Result<bool> {
        let (lease, settings) = (lease.clone(), settings.clone());
        let senders = self.senders.clone();
        blocking(move || senders.admit(&settings, &lease)).await
    }

    /// Lets a pod that is gone send no more; false where its addresses are still in the rules.
    async fn dismiss(&self, lease: Lease, settings: Settings) -> bool {
        let (senders, pod) = (self.senders.clone(), lease.pod_id.clone());
        let forgotten = blocking(move || senders.forget(&settings, &lease)).await;
        if let Err(error) = &forgotten {
            tracing::warn!(pod, "the rules are made again: {error:#}");
        }
        forgotten.is_ok()
    }

    async fn plug(
        &self,
        lease: &Lease,
        settings: Settings,
        namespace: PathBuf,
    ) -> Result<Vec<IpAddr>> {
        let (pod_id, address) = (lease.pod_id.clone(), lease.address);
        blocking(move || {
            let netlink = Netlink::open()?;
            let bridge = netlink.link(&settings.bridge)?;
            let bridge = bridge.with_context(|| format!("bridge {} is gone", settings.bridge))?;
            PodPlan::new(&pod_id, address, &settings, plan::mtu(&netlink)?).execute(
                &netlink,
                bridge.index,
                &namespace,
            )
        })
        .await
    }

    /// Makes the interfaces of a living pod again where they are gone.
    async fn replug(&self, lease: &Lease, settings: &Settings, namespace: &Path) -> Result<()> {
        let (veth, group) = (veth_name(&lease.pod_id), plan::port_group(&settings.bridge));
        let grouped = move || {
            let netlink = Netlink::open()?;
            let link = netlink.link(&veth)?;
            // A version before this one made it without.
            link.map(|link| netlink.set_group(link.index, group))
                .transpose()
        };
        let there = blocking(grouped).await?.is_some();
        if there || !namespace.exists() {
            return Ok(());
        }
        tracing::warn!(
            pod = lease.pod_id,
            "a pod's interface was gone and is made again"
        );
        self.plug(lease, settings.clone(), namespace.to_owned())
            .await
            .map(drop)
    }

    /// Removes ports of the bridge that no lease speaks of.
    async fn remove_strangers(&self, leases: &Leases, name: String) -> Result<()> {
        let known: Vec<_> = leases.all().map(|lease| veth_name(&lease.pod_id)).collect();
        blocking(move || {
            let netlink = Netlink::open()?;
            let Some(bridge) = netlink.link(&name)? else {
                return Ok(());
            };
            for link in netlink.links()? {
                if plan::is_pod_port(&link, bridge.index) && !known.contains(&link.name) {
                    netlink.delete_link(&link.name)?;
                }
            }
            Ok(())
        })
        .await
    }
}

async fn write_rules(state: &mut State, settings: &Settings) -> Result<()> {
    let text = rules::replace(settings, state.leases.all());
    let list = !state.made;
    let guard = guard::replace(settings, state.leases.all());
    let written = apply(state, &text, &guard, list).await;
    let chains = written
        .with_context(|| format!("write nftables table {}", rules::table(&settings.bridge)))?;
    // Pods reach each other and this machine without it: not a reason to have none.
    if let Err(error) = forward::open(&settings.bridge, &chains).await {
        tracing::warn!(bridge = settings.bridge, "other firewalls: {error:#}");
    }
    Ok(())
}

/// Carries a transaction out, with that of the bridge's own table where the kernel has such; gives
/// the list of chains where asked to.
async fn apply(state: &mut State, table: &str, guard: &str, list: bool) -> Result<String> {
    let carry_out = async |text: &str| {
        if list {
            rules::apply_and_list(text).await
        } else {
            rules::apply(text).await
        }
    };
    if !state.guards {
        return carry_out(table).await;
    }
    let both = carry_out(&format!("{table}{guard}")).await;
    let Err(error) = both else { return both };
    // An error of the table itself comes again.
    let alone = carry_out(table).await?;
    state.guards = false;
    tracing::warn!("raw frames of pods can reach their neighbours: {error:#}");
    Ok(alone)
}

/// The UDP ports of the host that a pod has got, where there are any.
fn taken(lease: &Lease, settings: &Settings) -> Option<Stale> {
    let udp = lease.ports.iter().filter(|p| p.protocol == Protocol::Udp);
    let ports: Vec<_> = udp.map(|p| (p.host_ip, p.host_port)).collect();
    (!ports.is_empty()).then(|| Stale::Taken(ports, addresses(lease, settings)))
}

fn gone(lease: &Lease, settings: &Settings) -> Option<Stale> {
    let udp = lease.ports.iter().any(|p| p.protocol == Protocol::Udp);
    udp.then(|| Stale::Gone(addresses(lease, settings)))
}

fn addresses(lease: &Lease, settings: &Settings) -> Vec<IpAddr> {
    let six = settings
        .prefix6
        .map(|prefix| prefix.with(lease.address).into());
    std::iter::once(lease.address.into()).chain(six).collect()
}

/// A connection that stays on record harms its own client at most, and not for long.
async fn forget(stale: Option<Stale>) {
    let Some(stale) = stale else { return };
    match blocking(move || conntrack::forget(&stale)).await {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "forgot tracked UDP connections"),
        Err(error) => tracing::warn!("tracked UDP connections: {error:#}"),
    }
}

async fn unplug(pod_id: &str) -> Result<()> {
    let veth = veth_name(pod_id);
    blocking(move || Netlink::open()?.delete_link(&veth).map(drop)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work)
        .await
        .context("the network's thread ended early")?
}

/// All errors in one line.
pub fn combine(errors: Vec<anyhow::Error>) -> Result<()> {
    let mut lines = errors.iter().map(|error| format!("{error:#}"));
    match lines.next() {
        None => Ok(()),
        Some(first) => bail!(lines.fold(first, |all, line| all + "; " + &line)),
    }
}

fn random_prefix() -> Result<Prefix6> {
    let mut bytes = [0; 5];
    let mut source = File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(Prefix6::new(bytes))
}

/// The name goes into nft's rules and file names of sysctls.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=15).contains(&name.len()) && !name.starts_with('-');
    if fits && name.chars().all(plain) {
        return Ok(());
    }
    bail!("bridge name {name:?}: expected 1 to 15 of a-z, 0-9 and -, as rrun0")
}

/// The mappings that ask for a port of the host.
fn ports(mappings: &[v1::PortMapping]) -> Result<Vec<Port>> {
    let wanted = mappings.iter().filter(|mapping| mapping.host_port != 0);
    wanted.map(port).collect()
}

fn port(mapping: &v1::PortMapping) -> Result<Port> {
    let protocol = match mapping.protocol() {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    };
    let number = |what: &str, port: i32| match u16::try_from(port) {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{what} port {port}: expected 1 to 65535"),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => {
            let address: IpAddr = text
                .parse()
                .with_context(|| format!("host IP {text:?} of a port mapping"))?;
            (!address.is_unspecified()).then_some(address)
        }
    };
    Ok(Port {
        protocol,
        host_ip,
        host_port: number("host", mapping.host_port)?,
        container_port: number("container", mapping.container_port)?,
    })
}
