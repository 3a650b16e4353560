//! Which endpoints a request goes to, as data made from the objects.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressServiceBackend,
};

use super::certs::Certs;
use crate::controllers::endpoints::SERVICE_NAME;
use crate::proxy::backends;

/// The controller of the classes that are served here.
pub const CONTROLLER: &str = "rrun.io/ingress";
/// The annotation that named a class before there was a field.
const OLD: &str = "kubernetes.io/ingress.class";

/// Where requests go.
#[derive(Debug)]
pub struct Target {
    /// `namespace/service:port`, for people.
    pub name: String,
    /// Ready endpoints; without one the answer is 503.
    pub endpoints: Vec<SocketAddr>,
    next: AtomicUsize,
}

impl Target {
    /// The endpoints, another one first each time.
    pub fn choose(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let all = &self.endpoints;
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        (0..all.len()).map(move |i| all[start.wrapping_add(i) % all.len()])
    }
}

/// A path of a host.
#[derive(Debug, Clone)]
pub struct Route {
    /// Without the slash at its end.
    path: String,
    exact: bool,
    /// Where it leads.
    pub target: Arc<Target>,
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        if self.exact {
            return self.path == path;
        }
        let rest = path.strip_prefix(self.path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What is known of a host.
#[derive(Debug, Default)]
struct Host {
    /// The one that counts first.
    routes: Vec<Route>,
    /// For what no route matches.
    default: Option<Arc<Target>>,
}

/// Everything that is served.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<String, Host>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Host>,
    /// Rules without a host.
    any: Host,
    /// Certificates.
    pub certs: Certs,
    /// What could not be used: namespace and name of the Ingress, and why.
    pub faults: Vec<(String, String, String)>,
}

/// What the table is made of.
#[derive(Debug, Default)]
pub struct Objects {
    /// Those that are served.
    pub ingresses: Vec<Ingress>,
    /// All.
    pub services: Vec<Service>,
    /// All.
    pub slices: Vec<EndpointSlice>,
    /// Those that the ingresses name, by namespace and name.
    pub secrets: BTreeMap<(String, String), Secret>,
}

/// Whether an Ingress is ours to serve: by its class, or because it names none.
pub fn is_ours(ingress: &Ingress, classes: &[IngressClass]) -> bool {
    let spec = ingress.spec.as_ref();
    let annotations = ingress.metadata.annotations.as_ref();
    let named = spec.and_then(|s| s.ingress_class_name.as_ref());
    let named = named.or_else(|| annotations.and_then(|a| a.get(OLD)));
    let Some(named) = named else { return true };
    classes.iter().any(|class| {
        let controller = class.spec.as_ref().and_then(|s| s.controller.as_deref());
        class.metadata.name.as_ref() == Some(named) && controller == Some(CONTROLLER)
    })
}

struct Builder<'a> {
    objects: &'a Objects,
    slices: BTreeMap<(String, String), Vec<&'a EndpointSlice>>,
    /// One for each backend, so that its turn goes round over all paths.
    targets: BTreeMap<String, Arc<Target>>,
    table: Table,
}

impl Table {
    /// From the objects. Of two rules for the same, the older Ingress's counts.
    pub fn build(objects: &Objects) -> Self {
        let mut slices: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in &objects.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|l| l.get(SERVICE_NAME)) {
                let namespace = slice.metadata.namespace.clone().unwrap_or_default();
                let key = (namespace, service.clone());
                slices.entry(key).or_default().push(slice);
            }
        }
        let mut builder = Builder {
            objects,
            slices,
            targets: BTreeMap::new(),
            table: Self::default(),
        };
        let mut ingresses: Vec<&Ingress> = objects.ingresses.iter().collect();
        ingresses.sort_by_key(|i| {
            let meta = &i.metadata;
            let since = meta.creation_timestamp.as_ref().map(|t| t.0);
            (since, meta.namespace.clone(), meta.name.clone())
        });
        for ingress in ingresses {
            builder.add(ingress);
        }
        let mut table = builder.table;
        let hosts = table.exact.values_mut().chain(table.wildcard.values_mut());
        for host in hosts.chain([&mut table.any]) {
            // Longest first, of the same length the exact one; the sort keeps the older first.
            host.routes
                .sort_by_key(|r| std::cmp::Reverse((r.path.len(), r.exact)));
        }
        table
    }

    /// Where a request goes. `host` without a port, in lower case; `path` as it was sent.
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Target>> {
        let wild = || {
            let (first, rest) = host.split_once('.')?;
            (!first.is_empty()).then(|| self.wildcard.get(rest))?
        };
        let known = self.exact.get(host).or_else(wild);
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        let found = |host: &'_ Host| -> Option<usize> {
            host.routes
                .iter()
                .position(|r| r.matches(if r.exact { path } else { trimmed }))
        };
        if let Some(host) = known {
            let route = found(host).map(|i| &host.routes[i].target);
            if route.or(host.default.as_ref()).is_some() {
                return route.or(host.default.as_ref());
            }
        }
        let route = found(&self.any).map(|i| &self.any.routes[i].target);
        route.or(self.any.default.as_ref())
    }
}

impl Builder<'_> {
    fn add(&mut self, ingress: &Ingress) {
        let spec = ingress.spec.clone().unwrap_or_default();
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        let name = ingress.metadata.name.clone().unwrap_or_default();
        let fault = |why: String, table: &mut Table| {
            table.faults.push((namespace.clone(), name.clone(), why));
        };
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_ref().filter(|s| !s.is_empty()) else {
                continue;
            };
            let key = (namespace.clone(), secret.clone());
            let found = self.objects.secrets.get(&key);
            let hosts = tls.hosts.clone().unwrap_or_default();
            if let Err(why) = self.table.certs.add(found, &hosts) {
                fault(format!("Secret {secret}: {why}"), &mut self.table);
            }
        }
        let default = spec.default_backend.as_ref();
        let default = default.map(|backend| self.target(&namespace, backend));
        let default = match default {
            Some(Err(why)) => {
                fault(why, &mut self.table);
                None
            }
            Some(Ok(target)) => Some(target),
            None => None,
        };
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.clone().unwrap_or_default().to_lowercase();
            let mut routes = Vec::new();
            for path in rule.http.iter().flat_map(|h| &h.paths) {
                match self.target(&namespace, &path.backend) {
                    Ok(target) => routes.push(route(path, target)),
                    Err(why) => fault(why, &mut self.table),
                }
            }
            let known = self.host(&host);
            known.routes.extend(routes);
            if !host.is_empty() && known.default.is_none() {
                known.default.clone_from(&default);
            }
        }
        if self.table.any.default.is_none() {
            self.table.any.default = default;
        }
    }

    fn host(&mut self, host: &str) -> &mut Host {
        if host.is_empty() {
            return &mut self.table.any;
        }
        match host.strip_prefix("*.") {
            Some(rest) => self.table.wildcard.entry(rest.to_owned()).or_default(),
            None => self.table.exact.entry(host.to_owned()).or_default(),
        }
    }

    /// A Service that is not there is a target without endpoints: it may come.
    fn target(&mut self, namespace: &str, backend: &IngressBackend) -> Result<Arc<Target>, String> {
        let Some(service) = &backend.service else {
            return Err("a backend that is no Service is not served".to_owned());
        };
        let port = service.port.clone().unwrap_or_default();
        let port = match (port.name.as_deref().unwrap_or_default(), port.number) {
            ("", number) => number.unwrap_or(0).to_string(),
            (name, _) => name.to_owned(),
        };
        let name = format!("{namespace}/{}:{port}", service.name);
        if let Some(known) = self.targets.get(&name) {
            return Ok(known.clone());
        }
        let endpoints = self.endpoints(namespace, service);
        let target = Arc::new(Target {
            name: name.clone(),
            endpoints,
            next: AtomicUsize::new(0),
        });
        self.targets.insert(name, target.clone());
        Ok(target)
    }

    fn endpoints(&self, namespace: &str, backend: &IngressServiceBackend) -> Vec<SocketAddr> {
        let found = self.objects.services.iter().find(|s| {
            s.metadata.namespace.as_deref() == Some(namespace)
                && s.metadata.name.as_ref() == Some(&backend.name)
        });
        let wanted = backend.port.clone().unwrap_or_default();
        let ports = found.and_then(|s| s.spec.as_ref()?.ports.as_ref());
        let port = ports.into_iter().flatten().find(|p| {
            let named = wanted.name.as_ref().is_some_and(|n| !n.is_empty());
            if named {
                p.name == wanted.name
            } else {
                Some(p.port) == wanted.number
            }
        });
        let Some(port) = port else { return Vec::new() };
        let key = (namespace.to_owned(), backend.name.clone());
        let slices = self.slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        let name = port.name.as_deref().unwrap_or_default();
        // One family is enough, and the pods have IPv4 first.
        let four = backends(slices, name, false);
        let all = if four.is_empty() {
            backends(slices, name, true)
        } else {
            four
        };
        all.iter().map(|b| SocketAddr::new(b.ip, b.port)).collect()
    }
}

fn route(path: &HTTPIngressPath, target: Arc<Target>) -> Route {
    let exact = path.path_type == "Exact";
    let text = path.path.clone().unwrap_or_default();
    let text = if exact {
        text
    } else {
        text.strip_suffix('/').unwrap_or(&text).to_owned()
    };
    Route {
        path: text,
        exact,
        target,
    }
}
