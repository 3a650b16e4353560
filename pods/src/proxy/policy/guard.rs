//! Keeps the table of policies as the objects ask for, and pods from starting before it does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::watch;

use super::{plan_of, script};
use crate::api::{Client, Status, kinds};
use crate::proxy::run::{nft, remove};
use crate::store::Selector;

/// After a failure the table is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// So many pods' addresses are kept before those of pods that are gone are forgotten.
const EARLY: usize = 4096;

/// Addresses by the uid of the pod.
type Early = BTreeMap<String, Vec<IpAddr>>;

#[derive(Default)]
struct Asked {
    /// Told by the node agent before the pod's status has them.
    early: Early,
    /// Counts what was told.
    number: u64,
}

/// Where the node agent waits until a new pod's policies hold; cheap to clone.
#[derive(Clone)]
pub struct Gate {
    asked: Arc<Mutex<Asked>>,
    wake: watch::Sender<u64>,
    /// Up to where the table knows what was told.
    loaded: watch::Receiver<u64>,
}

impl Gate {
    /// Returns when what the policies say of the pod with these addresses is loaded. It fails when
    /// that does not come about within `limit`: the pod may not start unguarded.
    pub async fn pass(&self, uid: &str, ips: Vec<IpAddr>, limit: Duration) -> Result<(), String> {
        let number = self.tell(uid, ips);
        let mut loaded = self.loaded.clone();
        let done = loaded.wait_for(|n| *n >= number);
        match tokio::time::timeout(limit, done).await {
            Ok(Ok(_)) => Ok(()),
            // Nobody guards any more: the process ends.
            Ok(Err(_)) => Err("the network policies are no longer kept up".to_owned()),
            Err(_) => Err(format!(
                "the network policies of the pod were not loaded within {} s: see the log of rrun-pods",
                limit.as_secs()
            )),
        }
    }

    fn tell(&self, uid: &str, ips: Vec<IpAddr>) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.early.get(uid) != Some(&ips) {
            asked.early.insert(uid.to_owned(), ips);
            asked.number += 1;
        }
        let number = asked.number;
        drop(asked);
        self.wake.send_replace(number);
        number
    }
}

/// See the module.
pub struct Guard {
    client: Client,
    table: String,
    asked: Arc<Mutex<Asked>>,
    woken: watch::Receiver<u64>,
    loaded: watch::Sender<u64>,
}

impl Guard {
    /// A guard that owns the table `inet <table>`, and the gate that it opens.
    pub fn new(client: &Client, table: &str) -> (Self, Gate) {
        let asked = Arc::new(Mutex::new(Asked::default()));
        let (wake, woken) = watch::channel(0);
        let (loaded, opened) = watch::channel(0);
        let guard = Self {
            client: client.clone(),
            table: table.to_owned(),
            asked: asked.clone(),
            woken,
            loaded,
        };
        let gate = Gate {
            asked,
            wake,
            loaded: opened,
        };
        (guard, gate)
    }

    /// Works until the store is closed.
    pub async fn run(mut self) {
        let changes = |res| self.client.changes(res, "", Selector::all());
        let mut policies = changes(&kinds::NETWORK_POLICY);
        let mut pods = changes(&kinds::POD);
        let mut namespaces = changes(&kinds::NAMESPACE);
        // What is loaded; nothing is known of what another run left.
        let mut loaded: Option<Option<String>> = None;
        loop {
            let number = *self.woken.borrow_and_update();
            let failed = match self.wanted() {
                Ok(wanted) if loaded.as_ref() == Some(&wanted) => None,
                Ok(wanted) => {
                    let result = self.load(wanted.as_deref()).await;
                    let result = result.map_err(|e| format!("{e:#}"));
                    result.map(|()| loaded = Some(wanted)).err()
                }
                Err(status) => Some(status.message),
            };
            match &failed {
                Some(why) => {
                    let table = &self.table;
                    tracing::warn!(table, "network policies are not up to date: {why}");
                }
                None => drop(self.loaded.send_replace(number)),
            }
            tokio::select! {
                event = policies.next() => if event.is_none() { return },
                event = pods.next() => if event.is_none() { return },
                event = namespaces.next() => if event.is_none() { return },
                told = self.woken.changed() => if told.is_err() { return },
                () = tokio::time::sleep(RETRY), if failed.is_some() => {}
            }
            // Everything that is told already counts.
            for changes in [&mut policies, &mut pods, &mut namespaces] {
                while changes.backlog() > 0 {
                    changes.next().await;
                }
            }
        }
    }

    /// The text of the table; `None` where no pod has a policy.
    fn wanted(&self) -> Result<Option<String>, Status> {
        let all = Selector::all();
        let policies: Vec<NetworkPolicy> = self.client.list_as("", &all)?;
        if policies.is_empty() {
            // A policy that comes later finds the addresses in the pods' status.
            self.asked().early.clear();
            return Ok(None);
        }
        let pods: Vec<Pod> = self.client.list_as("", &all)?;
        let namespaces: Vec<Namespace> = self.client.list_as("", &all)?;
        let early = self.early(&pods);
        let groups = plan_of(&policies, &pods, &namespaces, &early);
        Ok((!groups.is_empty()).then(|| script(&self.table, &groups)))
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was told of pods that are still there, and that their status does not say.
    fn early(&self, pods: &[Pod]) -> Early {
        let mut asked = self.asked();
        let there = |uid: &String| pods.iter().any(|p| p.metadata.uid.as_ref() == Some(uid));
        if asked.early.len() > EARLY {
            asked.early.retain(|uid, _| there(uid));
        }
        asked.early.clone()
    }

    async fn load(&self, text: Option<&str>) -> anyhow::Result<()> {
        match text {
            Some(text) => nft(text).await,
            None => remove(&self.table).await,
        }
    }
}
