//! Admission: what the cluster's own objects add to a request, or refuse of it. One file per plugin,
//! with Kubernetes' names.
//!
//! A request passes through all `mutate` in order after defaulting, is validated, and then through
//! all `check`. Both are pure reads of the store; [`guarded`] says which writes are made one at a
//! time, so that what `check` saw is still so when the object is written.

mod default_ingress_class;
mod default_storage_class;
mod limit_ranger;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;

use serde_json::Value;

use super::kinds;
use super::pipeline::Api;
use super::resource::Res;
use super::status::Result;
use crate::store::Selector;

pub(crate) use resource_quota::{source as quota_source, used as quota_used};

/// A write that waits to be admitted.
pub(super) struct Request<'a> {
    /// What there is.
    pub api: &'a Api,
    /// The kind.
    pub res: Res,
    /// Its namespace.
    pub ns: &'a str,
    /// What is replaced; `None` at creation.
    pub old: Option<&'a Value>,
}

type Mutate = fn(&Request<'_>, &mut Value) -> Result<()>;
type Check = fn(&Request<'_>, &Value) -> Result<()>;

/// One plugin.
pub(super) struct Plugin {
    /// Kubernetes' name of it.
    pub name: &'static str,
    /// Fills in what the cluster says.
    pub mutate: Mutate,
    /// Refuses.
    pub check: Check,
}

impl Plugin {
    const BASE: Self = Self {
        name: "",
        mutate: |_, _| Ok(()),
        check: |_, _| Ok(()),
    };
}

/// In Kubernetes' order of plugins: quota last, so that nothing refused is counted.
const PLUGINS: &[Plugin] = &[
    service_account::PLUGIN,
    limit_ranger::PLUGIN,
    priority::PLUGIN,
    default_storage_class::PLUGIN,
    runtime_class::PLUGIN,
    default_ingress_class::PLUGIN,
    resource_quota::PLUGIN,
];

/// Lets every plugin fill in.
pub(super) fn mutate(request: &Request<'_>, object: &mut Value) -> Result<()> {
    PLUGINS.iter().try_for_each(|p| {
        tracing::trace!(plugin = p.name, kind = request.res.kind, "admission");
        (p.mutate)(request, object)
    })
}

/// Lets every plugin refuse.
pub(super) fn check(request: &Request<'_>, object: &Value) -> Result<()> {
    PLUGINS.iter().try_for_each(|p| (p.check)(request, object))
}

/// Whether writes of this kind in this namespace are made one at a time.
pub(super) fn guarded(api: &Api, res: Res, ns: &str) -> bool {
    *res == kinds::SERVICE
        || (res.namespaced
            && !api
                .list(&kinds::RESOURCE_QUOTA, ns, &Selector::all())
                .items
                .is_empty())
}
