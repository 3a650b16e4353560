//! A container's environment: Services, envFrom, env, `$(VAR)`.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use super::sources::{Facts, Sources, config_map_data, field, resource, secret_data};

/// The environment in order, or why it cannot be made.
///
/// `services` are those whose addresses the container is to know.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: &[Service],
    sources: &impl Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let mut all = Ordered::default();
    let mut from_services = HashMap::new();
    for service in services {
        from_services.extend(service_variables(service));
    }
    from_files(container, sources, &mut all)?;
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match referred(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let raw = variable.value.as_deref().unwrap_or_default();
                expand(raw, |name| {
                    all.get(name).or_else(|| from_services.get(name)).cloned()
                })
            }
        };
        all.set(&variable.name, value);
    }
    // What the user says of a name holds against a Service's.
    let mut names: Vec<&String> = from_services.keys().collect();
    names.sort();
    let mut list: Vec<(String, String)> = names
        .into_iter()
        .filter(|name| all.get(name).is_none())
        .map(|name| (name.clone(), from_services[name].clone()))
        .collect();
    list.extend(all.list);
    Ok(list)
}

#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<&String> {
        self.index.get(name).map(|at| &self.list[*at].1)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

fn from_files(
    container: &Container,
    sources: &impl Sources,
    all: &mut Ordered,
) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data = if let Some(r) = &from.config_map_ref {
            match sources.config_map(&r.name) {
                Some(map) => config_map_data(&map),
                None if r.optional == Some(true) => continue,
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        } else if let Some(r) = &from.secret_ref {
            match sources.secret(&r.name) {
                Some(secret) => secret_data(&secret),
                None if r.optional == Some(true) => continue,
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        } else {
            BTreeMap::new()
        };
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            if !name.is_empty() && !name.contains('=') {
                all.set(&name, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
    Ok(())
}

/// The value that a `valueFrom` refers to; `None` where it is optional and absent.
fn referred(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &impl Sources,
    facts: &Facts,
) -> Result<Option<String>, String> {
    if let Some(r) = &source.field_ref {
        let value = field(pod, facts, &r.field_path);
        let unknown = || format!("unsupported fieldPath: {}", r.field_path);
        return value.map(Some).ok_or_else(unknown);
    }
    if let Some(r) = &source.resource_field_ref {
        let of = match &r.container_name {
            Some(name) => super::memory::every_container(pod)
                .into_iter()
                .find(|c| c.name == *name)
                .ok_or_else(|| format!("container {name} not found"))?,
            None => container.clone(),
        };
        let divisor = r.divisor.as_ref().map(|q| q.0.as_str());
        let unknown = || format!("unsupported container resource: {}", r.resource);
        return resource(&of, facts, &r.resource, divisor)
            .map(Some)
            .ok_or_else(unknown);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (kind, name, key, optional, data) = if let Some(r) = &source.config_map_key_ref {
        let data = sources.config_map(&r.name).map(|map| config_map_data(&map));
        ("ConfigMap", &r.name, &r.key, r.optional, data)
    } else if let Some(r) = &source.secret_key_ref {
        let data = sources.secret(&r.name).map(|secret| secret_data(&secret));
        ("Secret", &r.name, &r.key, r.optional, data)
    } else {
        return Err("a valueFrom without a source".to_owned());
    };
    let optional = optional == Some(true);
    match data {
        None if optional => Ok(None),
        None => Err(format!("{} \"{name}\" not found", kind.to_lowercase())),
        Some(data) => match data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {key} in {kind} {namespace}/{name}"
            )),
        },
    }
}

/// Replaces `$(NAME)` by the value of a name that is known; `$$` stands for one dollar sign.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Expands a list of arguments against an environment.
pub fn expand_all(list: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let value = |name: &str| {
        let found = env.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    list.into_iter()
        .flatten()
        .map(|text| expand(text, value))
        .collect()
}

/// The variables that tell of a Service: `WEB_SERVICE_HOST`, and Docker's link variables.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let Some(ip) = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None") else {
        return vec![];
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let mut all = vec![(format!("{name}_SERVICE_HOST"), ip.clone())];
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.clone()
    };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = port.port;
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if index == 0 {
            all.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            all.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.push((
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                number.to_string(),
            ));
        }
        let prefix = format!("{name}_PORT_{number}_{protocol}");
        all.push((prefix.clone(), url));
        all.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{prefix}_PORT"), number.to_string()));
        all.push((format!("{prefix}_ADDR"), ip.clone()));
    }
    all
}

/// Whether a container of a pod in `namespace` is told of this Service: those of its own namespace
/// unless it does not want them, and the API's own.
pub fn is_told_of(pod: &Pod, service: &Service) -> bool {
    let own = service.metadata.namespace == pod.metadata.namespace;
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let api = service.metadata.namespace.as_deref() == Some("default")
        && service.metadata.name.as_deref() == Some("kubernetes");
    (own && links) || api
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    struct Fixed;

    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<ConfigMap> {
            let map = json!({"data": {"color": "blue", "size": "5"}});
            (name == "there").then(|| serde_json::from_value(map).unwrap())
        }
        fn secret(&self, name: &str) -> Option<Secret> {
            let secret = json!({"data": {"key": "czNjcmV0"}});
            (name == "there").then(|| serde_json::from_value(secret).unwrap())
        }

        fn token(&self, _: &Pod, _: &str, _: i64) -> Result<String, String> {
            Err("none here".into())
        }
    }

    fn env(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"containers": []}}))
        .unwrap();
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-web", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}}))
        .unwrap();
        let facts = Facts {
            pod_ips: vec!["10.1.2.3".into()],
            ..Facts::default()
        };
        let container: Container = serde_json::from_value(container).unwrap();
        environment(&pod, &container, &[service], &Fixed, &facts)
    }

    fn get<'a>(env: &'a [(String, String)], name: &str) -> &'a str {
        &env.iter().find(|(key, _)| key == name).unwrap().1
    }

    #[test]
    fn every_source_and_expansion() {
        let all = env(json!({"name": "c",
            "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "there"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(P_color)-$(UNKNOWN)-$$(A)-$(MY_WEB_SERVICE_HOST)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "there", "key": "key"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "there", "key": "x", "optional": true}}}
            ]}))
        .unwrap();
        assert_eq!(get(&all, "B"), "1-blue-$(UNKNOWN)-$(A)-10.96.0.9");
        assert_eq!(get(&all, "IP"), "10.1.2.3");
        assert_eq!(get(&all, "LABEL"), "b");
        assert_eq!(get(&all, "CPU"), "2");
        assert_eq!(get(&all, "MEM"), "64");
        assert_eq!(get(&all, "SECRET"), "s3cret");
        assert_eq!(get(&all, "MY_WEB_PORT_80_TCP_ADDR"), "10.96.0.9");
        assert_eq!(get(&all, "MY_WEB_SERVICE_PORT_HTTP"), "80");
        assert!(!all.iter().any(|(name, _)| name == "GONE"));
    }

    #[test]
    fn what_is_missing_is_told_by_name() {
        let missing = json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "there", "key": "nope"}}}]});
        assert_eq!(
            env(missing).unwrap_err(),
            "couldn't find key nope in Secret ns/there"
        );
        let gone = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]});
        assert_eq!(env(gone).unwrap_err(), "configmap \"gone\" not found");
    }
}
