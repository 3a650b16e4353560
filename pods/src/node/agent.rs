//! The agent: finds the pods of this node, in the API and in the runtime, and wakes their workers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1 as cri;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cri::Cri;
use super::dirs::Dirs;
use super::eviction::{Evictions, Evictor, Parts, Thresholds};
use super::history::History;
use super::images::Images;
use super::names::{POD_NAME, POD_NAMESPACE, POD_UID};
use super::node_object::{self, NodeFacts};
use super::run::Shared;
use super::sandbox::Dns;
use super::volumes;
use super::watch_file::Appearance;
use super::worker::{Key, Wake, Worker};
use crate::api::{Client, WatchEvent, kinds};
use crate::clock;
use crate::events::Recorder;
use crate::proxy::policy::Gate;
use crate::store::{Object, Selector};

/// Pauses between tries to reach the runtime, where nothing tells of its socket.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// Directory for pods' files and logs; absolute.
    pub root: PathBuf,
    /// Directory of logs; absolute. `logs` under the root when absent.
    pub log_dir: Option<PathBuf>,
    /// The CRI socket, as `unix:///run/rrun-cri/cri.sock`.
    pub cri_socket: String,
    /// Name servers that pods with the policy ClusterFirst get; none gives them the host's.
    pub cluster_dns: Vec<String>,
    /// The domain of Services.
    pub cluster_domain: String,
    /// How many pods the node takes.
    pub max_pods: u32,
}

/// See the module.
pub struct Agent {
    shared: Arc<Shared>,
    config: Config,
    node: NodeFacts,
    workers: HashMap<Key, mpsc::UnboundedSender<Wake>>,
    tasks: JoinSet<Key>,
    /// What of each pod was seen last, to tell its status from the rest.
    seen: HashMap<Key, Fingerprint>,
}

/// What of a pod concerns its worker, beside the status.
#[derive(Clone, PartialEq)]
struct Fingerprint {
    generation: Option<i64>,
    deletion: String,
    grace: Option<i64>,
    labels: String,
    gates: String,
}

enum FromRuntime {
    /// The event stream is up: here is everything.
    Connected(Vec<cri::PodSandbox>),
    /// Something happened to a pod.
    Touched(Option<Key>),
    /// The stream broke.
    Lost(String),
}

impl Agent {
    /// An agent that does nothing before [`run`](Self::run).
    pub fn new(client: Client, config: Config) -> anyhow::Result<Self> {
        anyhow::ensure!(
            config.root.is_absolute(),
            "--root {}: must be an absolute path",
            config.root.display()
        );
        if let Some(dir) = config.log_dir.as_deref().filter(|dir| !dir.is_absolute()) {
            anyhow::bail!("--log-dir {}: must be an absolute path", dir.display());
        }
        let node = NodeFacts::gather(config.max_pods)?;
        let client = client.named("node-agent");
        let dirs = Dirs::new(&config.root, config.log_dir.as_deref());
        let shared = Shared {
            capsules: dirs.capsules(),
            evictions: Evictions::default(),
            history: History::default(),
            cri: Cri::new(&config.cri_socket)?,
            dirs,
            events: Recorder::start(client.clone(), "kubelet", &config.node_name),
            client,
            images: Images::default(),
            dns: Dns {
                cluster: config.cluster_dns.clone(),
                domain: config.cluster_domain.clone(),
                host: node_object::host_dns(),
            },
            host_ip: node.address.clone(),
            allocatable: node.allocatable(),
            runtime_handler: String::new(),
            gate: None,
        };
        Ok(Self {
            shared: Arc::new(shared),
            config,
            node,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            seen: HashMap::new(),
        })
    }

    /// No container starts before its pod's network policies hold.
    #[must_use]
    pub fn guarded(mut self, gate: Option<Gate>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.gate = gate;
        }
        self
    }

    /// What evicts this agent's pods when less than this is left.
    pub fn evictor(&self, thresholds: Thresholds, linger: Duration) -> Evictor {
        let parts = Parts {
            client: self.shared.client.clone(),
            cri: self.shared.cri.clone(),
            events: self.shared.events.clone(),
            node: self.config.node_name.clone(),
            root: self.config.root.clone(),
            dirs: self.shared.dirs.clone(),
            evictions: self.shared.evictions.clone(),
        };
        Evictor::new(parts, thresholds, linger)
    }

    /// What answers to the API are made of.
    pub(super) fn parts(&self) -> (Client, Cri, Dirs) {
        let shared = &self.shared;
        (
            shared.client.clone(),
            shared.cri.clone(),
            shared.dirs.clone(),
        )
    }

    /// Works until the store is closed or the task is dropped.
    pub async fn run(mut self) {
        node_object::register(
            &self.shared.client,
            &self.config.node_name,
            &self.node,
            None,
        )
        .await;
        let mine = format!("spec.nodeName={}", self.config.node_name);
        let Ok(selector) = Selector::all().with_fields(&mine) else {
            tracing::error!(
                node = self.config.node_name,
                "the node's name cannot be selected by"
            );
            return;
        };
        let client = self.shared.client.clone();
        let mut pods = client.changes(&kinds::POD, "", selector);
        let mut clock = clock::sets();
        let mut maps = client.changes(&kinds::CONFIG_MAP, "", Selector::all());
        let mut secrets = client.changes(&kinds::SECRET, "", Selector::all());
        // Every pod of the API is known before the runtime is asked, so that no pod looks left over.
        while pods.backlog() > 0 {
            let Some(event) = pods.next().await else {
                return;
            };
            self.pod_event(&event);
        }
        self.tidy_files();
        let (sender, mut runtime) = mpsc::channel(256);
        let listener = tokio::spawn(listen(self.shared.cri.clone(), sender));
        let history = self.shared.history.clone().run(self.shared.cri.clone());
        let history = tokio::spawn(history);
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(event) => self.pod_event(&event),
                    None => break,
                },
                // Deadlines and the ends of tokens are instants.
                Ok(()) = clock.changed() => self.wake_all(Wake::Volumes),
                Some(event) = maps.next() => self.source_event("ConfigMap", &event),
                Some(event) = secrets.next() => self.source_event("Secret", &event),
                Some(event) = runtime.recv() => self.runtime_event(event).await,
                Some(over) = self.tasks.join_next() => self.worker_over(over.ok()),
            }
        }
        listener.abort();
        history.abort();
    }

    fn pod_event(&mut self, event: &WatchEvent) {
        let object = event.object();
        let key = key_of(object);
        if let WatchEvent::Deleted(_) = event {
            self.seen.remove(&key);
            if let Some(worker) = self.workers.get(&key) {
                let _ = worker.send(Wake::Look);
            }
            return;
        }
        let print = fingerprint(object);
        // The worker's own status writes need not wake it.
        if self.seen.get(&key) == Some(&print) && self.workers.contains_key(&key) {
            return;
        }
        // Labels and annotations can be files of the pod.
        let wake = if self.seen.contains_key(&key) {
            Wake::Volumes
        } else {
            Wake::Look
        };
        self.seen.insert(key.clone(), print);
        self.wake(key, wake);
    }

    fn wake(&mut self, key: Key, wake: Wake) {
        if let Some(worker) = self.workers.get(&key)
            && worker.send(wake).is_ok()
        {
            return;
        }
        let (sender, wakes) = mpsc::unbounded_channel();
        let worker = Worker::new(self.shared.clone(), key.clone());
        let of = key.clone();
        self.tasks.spawn(async move {
            worker.run(wakes).await;
            of
        });
        let _ = sender.send(wake);
        self.workers.insert(key, sender);
    }

    fn wake_all(&self, wake: Wake) {
        for worker in self.workers.values() {
            let _ = worker.send(wake);
        }
    }

    fn source_event(&mut self, kind: &str, event: &WatchEvent) {
        let source = event.object();
        let (namespace, name) = (source.namespace(), source.name());
        for (key, worker) in &self.workers {
            if key.namespace != namespace {
                continue;
            }
            let stored = self
                .shared
                .client
                .find(&kinds::POD, &key.namespace, &key.name);
            let uses = stored
                .and_then(|object| object.typed().ok())
                .is_some_and(|pod| volumes::refers_to(&pod, kind, name));
            if uses {
                let _ = worker.send(Wake::Volumes);
            }
        }
    }

    async fn runtime_event(&mut self, event: FromRuntime) {
        match event {
            FromRuntime::Connected(sandboxes) => {
                tracing::info!(socket = self.config.cri_socket, "connected to the runtime");
                let version = self.shared.cri.version().await.ok();
                let (client, name) = (&self.shared.client, &self.config.node_name);
                node_object::register(client, name, &self.node, version.map(Ok)).await;
                self.wake_all(Wake::Back);
                // What the API does not know is left over from a pod that was removed.
                for key in sandboxes.iter().filter_map(|s| key_from(&s.labels)) {
                    self.wake(key, Wake::Look);
                }
            }
            FromRuntime::Touched(Some(key)) => {
                if self.workers.contains_key(&key) || !self.is_gone(&key) {
                    self.wake(key, Wake::Look);
                } else {
                    self.wake_left_over(key).await;
                }
            }
            FromRuntime::Touched(None) => self.wake_all(Wake::Look),
            FromRuntime::Lost(why) => {
                tracing::warn!(
                    socket = self.config.cri_socket,
                    "the runtime is away: {why}"
                );
                let (client, name) = (&self.shared.client, &self.config.node_name);
                node_object::register(client, name, &self.node, Some(Err(why))).await;
            }
        }
    }

    fn is_gone(&self, key: &Key) -> bool {
        let stored = self
            .shared
            .client
            .find(&kinds::POD, &key.namespace, &key.name);
        stored.is_none_or(|object| object.uid() != key.uid)
    }

    /// An event of a pod that has neither object nor worker: its last containers being removed, or
    /// a sandbox that was made while its pod went.
    async fn wake_left_over(&mut self, key: Key) {
        let left = self.shared.cri.sandboxes(Some(&key.uid)).await;
        if left.is_ok_and(|list| !list.is_empty()) {
            self.wake(key, Wake::Look);
        }
    }

    fn worker_over(&mut self, key: Option<Key>) {
        let Some(key) = key else { return };
        self.workers.remove(&key);
        self.seen.remove(&key);
        // The object may have come to need a worker again in the meantime.
        if !self.is_gone(&key) {
            self.wake(key, Wake::Look);
        }
    }

    /// Removes files of pods that neither the API nor, as far as is known, the runtime has.
    fn tidy_files(&self) {
        let known = |uid: &str| self.workers.keys().any(|key| key.uid == uid);
        let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries(self.shared.dirs.pods()) {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !known(&uid)
                && let Err(error) = volumes::remove(&self.shared.dirs, &uid)
            {
                tracing::warn!(path = %entry.path().display(), "not removed: {error}");
            }
        }
        for entry in entries(self.shared.dirs.all_logs()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit('_').next().unwrap_or_default();
            if !known(uid)
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), "not removed: {error}");
            }
        }
    }
}

fn key_of(object: &Object) -> Key {
    Key {
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
    }
}

fn key_from(labels: &HashMap<String, String>) -> Option<Key> {
    Some(Key {
        namespace: labels.get(POD_NAMESPACE)?.clone(),
        name: labels.get(POD_NAME)?.clone(),
        uid: labels.get(POD_UID)?.clone(),
    })
}

fn fingerprint(object: &Object) -> Fingerprint {
    let meta = object.at("/metadata");
    let gated = !object.at("/spec/readinessGates").is_null();
    let conditions = object.at("/status/conditions");
    Fingerprint {
        generation: object.int_at("/metadata/generation"),
        deletion: object.str_at("/metadata/deletionTimestamp").to_owned(),
        grace: object.int_at("/metadata/deletionGracePeriodSeconds"),
        labels: format!("{}{}", meta["labels"], meta["annotations"]),
        gates: if gated {
            conditions.to_string()
        } else {
            String::new()
        },
    }
}

/// Listens to the runtime's events, and connects again whenever they break off.
async fn listen(cri: Cri, out: mpsc::Sender<FromRuntime>) {
    let mut wait = FIRST_RETRY;
    let mut told = false;
    loop {
        // Watched before it is tried, so that a socket made in between is not missed.
        let mut socket = Appearance::of(cri.path());
        let why = match follow(&cri, &out).await {
            Ok(()) => {
                (wait, told) = (FIRST_RETRY, false);
                "the event stream ended".to_owned()
            }
            Err(status) => status.message().to_owned(),
        };
        cri.set_there(false);
        if !told && out.send(FromRuntime::Lost(why)).await.is_err() {
            return;
        }
        told = true;
        tokio::select! {
            () = socket.changed() => wait = FIRST_RETRY,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_RETRY),
        }
    }
}

async fn follow(cri: &Cri, out: &mpsc::Sender<FromRuntime>) -> super::cri::Result<()> {
    let request = cri::GetEventsRequest::default();
    let mut events = cri
        .runtime()
        .get_container_events(request)
        .await?
        .into_inner();
    // Listed once the stream is up, so that nothing happens unseen between the two.
    let all = cri.sandboxes(None).await?;
    cri.learn_driver().await;
    cri.set_there(true);
    if out.send(FromRuntime::Connected(all)).await.is_err() {
        return Ok(());
    }
    loop {
        let Ok(Some(event)) = events.message().await else {
            return Ok(());
        };
        let sandbox = event.pod_sandbox_status.as_ref();
        let key = sandbox.and_then(|s| key_from(&s.labels)).or_else(|| {
            let mut containers = event.containers_statuses.iter();
            containers.find_map(|c| key_from(&c.labels))
        });
        if out.send(FromRuntime::Touched(key)).await.is_err() {
            return Ok(());
        }
    }
}
