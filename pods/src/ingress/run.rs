//! Keeps the table as the objects ask for, takes the ports while there is something to serve, and
//! tells the Ingresses where they are served.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde_json::{Value, json};

use super::certs;
use super::server::{Server, bind};
use super::table::{CONTROLLER, Objects, Table, is_ours};
use crate::api::{Client, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::Selector;

/// After a failure everything is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The name of the class that is there from the start.
const CLASS: &str = "rrun";

/// A port of the node, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub Option<SocketAddr>);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self(Some((Ipv6Addr::UNSPECIFIED, port).into())));
        }
        let address = text.parse();
        address
            .map(|a| Self(Some(a)))
            .map_err(|_| format!("{text}: want a port such as 80, an address and a port, or none"))
    }
}

/// Where HTTP and HTTPS are served.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// HTTP.
    pub plain: Port,
    /// HTTPS.
    pub tls: Port,
}

/// See the module.
pub struct Ingresses {
    client: Client,
    events: Recorder,
    ports: Ports,
    table: Arc<RwLock<Arc<Table>>>,
    /// The threads that serve, one for each port that is taken.
    plain: Option<Server>,
    tls: Option<Server>,
    /// What events told last, by the Ingress's uid, so that they are told once.
    told: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Taken {
    /// By one port at least.
    served: bool,
    /// Of ports that could not be taken.
    faults: Vec<String>,
}

impl Ingresses {
    /// A controller that writes through `client`; `None` where both ports are off.
    pub fn new(client: &Client, events: &Recorder, ports: Ports) -> Option<Self> {
        let some = ports.plain.0.is_some() || ports.tls.0.is_some();
        some.then(|| Self {
            client: client.named("ingress-controller"),
            events: events.of("ingress-controller"),
            ports,
            table: Arc::default(),
            plain: None,
            tls: None,
            told: BTreeMap::new(),
        })
    }

    /// Works until the store is closed.
    pub async fn run(mut self) {
        if let Err(status) = self.class().await {
            tracing::warn!("IngressClass {CLASS}: {}", status.message);
        }
        let watched = [
            &kinds::INGRESS,
            &kinds::INGRESS_CLASS,
            &kinds::SERVICE,
            &kinds::ENDPOINT_SLICE,
            &kinds::SECRET,
            &kinds::NODE,
        ];
        let mut changes = watched.map(|res| self.client.changes(res, "", Selector::all()));
        let mut addresses = Vec::new();
        loop {
            let failed = match self.look(&mut addresses).await {
                Ok(whole) => !whole,
                Err(status) => {
                    tracing::warn!("ingresses are not up to date: {}", status.message);
                    true
                }
            };
            let [ingress, class, service, slice, secret, node] = &mut changes;
            tokio::select! {
                event = ingress.next() => if event.is_none() { return },
                event = class.next() => if event.is_none() { return },
                event = service.next() => if event.is_none() { return },
                event = slice.next() => if event.is_none() { return },
                event = secret.next() => if event.is_none() { return },
                event = node.next() => if event.is_none() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            // Everything that is told already counts.
            for changes in &mut changes {
                while changes.backlog() > 0 {
                    changes.next().await;
                }
            }
        }
    }

    /// The class that Ingresses get which name none; what was made of it stays.
    async fn class(&self) -> Result<(), Status> {
        if self.client.find(&kinds::INGRESS_CLASS, "", CLASS).is_some() {
            return Ok(());
        }
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
        let class = json!({"metadata": {"name": CLASS, "annotations": annotations},
            "spec": {"controller": CONTROLLER}});
        self.client
            .create(&kinds::INGRESS_CLASS, "", class)
            .await
            .map(drop)
    }

    /// Looks once. False where a port could not be taken.
    async fn look(&mut self, addresses: &mut Vec<String>) -> Result<bool, Status> {
        let objects = self.objects()?;
        let serve = !objects.ingresses.is_empty();
        let table = Arc::new(Table::build(&objects));
        let faults = table.faults.clone();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        let taken = if serve {
            self.take()
        } else {
            (self.plain, self.tls) = (None, None);
            Taken::default()
        };
        if serve {
            *addresses = self.node_addresses();
        }
        for ingress in &objects.ingresses {
            self.tell(ingress, &faults, &taken);
            self.status(ingress, addresses, &taken).await?;
        }
        self.told.retain(|uid, _| {
            let mut all = objects.ingresses.iter();
            all.any(|i| i.metadata.uid.as_ref() == Some(uid))
        });
        Ok(taken.faults.is_empty())
    }

    fn objects(&self) -> Result<Objects, Status> {
        let all = Selector::all();
        let mut ingresses: Vec<Ingress> = self.client.list_as("", &all)?;
        if ingresses.is_empty() {
            return Ok(Objects::default());
        }
        let classes: Vec<IngressClass> = self.client.list_as("", &all)?;
        ingresses.retain(|i| is_ours(i, &classes) && i.metadata.deletion_timestamp.is_none());
        let mut secrets = BTreeMap::new();
        for ingress in &ingresses {
            let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
            let tls = ingress.spec.as_ref().and_then(|s| s.tls.as_ref());
            for name in tls
                .into_iter()
                .flatten()
                .filter_map(|t| t.secret_name.clone())
            {
                if let Ok(secret) = self.client.get_as::<Secret>(&namespace, &name) {
                    secrets.insert((namespace.clone(), name), secret);
                }
            }
        }
        Ok(Objects {
            ingresses,
            services: self.client.list_as("", &all)?,
            slices: self.client.list_as("", &all)?,
            secrets,
        })
    }

    /// Takes the ports that are not taken yet.
    fn take(&mut self) -> Taken {
        let mut faults = Vec::new();
        let mut fault = |name: &str, address: SocketAddr, flag: &str, error: anyhow::Error| {
            faults.push(format!(
                "{name} is not served: port {}: {error:#}; end what has the port, or choose another by {flag}",
                address.port()
            ));
        };
        if let Some(address) = self.ports.plain.0.filter(|_| self.plain.is_none()) {
            let table = self.table.clone();
            let started = || anyhow::Ok(Server::start(table, listen(address)?, None)?);
            match started() {
                Ok(server) => self.plain = Some(server),
                Err(error) => fault("HTTP", address, "--ingress-http", error),
            }
        }
        if let Some(address) = self.ports.tls.0.filter(|_| self.tls.is_none()) {
            let table = self.table.clone();
            let started = || {
                let config = certs::config(table.clone())?;
                anyhow::Ok(Server::start(table, listen(address)?, Some(config))?)
            };
            match started() {
                Ok(server) => self.tls = Some(server),
                Err(error) => fault("HTTPS", address, "--ingress-https", error),
            }
        }
        Taken {
            served: self.plain.is_some() || self.tls.is_some(),
            faults,
        }
    }

    fn node_addresses(&self) -> Vec<String> {
        let nodes = self.client.list(&kinds::NODE, "", &Selector::all()).items;
        let all = nodes.iter().flat_map(|node| {
            let all = node.at("/status/addresses").as_array().cloned();
            all.unwrap_or_default()
        });
        let mut all: Vec<String> = all
            .filter(|a| a["type"] == "InternalIP")
            .filter_map(|a| a["address"].as_str().map(str::to_owned))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Tells what is wrong, each thing once.
    fn tell(&mut self, ingress: &Ingress, faults: &[(String, String, String)], taken: &Taken) {
        let meta = &ingress.metadata;
        let same = |(ns, name, _): &&(String, String, String)| {
            meta.namespace.as_ref() == Some(ns) && meta.name.as_ref() == Some(name)
        };
        let mine = faults.iter().filter(same).map(|(_, _, why)| why.clone());
        let mut now: Vec<String> = mine.collect();
        let before = self
            .told
            .entry(meta.uid.clone().unwrap_or_default())
            .or_default();
        let about = about(ingress);
        for why in now.iter().filter(|why| !before.contains(why)) {
            self.events.warning(&about, "Rejected", why.clone());
        }
        for why in taken.faults.iter().filter(|why| !before.contains(why)) {
            self.events.warning(&about, "PortInUse", why.clone());
        }
        now.extend(taken.faults.iter().cloned());
        *before = now;
    }

    async fn status(
        &self,
        ingress: &Ingress,
        addresses: &[String],
        taken: &Taken,
    ) -> Result<(), Status> {
        let served: Vec<Value> = if taken.served {
            addresses.iter().map(|ip| json!({"ip": ip})).collect()
        } else {
            Vec::new()
        };
        let balancer = if served.is_empty() {
            json!({})
        } else {
            json!({"ingress": served})
        };
        let (ns, name) = (&ingress.metadata.namespace, &ingress.metadata.name);
        let (ns, name) = (
            ns.as_deref().unwrap_or_default(),
            name.as_deref().unwrap_or_default(),
        );
        let status = json!({"loadBalancer": balancer});
        let written = self
            .client
            .set_status(&kinds::INGRESS, ns, name, status)
            .await;
        match written {
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        }
    }
}

/// On a machine without IPv6, all addresses are all of IPv4.
fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    match bind(address) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            let taken = error.kind() == std::io::ErrorKind::AddrInUse;
            if taken {
                return Err(error);
            }
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn about(ingress: &Ingress) -> ObjectReference {
    let mut object = serde_json::to_value(ingress).unwrap_or_default();
    object["apiVersion"] = json!("networking.k8s.io/v1");
    object["kind"] = json!("Ingress");
    reference(&object)
}
