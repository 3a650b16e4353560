//! Networks of pods by CNI plugins, as on a kubelet's machine.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::bridge::combine;
use super::{NetworkConfig, PodNetRequest};
use config::Network;
use records::{Record, Records};
use run::{Attachment, INTERFACE, Verb, run};

mod capabilities;
mod config;
mod records;
mod run;
#[cfg(test)]
mod tests;

/// The CNI plugins of this machine.
pub struct Cni {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    records: Records,
}

impl Cni {
    /// By the directories of the configuration. Nothing is read yet.
    pub fn new(config: &NetworkConfig) -> Self {
        Self {
            conf_dir: config.cni_conf_dir.clone(),
            bin_dirs: config.cni_bin_dirs.clone(),
            records: Records(config.root.join("cni")),
        }
    }

    /// The network that new pods get; none where there is no configuration.
    pub fn network(&self) -> Result<Option<Network>> {
        Network::load(&self.conf_dir)
    }

    /// Whether ADD would work, as far as the plugins can say.
    pub async fn status(&self, network: &Network) -> Result<()> {
        if !network.is_at_least("1.1.0") {
            return Ok(());
        }
        for plugin in &network.plugins {
            let input = plugin.input(network, &Map::new(), None);
            run(&plugin.program, &self.bin_dirs, Verb::Status, None, &input).await?;
        }
        Ok(())
    }

    /// Attaches a pod, and gives its addresses.
    pub async fn add(&self, network: &Network, request: &PodNetRequest) -> Result<Vec<IpAddr>> {
        let capabilities = capabilities::capabilities(request)?;
        let mut record = Record::new(
            &request.pod_id,
            &request.netns,
            network.to_value(),
            args(request)?,
            capabilities,
        );
        self.records.save(&record)?;
        let attachment = attachment(&record);
        let mut result = None;
        for plugin in &network.plugins {
            let input = plugin.input(network, &record.capabilities, result.as_ref());
            let attachment = Some(&attachment);
            let new = run(
                &plugin.program,
                &self.bin_dirs,
                Verb::Add,
                attachment,
                &input,
            )
            .await?;
            // A plugin that only changes something may print nothing.
            if !new.is_null() {
                result = Some(new);
            }
        }
        record.result = result;
        self.records.save(&record)?;
        addresses(record.result.as_ref())
            .with_context(|| format!("result of CNI network {}", network.name))
    }

    /// Whether a pod was attached here, or was about to be.
    pub fn knows(&self, pod_id: &str) -> Result<bool> {
        Ok(self.records.load(pod_id)?.is_some())
    }

    /// Detaches a pod with the configuration that it was attached with. All plugins are called,
    /// whatever the others say; the record stays until all have succeeded.
    pub async fn del(&self, pod_id: &str) -> Result<()> {
        let Some(record) = self.records.load(pod_id)? else {
            return Ok(());
        };
        let network = Network::parse(record.network.clone())
            .with_context(|| format!("stored CNI network of pod {pod_id}"))?;
        let attachment = attachment(&record);
        let previous = record
            .result
            .as_ref()
            .filter(|_| network.is_at_least("0.4.0"));
        let mut errors = Vec::new();
        for plugin in network.plugins.iter().rev() {
            let input = plugin.input(&network, &record.capabilities, previous);
            let attachment = Some(&attachment);
            let done = run(
                &plugin.program,
                &self.bin_dirs,
                Verb::Del,
                attachment,
                &input,
            )
            .await;
            errors.extend(done.err());
        }
        combine(errors)?;
        self.records.remove(pod_id)
    }

    /// Looks whether a living pod's attachment is as it was made.
    async fn check(&self, record: &Record) -> Result<()> {
        let network = Network::parse(record.network.clone())?;
        let Some(previous) = &record.result else {
            bail!("its ADD did not come to its end");
        };
        if network.disable_check || !network.is_at_least("0.4.0") {
            return Ok(());
        }
        let attachment = attachment(record);
        for plugin in &network.plugins {
            let input = plugin.input(&network, &record.capabilities, Some(previous));
            let attachment = Some(&attachment);
            run(
                &plugin.program,
                &self.bin_dirs,
                Verb::Check,
                attachment,
                &input,
            )
            .await?;
        }
        Ok(())
    }

    /// At start-up: detaches what is not of `live`, looks at the rest, and lets plugins collect
    /// what nobody knows of any more.
    pub async fn recover(&self, live: &[PodNetRequest]) -> Result<()> {
        let mut errors = Vec::new();
        let mut kept = Vec::new();
        for record in self.records.all()? {
            match live.iter().find(|pod| pod.pod_id == record.pod_id) {
                Some(pod) => {
                    if let Err(error) = self.check(&record).await {
                        tracing::warn!(pod = pod.pod_id, "CNI CHECK: {error:#}");
                    }
                    kept.push(json!({"containerID": record.pod_id, "ifname": INTERFACE}));
                }
                None => errors.extend(self.del(&record.pod_id).await.err()),
            }
        }
        // A configuration that cannot be read is told by the status.
        if let Ok(Some(network)) = self.network() {
            errors.extend(self.gc(&network, &kept).await.err());
        }
        combine(errors)
    }

    async fn gc(&self, network: &Network, kept: &[Value]) -> Result<()> {
        if network.disable_gc || !network.is_at_least("1.1.0") {
            return Ok(());
        }
        let mut errors = Vec::new();
        for plugin in &network.plugins {
            let mut input = plugin.input(network, &Map::new(), None);
            input["cni.dev/valid-attachments"] = json!(kept);
            let done = run(&plugin.program, &self.bin_dirs, Verb::Gc, None, &input).await;
            errors.extend(done.err());
        }
        combine(errors)
    }
}

fn attachment(record: &Record) -> Attachment {
    // After a reboot the namespace is gone, and DEL is told so by an empty path.
    let there = record.netns.exists();
    Attachment {
        container_id: record.pod_id.clone(),
        netns: if there {
            record.netns.clone()
        } else {
            PathBuf::new()
        },
        args: record.args.clone(),
    }
}

/// CNI_ARGS in the words that plugins for Kubernetes look for.
fn args(request: &PodNetRequest) -> Result<String> {
    let pairs = [
        ("K8S_POD_NAMESPACE", &request.namespace),
        ("K8S_POD_NAME", &request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.pod_id),
        ("K8S_POD_UID", &request.uid),
    ];
    let mut args = "IgnoreUnknown=1".to_owned();
    for (key, value) in pairs {
        if value.contains([';', '=']) {
            bail!("{value:?} cannot be told to CNI plugins: it has a ; or =");
        }
        args += &format!(";{key}={value}");
    }
    Ok(args)
}

/// The addresses of a result of any version.
fn addresses(result: Option<&Value>) -> Result<Vec<IpAddr>> {
    let result = result.context("no plugin gave one")?;
    let listed = result.get("ips").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().map(|ip| &ip["address"]);
    // Before 0.3.0.
    let named = ["ip4", "ip6"]
        .into_iter()
        .filter_map(|key| result.get(key))
        .map(|ip| &ip["ip"]);
    let addresses = listed.chain(named).map(|address| {
        let text = address.as_str().unwrap_or_default();
        let (address, _) = text.split_once('/').unwrap_or((text, ""));
        address.parse().with_context(|| format!("address {text:?}"))
    });
    let addresses: Vec<_> = addresses.collect::<Result<_>>()?;
    if addresses.is_empty() {
        bail!("it has no address");
    }
    Ok(addresses)
}
