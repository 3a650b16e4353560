//! Keeps the table of nftables as Services and their endpoints ask for.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::plan::{Own, plan};
use crate::api::{Client, Status, kinds};
use crate::store::{Object, Selector};

/// After a failure the table is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub struct Proxy {
    client: Client,
    table: String,
    own: Vec<Own>,
    node: String,
}

impl Proxy {
    /// A proxy that owns the table `inet <table>`, and leads to what this process answers
    /// itself.
    pub fn new(client: &Client, table: &str, own: Vec<Own>, node: &str) -> Self {
        Self {
            client: client.clone(),
            table: table.to_owned(),
            own,
            node: node.to_owned(),
        }
    }

    /// Works until the store is closed.
    pub async fn run(mut self) {
        let mut services = self.client.changes(&kinds::SERVICE, "", Selector::all());
        let mut slices = self
            .client
            .changes(&kinds::ENDPOINT_SLICE, "", Selector::all());
        // What is loaded; nothing is known of what another run left.
        let mut loaded: Option<Option<String>> = None;
        loop {
            let failed = match self.wanted(&self.own) {
                Ok(wanted) if loaded.as_ref() == Some(&wanted) => false,
                Ok(wanted) => match self.load(wanted.as_deref()).await {
                    Ok(()) => {
                        loaded = Some(wanted);
                        false
                    }
                    Err(error) if self.own.iter().any(|own| own.marked) => {
                        // A kernel without nft_socket: the guard goes by the ports alone.
                        tracing::debug!(table = self.table, "without marks: {error:#}");
                        self.own.iter_mut().for_each(|own| own.marked = false);
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(
                            table = self.table,
                            "services are not up to date: {error:#}"
                        );
                        true
                    }
                },
                Err(status) => {
                    tracing::warn!("services not read: {}", status.message);
                    true
                }
            };
            tokio::select! {
                event = services.next() => if event.is_none() { return },
                event = slices.next() => if event.is_none() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            // Everything that is told already counts.
            while services.backlog() > 0 {
                services.next().await;
            }
            while slices.backlog() > 0 {
                slices.next().await;
            }
        }
    }

    fn wanted(&self, own: &[Own]) -> Result<Option<String>, Status> {
        let all = Selector::all();
        let services = self.client.list_as("", &all)?;
        let slices = self.client.list_as("", &all)?;
        Ok(plan(&self.table, &services, &slices, own, &self.node))
    }

    async fn load(&self, text: Option<&str>) -> anyhow::Result<()> {
        match text {
            Some(text) => nft(text).await,
            None => self.remove().await,
        }
    }

    /// Removes the table. No table is fine.
    pub async fn remove(&self) -> anyhow::Result<()> {
        remove(&self.table).await
    }

    /// On a clean end: what leads to this process goes, with the guard of its ports, which are
    /// anybody's now. The Services of pods work on; where there are none, the table goes.
    pub async fn shut_down(&self) {
        let services = self.client.list(&kinds::SERVICE, "", &Selector::all());
        let of_api = |s: &Object| s.namespace() == "default" && s.name() == "kubernetes";
        let wanted = match self.wanted(&[]) {
            Ok(wanted) => wanted.filter(|_| !services.items.iter().all(|s| of_api(s))),
            Err(status) => {
                tracing::warn!("services not read: {}", status.message);
                return;
            }
        };
        if let Err(error) = self.load(wanted.as_deref()).await {
            tracing::warn!(table = self.table, "table not left in order: {error:#}");
        }
    }
}

/// Removes a table. No table is fine.
pub(super) async fn remove(table: &str) -> anyhow::Result<()> {
    nft(&format!(
        "add table inet {table}\ndelete table inet {table}\n"
    ))
    .await
}

/// Loads a text in one transaction.
pub(super) async fn nft(text: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("nft (Debian package nftables)")?;
    let mut stdin = child.stdin.take().context("nft has no standard input")?;
    stdin.write_all(text.as_bytes()).await.context("nft")?;
    drop(stdin);
    let output = child.wait_with_output().await.context("nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", said.lines().next().unwrap_or("failed"));
    }
    Ok(())
}
