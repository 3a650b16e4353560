//! The API for those inside the process: the same rules as over HTTP, without the HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::auth::Tokens;
use super::kinds::{self, Typed};
use super::pipeline::{Api, Config};
use super::resource::Res;
use super::status::{Result, Status};
use super::versions;
use crate::store::{Event, List, Object, Selector, Store, WatchError};

/// A handle to the API; cheap to clone. Reads are answered from memory and never wait; writes
/// return when they are on disk.
///
/// A namespace is `""` for cluster-wide kinds, and in lists and watches for all namespaces.
#[derive(Clone)]
pub struct Client {
    api: Arc<Api>,
    manager: Arc<str>,
}

/// `fieldValidation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Validation {
    /// They are dropped.
    #[default]
    Ignore,
    /// They are dropped, and the answer carries a warning.
    Warn,
    /// The request is refused.
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Everything but the write itself.
    pub dry_run: bool,
    /// What happens to fields that the type does not have.
    pub validation: Validation,
    /// Who writes, for `managedFields`; the client's name when absent.
    pub field_manager: Option<String>,
    /// The object carries its managers already: it comes from a server-side apply.
    pub(super) applies: bool,
    /// What to tell the client beside the answer.
    pub(super) warnings: Arc<Mutex<Vec<String>>>,
}

impl WriteOptions {
    /// What was noticed so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn warn(&self, all: impl Iterator<Item = String>) {
        let mut list = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in all {
            if !list.contains(&warning) {
                list.push(warning);
            }
        }
    }
}

/// A change of an object in one of the API's patch formats.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists with keys are merged by them.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields wanted.
        object: Value,
        /// Whether fields of other managers are taken over.
        force: bool,
    },
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without an owner.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

/// Options of delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds; only pods know one. `Some(0)` deletes at once: the node agent's confirmation.
    pub grace_period_seconds: Option<i64>,
    /// `None` is the kind's default (background).
    pub propagation: Option<Propagation>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this version.
    pub resource_version: Option<String>,
    /// Everything but the write itself.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// At once, and only this very object.
    pub fn now(uid: &str) -> Self {
        Self {
            grace_period_seconds: Some(0),
            uid: Some(uid.into()),
            ..Self::default()
        }
    }
}

impl Client {
    pub(super) fn new(api: Arc<Api>, manager: &str) -> Self {
        Self {
            api,
            manager: manager.into(),
        }
    }

    /// A client over a store with the default configuration.
    pub fn over(store: Store) -> Self {
        Self::with(store, Config::default())
    }

    /// A client over a store.
    pub fn with(store: Store, config: Config) -> Self {
        Self::new(Arc::new(Api::new(store, config)), "rrun-pods")
    }

    /// The same client under the name that `managedFields` shows (`deployment-controller`).
    #[must_use]
    pub fn named(&self, manager: &str) -> Self {
        Self::new(self.api.clone(), manager)
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// What makes and checks tokens, where the API has a key for them.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.api.config().tokens.as_deref()
    }

    /// The certificate of the authority, PEM; empty where the API has none.
    pub fn authority(&self) -> &str {
        &self.api.config().authority
    }

    fn options(&self) -> WriteOptions {
        WriteOptions {
            field_manager: Some(self.manager.to_string()),
            ..WriteOptions::default()
        }
    }

    /// An object.
    pub fn get(&self, res: Res, ns: &str, name: &str) -> Result<Arc<Object>> {
        self.api.get(res, ns, name)
    }

    /// An object, or `None` when there is none.
    pub fn find(&self, res: Res, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.api.get(res, ns, name).ok()
    }

    /// An object as one of k8s-openapi's types.
    pub fn get_as<T: Typed>(&self, ns: &str, name: &str) -> Result<T> {
        self.get(T::RESOURCE, ns, name)?
            .typed()
            .map_err(Status::internal)
    }

    /// The objects of a namespace, or of all (`""`).
    pub fn list(&self, res: Res, ns: &str, selector: &Selector) -> List {
        self.api.list(res, ns, selector)
    }

    /// Like [`Client::list`], as one of k8s-openapi's types.
    pub fn list_as<T: Typed>(&self, ns: &str, selector: &Selector) -> Result<Vec<T>> {
        let items = self.list(T::RESOURCE, ns, selector).items;
        items
            .iter()
            .map(|o| o.typed().map_err(Status::internal))
            .collect()
    }

    /// Events after a resource version, as [`List::resource_version`] gives it.
    pub fn watch(&self, res: Res, ns: &str, selector: Selector, after: u64) -> Result<Watch> {
        let events = self.api.watch(res, ns, selector, after)?;
        Ok(Watch { events, res })
    }

    /// Everything there is, then everything that changes, without end: what a controller's queue is
    /// fed from. It lists again by itself when it fell behind.
    pub fn changes(&self, res: Res, ns: &str, selector: Selector) -> Changes {
        Changes::new(self.clone(), res, ns, selector)
    }

    /// Creates an object. `apiVersion` and `kind` may be left out.
    pub async fn create(&self, res: Res, ns: &str, object: Value) -> Result<Arc<Object>> {
        self.api.create(res, ns, object, &self.options()).await
    }

    /// Creates an object given as one of k8s-openapi's types.
    pub async fn create_as<T: Typed>(&self, ns: &str, object: &T) -> Result<Arc<Object>> {
        self.create(
            T::RESOURCE,
            ns,
            serde_json::to_value(object).map_err(Status::internal)?,
        )
        .await
    }

    /// Replaces an object but for its status. With `metadata.resourceVersion` only that version.
    pub async fn update(&self, res: Res, ns: &str, object: Value) -> Result<Arc<Object>> {
        self.api.update(res, ns, "", object, &self.options()).await
    }

    /// Replaces an object's status. With `metadata.resourceVersion` only that version's.
    pub async fn update_status(&self, res: Res, ns: &str, object: Value) -> Result<Arc<Object>> {
        self.api
            .update(res, ns, "status", object, &self.options())
            .await
    }

    /// Sets `status`, whatever version the object is at; writes nothing when it is so already.
    pub async fn set_status(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        status: Value,
    ) -> Result<Arc<Object>> {
        self.api
            .set_status(res, ns, name, status, &self.options())
            .await
    }

    /// Replaces `spec.finalizers` of a namespace, which nothing else may.
    pub async fn finalize_namespace(&self, object: Value) -> Result<Arc<Object>> {
        let options = self.options();
        self.api
            .update(&kinds::NAMESPACE, "", "finalize", object, &options)
            .await
    }

    /// Changes part of an object.
    pub async fn patch(&self, res: Res, ns: &str, name: &str, patch: Patch) -> Result<Arc<Object>> {
        self.api
            .patch(res, ns, name, "", &patch, &self.options())
            .await
    }

    /// Changes part of an object's status.
    pub async fn patch_status(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        patch: Patch,
    ) -> Result<Arc<Object>> {
        self.api
            .patch(res, ns, name, "status", &patch, &self.options())
            .await
    }

    /// Binds a pod to a node, as the scheduler does.
    pub async fn bind(&self, ns: &str, pod: &str, uid: &str, node: &str) -> Result<()> {
        self.api.bind(ns, pod, uid, node, &self.options()).await
    }

    /// Deletes an object, or marks it as being deleted where finalizers or a pod's grace say so.
    /// Returns its last state.
    pub async fn delete(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Object>> {
        self.api.delete(res, ns, name, options).await
    }

    /// The whole state as the text of a file: see [`crate::backup`].
    pub async fn backup(&self) -> Result<String> {
        let why = "this server has no keys to save: it makes no backups";
        let tls = self.api.config().tls.as_deref();
        let tls = tls.ok_or_else(|| Status::new(503, "ServiceUnavailable", why))?;
        let files = crate::backup::files(tls).map_err(Status::internal)?;
        let snapshot = self.api.snapshot().await?;
        Ok(crate::backup::encode(&crate::backup::Backup {
            snapshot,
            files,
        }))
    }

    /// Whether the store keeps what is written, or else why not.
    pub async fn check_store(&self) -> std::result::Result<(), String> {
        self.api.check_store().await
    }

    /// The kind that an object's `apiVersion` and `kind` name.
    pub fn kind_of(&self, object: &Value) -> Option<Res> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        let custom = || {
            let all = self.custom_kinds();
            let mut all = all.iter().copied();
            all.find(|r| r.kind == kind && r.api_version() == version)
        };
        kinds::find_kind(version, kind).or_else(custom)
    }

    /// The kinds that CustomResourceDefinitions declare, each in every version that is served.
    pub fn custom_kinds(&self) -> Arc<[Res]> {
        self.api.customs()
    }

    /// Every CustomResourceDefinition without its schemas.
    pub fn definitions(&self) -> Vec<Arc<Value>> {
        self.api.definitions()
    }

    /// One kind for each set of objects that is kept: the built-in ones, and a version of each
    /// custom one.
    pub fn every_kind(&self) -> Vec<Res> {
        let mut all: Vec<Res> = kinds::ALL.to_vec();
        for res in self.custom_kinds().iter().copied() {
            if all
                .iter()
                .all(|r| (r.group, r.plural) != (res.group, res.plural))
            {
                all.push(res);
            }
        }
        all
    }

    /// Everything that has a path.
    pub fn served(&self) -> Vec<Res> {
        let customs = self.custom_kinds();
        kinds::served().chain(customs.iter().copied()).collect()
    }

    /// The kind that a path names.
    pub fn find_kind(&self, group: &str, version: &str, plural: &str) -> Option<Res> {
        let custom = || {
            let all = self.custom_kinds();
            let mut all = all.iter().copied();
            all.find(|r| (r.group, r.version, r.plural) == (group, version, plural))
        };
        kinds::find(group, version, plural).or_else(custom)
    }
}

/// What a watch tells.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The object is new, or newly selected.
    Added(Arc<Object>),
    /// The object changed.
    Modified(Arc<Object>),
    /// The object is gone, or no longer selected; its last state, at the version of the event.
    Deleted(Arc<Object>),
}

impl WatchEvent {
    /// The object concerned.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Added(o) | Self::Modified(o) | Self::Deleted(o) => o,
        }
    }
}

impl From<Event> for WatchEvent {
    fn from(e: Event) -> Self {
        match (e.deleted, e.before) {
            (true, _) => Self::Deleted(e.after),
            (false, None) => Self::Added(e.after),
            (false, Some(_)) => Self::Modified(e.after),
        }
    }
}

/// Events of a kind.
pub struct Watch {
    events: crate::store::Watch,
    res: Res,
}

impl Watch {
    /// Waits for the next event; 410 when events were missed. Cancel safe.
    pub async fn next(&mut self) -> Result<WatchEvent> {
        let event = self.events.next().await.map_err(watch_status)?;
        let after = versions::shown(self.res, event.after);
        Ok(WatchEvent::from(Event { after, ..event }))
    }

    /// The version up to which everything was told, for a bookmark.
    pub fn position(&self) -> u64 {
        self.events.position()
    }
}

pub(super) fn watch_status(e: WatchError) -> Status {
    match e {
        WatchError::Expired { asked, oldest } => Status::expired(asked, oldest),
        WatchError::Closed => Status::new(503, "ServiceUnavailable", "the store is closed"),
    }
}

/// See [`Client::changes`].
pub struct Changes {
    client: Client,
    res: Res,
    ns: String,
    selector: Selector,
    watch: Option<Watch>,
    /// Told by a list and not yet returned, last first.
    pending: Vec<WatchEvent>,
    /// Everything told of as existing, by `namespace/name`.
    known: HashMap<(String, String), Arc<Object>>,
    listed: u64,
}

impl Changes {
    fn new(client: Client, res: Res, ns: &str, selector: Selector) -> Self {
        let (ns, pending, known) = (ns.to_owned(), Vec::new(), HashMap::new());
        let mut changes = Self {
            client,
            res,
            ns,
            selector,
            watch: None,
            pending,
            known,
            listed: 0,
        };
        changes.relist();
        changes
    }

    fn relist(&mut self) {
        let List {
            items,
            resource_version,
        } = self.client.list(self.res, &self.ns, &self.selector);
        let mut before = std::mem::take(&mut self.known);
        self.pending.clear();
        for o in items {
            let key = (o.namespace().to_owned(), o.name().to_owned());
            let event = match before.remove(&key) {
                None => Some(WatchEvent::Added(o.clone())),
                Some(old) if old.resource_version() == o.resource_version() => None,
                Some(_) => Some(WatchEvent::Modified(o.clone())),
            };
            self.pending.extend(event);
            self.known.insert(key, o);
        }
        self.pending
            .extend(before.into_values().map(WatchEvent::Deleted));
        self.pending.reverse();
        self.listed = resource_version;
        self.watch = None;
    }

    /// How many of the objects that existed at the start (or at the last listing) are still to be
    /// told; 0 means that the world is known.
    pub fn backlog(&self) -> usize {
        self.pending.len()
    }

    /// Waits for the next change. Cancel safe. `None` when the store is closed.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop() {
                return Some(event);
            }
            let Some(watch) = &mut self.watch else {
                match self
                    .client
                    .watch(self.res, &self.ns, self.selector.clone(), self.listed)
                {
                    Ok(w) => self.watch = Some(w),
                    Err(_) => self.relist(),
                }
                continue;
            };
            match watch.next().await {
                Ok(event) => {
                    self.remember(&event);
                    return Some(event);
                }
                Err(s) if s.code == 410 => self.relist(),
                Err(_) => return None,
            }
        }
    }

    fn remember(&mut self, event: &WatchEvent) {
        let o = event.object();
        let key = (o.namespace().to_owned(), o.name().to_owned());
        match event {
            WatchEvent::Deleted(_) => drop(self.known.remove(&key)),
            _ => drop(self.known.insert(key, o.clone())),
        }
    }
}
