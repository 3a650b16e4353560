//! Reads the directory, and makes the API as it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Id, Step, Wanted, kind_of, plan};
use crate::api::{Client, DeleteOptions, Res, Status, kinds};
use crate::cli::manifest;
use crate::node::watch_file::Watched;
use crate::store::{Object, Selector};

/// After a failure everything is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A burst of changes is one.
const MOMENT: Duration = Duration::from_millis(50);

/// See the module.
pub struct Statics {
    client: Client,
    dir: PathBuf,
    node: String,
    /// What was complained of last.
    faults: Vec<String>,
}

impl Statics {
    /// Of a directory and a node.
    pub fn new(client: &Client, dir: &Path, node: &str) -> Self {
        Self {
            client: client.named("static-pods"),
            dir: dir.to_owned(),
            node: node.to_owned(),
            faults: Vec::new(),
        }
    }

    /// Works until the store is closed.
    pub async fn run(mut self) {
        let watched: [Res; 3] = [&kinds::POD, &kinds::CONFIG_MAP, &kinds::SECRET];
        let mut changes = watched.map(|res| self.client.changes(res, "", Selector::all()));
        loop {
            // Watched before it is read, so that no change is missed.
            let mut files = Watched::directory(&self.dir);
            let failed = match self.look().await {
                Ok(()) => files.is_err(),
                Err(status) => {
                    tracing::warn!(dir = %self.dir.display(), "static pods: {}", status.message);
                    true
                }
            };
            let [pods, maps, secrets] = &mut changes;
            tokio::select! {
                event = pods.next() => if event.is_none() { return },
                event = maps.next() => if event.is_none() { return },
                event = secrets.next() => if event.is_none() { return },
                () = changed(files.as_mut().ok()) => tokio::time::sleep(MOMENT).await,
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            for changes in &mut changes {
                while changes.backlog() > 0 {
                    changes.next().await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), Status> {
        let wanted = self.wanted();
        if wanted.faults != self.faults {
            for fault in &wanted.faults {
                tracing::warn!("static pods: {fault}");
            }
            self.faults.clone_from(&wanted.faults);
        }
        let mut result = Ok(());
        for step in plan(&wanted, &self.there(&wanted)) {
            // One that is refused keeps no other from being made.
            if let Err(status) = self.carry_out(step).await {
                result = Err(status);
            }
        }
        result
    }

    /// What the directory says. One that is not there says nothing.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        files.sort();
        for path in files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let known = path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if !known || name.starts_with('.') || !path.is_file() {
                continue;
            }
            match manifest::read(std::slice::from_ref(&path), false) {
                Ok(documents) => {
                    for document in documents {
                        wanted.take(&name, &self.node, document.object);
                    }
                }
                Err(error) => {
                    wanted.faults.push(format!("{error:#}"));
                    wanted.broken.insert(name.into_owned());
                }
            }
        }
        wanted
    }

    /// What the API has of the directory, and what it has by the same names.
    fn there(&self, wanted: &Wanted) -> BTreeMap<Id, Arc<Object>> {
        let mut all = BTreeMap::new();
        let watched: [Res; 3] = [&kinds::POD, &kinds::CONFIG_MAP, &kinds::SECRET];
        for res in watched {
            for object in self.client.list(res, "", &Selector::all()).items {
                let id = (
                    res.kind,
                    object.namespace().to_owned(),
                    object.name().to_owned(),
                );
                let of_node = *res != kinds::POD || object.str_at("/spec/nodeName") == self.node;
                if wanted.objects.contains_key(&id) || (of_node && super::is_ours(&object)) {
                    all.insert(id, object);
                }
            }
        }
        all
    }

    async fn carry_out(&self, step: Step) -> Result<(), Status> {
        match step {
            Step::Create(object) => {
                let (res, ns) = place(&object);
                self.client.create(res, &ns, object).await.map(drop)
            }
            Step::Replace(object) => {
                let (res, ns) = place(&object);
                self.client.update(res, &ns, object).await.map(drop)
            }
            Step::Delete(id, uid) => {
                let options = DeleteOptions {
                    uid: Some(uid),
                    ..DeleteOptions::default()
                };
                let (ns, name) = (&id.1, &id.2);
                match self.client.delete(kind_of(&id), ns, name, &options).await {
                    Err(status) if status.code != 404 && status.code != 409 => Err(status),
                    _ => Ok(()),
                }
            }
        }
    }
}

async fn changed(files: Option<&mut Watched>) {
    if let Some(files) = files
        && files.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

fn place(object: &serde_json::Value) -> (Res, String) {
    let ns = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let res = super::kind(object).unwrap_or(&kinds::CONFIG_MAP);
    (res, ns.to_owned())
}
