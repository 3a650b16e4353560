//! The verbs: what happens to an object between the request and the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission;
use super::allocate::{self, Cidr};
use super::auth::Tokens;
use super::certificates;
use super::client::{Patch, WriteOptions, watch_status};
use super::custom;
use super::decode;
use super::delete;
use super::fields::{self, Applied};
use super::kinds;
use super::meta;
use super::own::{OWN, admit_new, changed_beside_meta, keep, typed, with_status};
use super::patch;
use super::podparts;
use super::resource::Res;
use super::status::{Cause, Result, Status};
use super::validate::{self, Faults};
use super::versions;
use crate::store::{Expect, Key, List, Object, Selector, Store, Watch, Write, WriteError};

/// How often a change without a resource version is tried against the newest one.
pub(super) const RETRIES: usize = 8;

/// The API without a face.
pub(super) struct Api {
    store: Store,
    config: Config,
    customs: custom::Registry,
    /// Held around writes that must not be made at once: addresses, quotas.
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// What the API needs to know of the machine.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Addresses for Services.
    pub service_cidr: Cidr,
    /// Makes and checks tokens of ServiceAccounts; without it there are none.
    pub tokens: Option<Arc<Tokens>>,
    /// The certificate of the authority, PEM, for pods.
    pub authority: String,
    /// The directory of keys and certificates, for a backup; without it there is none.
    pub tls: Option<std::path::PathBuf>,
}

fn key(res: Res, ns: &str, name: &str) -> Key {
    Key::new(&res.kept_as().qualified(), ns, name)
}

impl Api {
    pub fn new(store: Store, config: Config) -> Self {
        Self {
            store,
            config,
            customs: custom::Registry::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Everything that survives a restart, at one instant.
    pub async fn snapshot(&self) -> Result<crate::store::Snapshot> {
        let taken = self.store.snapshot().await;
        taken.map_err(|e| Status::internal(format!("store: {e}")))
    }

    /// Whether the store keeps what is written, or else why not.
    pub async fn check_store(&self) -> std::result::Result<(), String> {
        self.store.check().await.map_err(|e| e.to_string())
    }

    pub fn resource_version(&self) -> u64 {
        self.store.resource_version()
    }

    pub fn get(&self, res: Res, ns: &str, name: &str) -> Result<Arc<Object>> {
        let found = self.store.get(&key(res, ns, name));
        found
            .map(|o| versions::shown(res, o))
            .ok_or_else(|| Status::not_found(res, name))
    }

    pub fn list(&self, res: Res, ns: &str, selector: &Selector) -> List {
        let kept = res.kept_as().qualified();
        let mut list = match res.version_of {
            None => self.store.list(&kept, ns, selector),
            Some(_) => {
                let selector = versions::selector(res, selector.clone());
                self.store.list(&kept, ns, &selector)
            }
        };
        if res.custom.is_some() || res.version_of.is_some() {
            let all = list.items.into_iter();
            list.items = all.map(|o| versions::shown(res, o)).collect();
        }
        list
    }

    /// The definitions without their schemas.
    pub fn definitions(&self) -> Vec<Arc<Value>> {
        self.customs.outlines(&self.store)
    }

    /// The kinds that CustomResourceDefinitions declare.
    pub fn customs(&self) -> Arc<[Res]> {
        self.customs.all(&self.store)
    }

    pub fn watch(&self, res: Res, ns: &str, selector: Selector, after: u64) -> Result<Watch> {
        let selector = versions::selector(res, selector);
        self.store
            .watch(&res.kept_as().qualified(), ns, selector, after)
            .map_err(watch_status)
    }

    /// Writes an object, or removes it (`None`).
    pub(super) async fn put(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        expect: Expect,
        value: Option<Value>,
    ) -> Result<Arc<Object>> {
        self.write(res, key(res, ns, name), expect, value).await
    }

    async fn write(
        &self,
        res: Res,
        key: Key,
        expect: Expect,
        value: Option<Value>,
    ) -> Result<Arc<Object>> {
        let name = key.path.rsplit('/').next().unwrap_or_default().to_owned();
        let durable = res.kept_as().durable;
        let value = value.map(|v| versions::kept(res, v));
        self.store
            .write(Write {
                key,
                expect,
                value,
                durable,
            })
            .await
            .map(|o| versions::shown(res, o))
            .map_err(|e| match e {
                WriteError::Exists => Status::already_exists(res, &name),
                WriteError::Missing => Status::not_found(res, &name),
                WriteError::Stale => Status::stale(res, &name),
                WriteError::Disk(e) => Status::internal(format!("store: {e}")),
                WriteError::Closed => Status::new(503, "ServiceUnavailable", "the store is closed"),
            })
    }

    pub async fn create(
        &self,
        res: Res,
        ns: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>> {
        typed(res, &mut object)?;
        decode::object(res, &mut object, options)?;
        if !options.applies
            && let Some(m) = meta::of(&mut object)
        {
            // Nothing is tracked before the first apply.
            m.remove("managedFields");
        }
        let (ns, name) = admit_new(res, ns, &mut object)?;
        self.check_namespace(res, &ns, &name)?;
        self.check_definition(res)?;
        (res.prepare)(&mut object);
        res.fill(&mut object);
        let request = admission::Request {
            api: self,
            res,
            ns: &ns,
            old: None,
        };
        admission::mutate(&request, &mut object)?;
        res.fill(&mut object);
        let _alone = self.lock(res, &ns).await;
        let mut faults = Faults::default();
        self.allocate(res, None, &mut object, &mut faults);
        validate::meta::check(&object, res.name_rule, &mut faults);
        res.check(&object, &mut faults);
        if *res == kinds::POD && !object["spec"]["ephemeralContainers"].is_null() {
            faults.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        refuse(res, &name, faults)?;
        admission::check(&request, &object)?;
        if options.dry_run {
            return match self.get(res, &ns, &name) {
                Ok(_) => Err(Status::already_exists(res, &name)),
                Err(_) => Ok(Object::from_value(0, object)),
            };
        }
        self.write(res, key(res, &ns, &name), Expect::Absent, Some(object))
            .await
    }

    /// Addresses and places of a quota are given out under a lock; the rest needs none.
    async fn lock(&self, res: Res, ns: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if admission::guarded(self, res, ns) {
            Some(self.one_at_a_time.lock().await)
        } else {
            None
        }
    }

    /// A namespace must be there, and not be going, for something new to be put into it.
    fn check_namespace(&self, res: Res, ns: &str, name: &str) -> Result<()> {
        if !res.namespaced {
            return Ok(());
        }
        let found = self.get(&kinds::NAMESPACE, "", ns)?;
        if !found.is_deleting() {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {ns} because it is being terminated"
        );
        let mut status = Status::forbidden(res, name, &why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {ns} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        Err(status)
    }

    /// Nothing is added to a kind whose definition is going.
    fn check_definition(&self, res: Res) -> Result<()> {
        let definition = &kinds::CUSTOM_RESOURCE_DEFINITION;
        let going = res.custom.is_some()
            && self
                .get(definition, "", &res.qualified())
                .is_ok_and(|d| d.is_deleting());
        if going {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::new(405, "MethodNotAllowed", why));
        }
        Ok(())
    }

    pub async fn update(
        &self,
        res: Res,
        ns: &str,
        sub: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>> {
        typed(res, &mut object)?;
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let asked = object["metadata"]["resourceVersion"]
            .as_str()
            .filter(|v| !v.is_empty())
            .map(str::to_owned);
        self.change(res, ns, &name, sub, options, |old| {
            if asked
                .as_ref()
                .is_some_and(|v| *v != old.resource_version().to_string())
            {
                return Err(Status::stale(res, &name));
            }
            Ok(object.clone())
        })
        .await
    }

    pub async fn set_status(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        status: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>> {
        self.change(res, ns, name, "status", options, |old| {
            let mut new = old.value().clone();
            new["status"] = status.clone();
            Ok(new)
        })
        .await
    }

    pub async fn patch(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        sub: &str,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Arc<Object>> {
        if let Patch::Apply { object, force } = patch {
            return self
                .apply(res, (ns, name, sub), object.clone(), *force, options)
                .await;
        }
        self.change(res, ns, name, sub, options, |old| {
            let new = patch::apply(res, old.value(), patch)?;
            let asked = new["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default();
            if !asked.is_empty() && *asked != old.resource_version().to_string() {
                return Err(Status::stale(res, name));
            }
            Ok(new)
        })
        .await
    }

    /// Server-side apply; creates what does not exist.
    async fn apply(
        &self,
        res: Res,
        (ns, name, sub): (&str, &str, &str),
        mut wanted: Value,
        force: bool,
        options: &WriteOptions,
    ) -> Result<Arc<Object>> {
        typed(res, &mut wanted)?;
        decode::object(res, &mut wanted, options)?;
        let manager = options.field_manager.clone().unwrap_or_default();
        let named = wanted["metadata"]["name"].as_str().unwrap_or(name);
        if named != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({name})"
            )));
        }
        wanted["metadata"]["name"] = json!(name);
        let version = wanted["metadata"]["resourceVersion"]
            .as_str()
            .map(str::to_owned);
        let options = WriteOptions {
            applies: true,
            ..options.clone()
        };
        let applied = Applied {
            manager: &manager,
            sub,
            wanted: &wanted,
            force,
        };
        for _ in 0..RETRIES {
            if self.get(res, ns, name).is_err_and(|s| s.is_not_found()) && sub.is_empty() {
                let object = fields::apply(res, None, &applied)?;
                match self.create(res, ns, object, &options).await {
                    Err(s) if s.is_already_exists() => continue,
                    other => return other,
                }
            }
            return self
                .change(res, ns, name, sub, &options, |old| {
                    if version
                        .as_ref()
                        .is_some_and(|v| *v != old.resource_version().to_string())
                    {
                        return Err(Status::stale(res, name));
                    }
                    fields::apply(res, Some(old.value()), &applied)
                })
                .await;
        }
        Err(Status::stale(res, name))
    }

    /// Reads, changes and writes, again when somebody else was faster.
    pub(super) async fn change(
        &self,
        res: Res,
        ns: &str,
        name: &str,
        sub: &str,
        options: &WriteOptions,
        edit: impl Fn(&Object) -> Result<Value>,
    ) -> Result<Arc<Object>> {
        // A status takes no place of a quota.
        let _alone = match sub {
            "status" => None,
            _ => self.lock(res, ns).await,
        };
        for _ in 0..RETRIES {
            let old = self.get(res, ns, name)?;
            let mut new = self.prepare_update(res, sub, &old, edit(&old)?, options)?;
            if !options.applies {
                let manager = options.field_manager.as_deref().unwrap_or_default();
                fields::track(res, sub, manager, old.value(), &mut new);
            }
            if new == *old.value() {
                return Ok(old);
            }
            if options.dry_run {
                return Ok(Object::from_value(old.resource_version(), new));
            }
            let expect = Expect::Version(old.resource_version());
            let gone = delete::done(res, &new);
            match self
                .put(res, ns, name, expect, (!gone).then_some(new))
                .await
            {
                Err(s) if s.is_conflict() => {}
                other => return other,
            }
        }
        Err(Status::stale(res, name))
    }

    /// What an update may not change stays; what it must change does.
    fn prepare_update(
        &self,
        res: Res,
        sub: &str,
        old: &Object,
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        let was = old.value();
        decode::object(res, &mut new, options)?;
        if sub == "status" {
            return prepare_status(res, old, new, options);
        }
        let part = podparts::is_part(sub);
        if part {
            new = podparts::take(sub, was, &new);
        }
        if sub == "approval" {
            new = certificates::decide(was, &new);
        }
        let mut faults = Faults::default();
        validate::meta::check_update(was, &new, &mut faults);
        keep_unchanged(res, sub, was, &mut new)?;
        res.fill(&mut new);
        let request = admission::Request {
            api: self,
            res,
            ns: old.namespace(),
            old: Some(was),
        };
        admission::mutate(&request, &mut new)?;
        self.allocate(res, Some(was), &mut new, &mut faults);
        if res.generation && changed_beside_meta(res, was, &new) {
            let generation = old.int_at("/metadata/generation").unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(generation);
        }
        validate::meta::check(&new, res.name_rule, &mut faults);
        res.check(&new, &mut faults);
        if part {
            podparts::check(sub, was, &new, &mut faults);
        } else {
            (res.validate_update)(was, &new, &mut faults);
        }
        refuse(res, old.name(), faults)?;
        admission::check(&request, &new)?;
        Ok(new)
    }

    /// Gives a Service its addresses and ports.
    fn allocate(&self, res: Res, was: Option<&Value>, new: &mut Value, faults: &mut Faults) {
        if *res == kinds::SERVICE {
            let others = self.list(res, "", &Selector::all()).items;
            allocate::service(self.config.service_cidr, &others, was, new, faults);
        }
    }
}

fn refuse(res: Res, name: &str, faults: Faults) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(res, name, faults.into_causes()))
}

/// An update of the status changes nothing else.
fn prepare_status(res: Res, old: &Object, new: Value, options: &WriteOptions) -> Result<Value> {
    let was = old.value();
    let mut new = with_status(was, new, options.applies);
    if *res == kinds::CERTIFICATE_SIGNING_REQUEST {
        certificates::check_status(was, &new)?;
    }
    if res.custom.is_some() {
        res.fill(&mut new);
        let mut faults = Faults::default();
        res.check(&new, &mut faults);
        refuse(res, old.name(), faults)?;
    }
    Ok(new)
}

/// What is the server's own, and what the path is not for.
fn keep_unchanged(res: Res, sub: &str, was: &Value, new: &mut Value) -> Result<()> {
    let Some(m) = meta::of(new) else {
        return Err(Status::bad_request("metadata is not an object"));
    };
    for field in OWN {
        match was["metadata"].get(*field) {
            Some(v) => drop(m.insert((*field).into(), v.clone())),
            None => drop(m.remove(*field)),
        }
    }
    if sub.is_empty() {
        if res.has_status {
            keep(new, was, "status");
        }
        versions::keep_own_annotations(res, was, new);
    }
    let asked = *res == kinds::CERTIFICATE_SIGNING_REQUEST;
    if asked || *res == kinds::NAMESPACE && sub != "finalize" {
        keep(new, was, "spec");
    }
    Ok(())
}
