//! A node: the agent, the API in the process, and the fake runtime.

use std::time::{Duration, Instant};

use rrun_pods::api::{Client, bootstrap, kinds};
use rrun_pods::node::{Agent, Config};
use rrun_pods::store::Store;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fake::{Fake, Server};

pub const LONGEST: Duration = Duration::from_secs(20);

pub struct Machine {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub client: Client,
    pub fake: Fake,
    pub server: Option<Server>,
    pub agent: JoinHandle<()>,
}

fn agent(client: &Client, dir: &std::path::Path) -> JoinHandle<()> {
    let config = Config {
        node_name: "node".into(),
        root: dir.join("node"),
        log_dir: None,
        cri_socket: dir.join("cri.sock").display().to_string(),
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        max_pods: 110,
    };
    tokio::spawn(Agent::new(client.clone(), config).unwrap().run())
}

impl Machine {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let client = Client::over(store.clone());
        bootstrap::objects(&client).await.unwrap();
        let fake = Fake::new();
        let server = Some(fake.serve(dir.path()));
        let agent = agent(&client, dir.path());
        Self {
            dir,
            store,
            client,
            fake,
            server,
            agent,
        }
    }

    /// As kill -9 and a new start of rrun-pods.
    pub async fn restart_agent(&mut self) {
        self.agent.abort();
        let _ = (&mut self.agent).await;
        self.agent = agent(&self.client, self.dir.path());
    }

    /// As kill -9 of it: what it runs goes on.
    pub fn lose_runtime(&mut self) {
        self.server = None;
    }

    pub fn find_runtime(&mut self) {
        self.server = Some(self.fake.serve(self.dir.path()));
    }

    /// A pod called `p`.
    pub async fn create(&self, spec: Value) {
        self.create_named("p", spec).await;
    }

    pub async fn create_named(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "node".into();
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        self.client
            .create(&kinds::POD, "default", pod)
            .await
            .unwrap();
    }

    pub fn pod(&self) -> Value {
        self.named("p")
    }

    fn named(&self, name: &str) -> Value {
        let pod = self.client.find(&kinds::POD, "default", name);
        pod.map_or(Value::Null, |pod| pod.value().clone())
    }

    pub async fn until(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        self.until_of("p", what, test).await
    }

    /// Waits until the pod of this name, null where there is none, is as it should be.
    pub async fn until_of(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let pod = self.named(name);
            if test(&pod) {
                return pod;
            }
            let calls = self.fake.calls();
            assert!(
                begun.elapsed() < LONGEST,
                "{name}, {what}: {:#}\n{calls:?}",
                pod["status"]
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn ready(&self) -> Value {
        self.until("ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    pub fn creations(&self) -> usize {
        self.fake
            .calls()
            .iter()
            .filter(|c| c.starts_with("create"))
            .count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.agent.abort();
        let _ = &self.store;
    }
}

pub fn condition(pod: &Value, kind: &str) -> String {
    let all = pod["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == kind);
    found
        .map(|c| c["status"].as_str().unwrap().to_owned())
        .unwrap_or_default()
}

pub fn first(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

pub fn simple() -> Value {
    json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "i:1"}]})
}
