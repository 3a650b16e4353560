//! Empties namespaces that are being deleted, and gives live ones what each has: the `default`
//! ServiceAccount.

use std::time::Duration;

use serde_json::{Value, json};

use super::drive::{Controller, Key, Mapper, itself};
use crate::api::{Client, DeleteOptions, Patch, Propagation, Res, Status, kinds};
use crate::store::{Object, Selector};

/// See the module.
pub struct Namespaces {
    client: Client,
}

impl Namespaces {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("namespace-controller"),
        }
    }

    /// The authority's certificate, by which pods know the API.
    async fn certificate(&self, name: &str) -> Result<(), Status> {
        let pem = self.client.authority();
        let found = self
            .client
            .find(&kinds::CONFIG_MAP, name, "kube-root-ca.crt");
        if pem.is_empty()
            || found
                .as_ref()
                .is_some_and(|m| m.str_at("/data/ca.crt") == pem)
        {
            return Ok(());
        }
        let map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": pem}});
        let done = if found.is_some() {
            let patch = Patch::Merge(json!({"data": {"ca.crt": pem}}));
            let client = &self.client;
            client
                .patch(&kinds::CONFIG_MAP, name, "kube-root-ca.crt", patch)
                .await
        } else {
            self.client.create(&kinds::CONFIG_MAP, name, map).await
        };
        match done {
            Err(s) if !s.is_already_exists() => Err(s),
            _ => Ok(()),
        }
    }

    async fn furnish(&self, name: &str) -> Result<(), Status> {
        self.certificate(name).await?;
        if self
            .client
            .find(&kinds::SERVICE_ACCOUNT, name, "default")
            .is_some()
        {
            return Ok(());
        }
        let account = json!({"metadata": {"name": "default"}});
        match self
            .client
            .create(&kinds::SERVICE_ACCOUNT, name, account)
            .await
        {
            Err(s) if !s.is_already_exists() => Err(s),
            _ => Ok(()),
        }
    }

    /// Deletes what is there; how much still is.
    async fn empty(&self, name: &str) -> Result<usize, Status> {
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        let mut left = 0;
        let all = self.client.every_kind();
        for res in all.into_iter().filter(|r| r.namespaced) {
            for o in self.client.list(res, name, &Selector::all()).items {
                if !o.is_deleting() {
                    match self.client.delete(res, name, o.name(), &options).await {
                        Err(s) if !s.is_not_found() => return Err(s),
                        _ => {}
                    }
                }
            }
            left += self.client.list(res, name, &Selector::all()).items.len();
        }
        Ok(left)
    }
}

/// The namespace that an object is in, if it is going.
fn going(client: &Client, object: &Object) -> Vec<Key> {
    let ns = object.namespace();
    let found = client
        .find(&kinds::NAMESPACE, "", ns)
        .filter(|n| n.is_deleting());
    found
        .map(|_| (String::new(), ns.to_owned()))
        .into_iter()
        .collect()
}

/// The namespace that lost its account.
fn accounts(client: &Client, object: &Object) -> Vec<Key> {
    let mut keys = going(client, object);
    let own = ["default", "kube-root-ca.crt"].contains(&object.name());
    if own && keys.is_empty() {
        keys.push((String::new(), object.namespace().to_owned()));
    }
    keys
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespaces";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        let mut all: Vec<(Res, Mapper)> = vec![(&kinds::NAMESPACE, itself)];
        for res in kinds::ALL.iter().copied().filter(|r| r.namespaced) {
            let account = *res == kinds::SERVICE_ACCOUNT || *res == kinds::CONFIG_MAP;
            all.push((res, if account { accounts } else { going }));
        }
        all
    }

    fn watches_customs(&self) -> Option<Mapper> {
        Some(going)
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let name = &key.1;
        let Some(ns) = self.client.find(&kinds::NAMESPACE, "", name) else {
            return Ok(None);
        };
        if !ns.is_deleting() {
            return self.furnish(name).await.map(|()| None);
        }
        if self.empty(name).await? > 0 {
            // Each thing that goes wakes this again.
            return Ok(None);
        }
        let all = ns.at("/spec/finalizers").as_array().into_iter().flatten();
        let kept: Vec<Value> = all.filter(|f| *f != "kubernetes").cloned().collect();
        let mut object = ns.value().clone();
        object["spec"]["finalizers"] = json!(kept);
        match self.client.finalize_namespace(object).await {
            Err(s) if !s.is_not_found() => Err(s),
            _ => Ok(None),
        }
    }
}
