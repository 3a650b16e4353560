//! Carries out the garbage collector's plan. A key names kind and object.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::drive::{Controller, Key, Mapper};
use super::gc::{self, Owner, Plan};
use crate::api::delete::{FOREGROUND, ORPHAN};
use crate::api::{Client, DeleteOptions, Patch, Propagation, Res, Status, kinds};
use crate::store::{Object, Selector};

/// See [`super::gc`].
pub struct GarbageCollector {
    client: Client,
}

impl GarbageCollector {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("generic-garbage-collector"),
        }
    }
}

fn key_of(res: Res, ns: &str, name: &str) -> Key {
    (ns.to_owned(), format!("{}/{name}", res.qualified()))
}

fn parse<'a>(client: &Client, key: &'a Key) -> Option<(Res, &'a str, &'a str)> {
    let (kind, name) = key.1.split_once('/')?;
    let mut all = client.every_kind().into_iter();
    let res = all.find(|r| r.qualified() == kind)?;
    Some((res, &key.0, name))
}

fn references(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

fn depends_on(object: &Object, uid: &str) -> bool {
    references(object.head()).iter().any(|r| r["uid"] == uid)
}

/// Every object that names this one as an owner. A scan: it happens only when something goes, and
/// costs less than keeping an index would at rest.
fn dependents(client: &Client, owner: &Object) -> Vec<(Res, Arc<Object>)> {
    let mut out = Vec::new();
    for res in client.every_kind() {
        let ns = if res.namespaced {
            owner.namespace()
        } else {
            ""
        };
        let all = client.list(res, ns, &Selector::all()).items;
        out.extend(
            all.into_iter()
                .filter(|o| depends_on(o, owner.uid()))
                .map(|o| (res, o)),
        );
    }
    out
}

/// The kind of the owner that a reference names, and the namespace to look for it in.
fn owner_of<'a>(client: &Client, reference: &Value, ns: &'a str) -> Option<(Res, &'a str)> {
    let (version, kind) = (
        reference["apiVersion"].as_str()?,
        reference["kind"].as_str()?,
    );
    let group = version.rsplit_once('/').map_or("", |(g, _)| g);
    let mut all = client.every_kind().into_iter();
    let res = all.find(|r| r.group == group && r.kind == kind)?;
    Some((res, if res.namespaced { ns } else { "" }))
}

/// A changed object is looked at if it has owners or waits for its dependents; one that is gone
/// has its dependents and its owners looked at.
fn affected(client: &Client, object: &Object) -> Vec<Key> {
    let Some(res) = client.kind_of(object.head()) else {
        return Vec::new();
    };
    let exists = client
        .find(res, object.namespace(), object.name())
        .is_some_and(|o| o.uid() == object.uid());
    if exists {
        let concerned =
            !references(object.head()).is_empty() || gc::waits_for(object.head()).is_some();
        let own = key_of(res, object.namespace(), object.name());
        return if concerned { vec![own] } else { Vec::new() };
    }
    let down = dependents(client, object);
    let down = down.iter().map(|(r, o)| key_of(r, o.namespace(), o.name()));
    let up = references(object.head()).iter().filter_map(|r| {
        let (res, ns) = owner_of(client, r, object.namespace())?;
        Some(key_of(res, ns, r["name"].as_str()?))
    });
    down.chain(up).collect()
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        // Events own nothing and are not owned.
        let all = kinds::ALL.iter().copied().filter(|r| **r != kinds::EVENT);
        all.map(|r| (r, affected as Mapper)).collect()
    }

    fn watches_customs(&self) -> Option<Mapper> {
        Some(affected)
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some((res, ns, name)) = parse(&self.client, key) else {
            return Ok(None);
        };
        let Some(object) = self.client.find(res, ns, name) else {
            return Ok(None);
        };
        match gc::waits_for(object.value()) {
            Some(ORPHAN) => self.orphan(res, &object).await?,
            Some(_) => self.foreground(res, &object).await?,
            None => self.dependent(res, &object).await?,
        }
        Ok(None)
    }
}

impl GarbageCollector {
    fn owner_state(&self, object: &Object, reference: &Value) -> Owner {
        let Some((res, ns)) = owner_of(&self.client, reference, object.namespace()) else {
            return Owner::Unknown;
        };
        if res.namespaced && ns.is_empty() {
            // A cluster-wide object cannot be owned by one in a namespace: nothing can be said.
            return Owner::Unknown;
        }
        let name = reference["name"].as_str().unwrap_or_default();
        match self.client.find(res, ns, name) {
            Some(o) if reference["uid"] != o.uid() => Owner::Absent,
            Some(o) if gc::waits_for(o.value()) == Some(FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
            None => Owner::Absent,
        }
    }

    async fn dependent(&self, res: Res, object: &Object) -> Result<(), Status> {
        let all = references(object.value());
        let owners: Vec<Owner> = all.iter().map(|r| self.owner_state(object, r)).collect();
        if owners
            .iter()
            .all(|o| matches!(o, Owner::Solid | Owner::Unknown))
        {
            return Ok(());
        }
        let has_dependents =
            owners.contains(&Owner::Waiting) && !dependents(&self.client, object).is_empty();
        match gc::dependent(object.value(), &owners, has_dependents) {
            Plan::Keep => Ok(()),
            Plan::Unlink(uids) => self.unlink(res, object, &uids).await,
            Plan::Delete(how) => self.delete(res, object, how).await,
        }
    }

    async fn delete(&self, res: Res, object: &Object, how: Propagation) -> Result<(), Status> {
        let options = DeleteOptions {
            propagation: Some(how),
            uid: Some(object.uid().to_owned()),
            ..DeleteOptions::default()
        };
        let done = self
            .client
            .delete(res, object.namespace(), object.name(), &options)
            .await;
        ignore_gone(done.map(drop))
    }

    async fn unlink(&self, res: Res, object: &Object, uids: &[String]) -> Result<(), Status> {
        let kept = references(object.value()).iter();
        let kept = kept.filter(|r| !uids.iter().any(|u| r["uid"] == *u));
        let kept: Vec<&Value> = kept.collect();
        self.set_meta(res, object, "ownerReferences", json!(kept))
            .await
    }

    /// Writes a list of the metadata, if the object is still at this version.
    async fn set_meta(&self, res: Res, o: &Object, field: &str, list: Value) -> Result<(), Status> {
        let list = if list == json!([]) { Value::Null } else { list };
        let version = o.resource_version().to_string();
        let patch = json!({"metadata": {field: list, "resourceVersion": version}});
        let done = self
            .client
            .patch(res, o.namespace(), o.name(), Patch::Merge(patch))
            .await;
        ignore_gone(done.map(drop))
    }

    async fn drop_finalizer(&self, res: Res, object: &Object, name: &str) -> Result<(), Status> {
        let kept: Vec<&str> = gc::finalizers(object.value())
            .filter(|f| *f != name)
            .collect();
        self.set_meta(res, object, "finalizers", json!(kept)).await
    }

    async fn orphan(&self, res: Res, owner: &Object) -> Result<(), Status> {
        let uid = [owner.uid().to_owned()];
        for (kind, dependent) in dependents(&self.client, owner) {
            self.unlink(kind, &dependent, &uid).await?;
        }
        self.drop_finalizer(res, owner, ORPHAN).await
    }

    async fn foreground(&self, res: Res, owner: &Object) -> Result<(), Status> {
        let all = dependents(&self.client, owner);
        let blocked = all.iter().any(|(_, o)| gc::blocks(o.value(), owner.uid()));
        for (kind, dependent) in all {
            self.dependent(kind, &dependent).await?;
        }
        if blocked {
            Ok(())
        } else {
            self.drop_finalizer(res, owner, FOREGROUND).await
        }
    }
}

/// Somebody else was faster: what is gone needs no more work.
fn ignore_gone(done: Result<(), Status>) -> Result<(), Status> {
    match done {
        Err(s) if s.is_not_found() => Ok(()),
        // Another object has the name now.
        Err(s) if s.is_conflict() && s.message.contains("UID") => Ok(()),
        other => other,
    }
}
