//! ServiceAccount: a pod has an account, and a volume with what it needs to ask the API.

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::auth::token::POD_SECONDS;
use crate::api::status::{Result, Status};
use crate::api::validate::text;
use crate::api::{kinds, meta};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ServiceAccount",
    mutate,
    ..Plugin::BASE
};

/// Where programs look for it.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PREFIX: &str = "kube-api-access-";

fn mutate(request: &Request<'_>, pod: &mut Value) -> Result<()> {
    // Without a key there are no tokens, and nothing to mount.
    let keyed = request.api.config().tokens.is_some();
    if *request.res != kinds::POD || request.old.is_some() || !keyed {
        return Ok(());
    }
    let name = text(&pod["spec"], "serviceAccountName").to_owned();
    let found = request.api.get(&kinds::SERVICE_ACCOUNT, request.ns, &name);
    let account = match found {
        Ok(account) => account,
        // A namespace's default account is made a moment after the namespace.
        Err(_) if name == "default" => {
            mount(pod);
            return Ok(());
        }
        Err(_) => {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
                request.ns
            );
            return Err(Status::forbidden(
                &kinds::POD,
                text(&pod["metadata"], "name"),
                &why,
            ));
        }
    };
    let spec = &mut pod["spec"];
    let own = account.at("/imagePullSecrets");
    if spec["imagePullSecrets"]
        .as_array()
        .is_none_or(Vec::is_empty)
        && own.is_array()
    {
        spec["imagePullSecrets"] = own.clone();
    }
    let wanted = spec["automountServiceAccountToken"]
        .as_bool()
        .or(account.at("/automountServiceAccountToken").as_bool());
    if wanted != Some(false) {
        mount(pod);
    }
    Ok(())
}

/// Adds the volume, and a mount in each container that has none of its own there.
fn mount(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let volumes = spec["volumes"].as_array();
    let known = volumes
        .into_iter()
        .flatten()
        .map(|v| text(v, "name"))
        .find(|name| name.starts_with(PREFIX));
    let name = known.map_or_else(|| meta::generate_name(PREFIX), str::to_owned);
    let fresh = known.is_none();
    let mut used = false;
    for list in ["initContainers", "containers"] {
        // Not by index, which would leave a null where there was nothing.
        let all = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in all.into_iter().flatten() {
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            let Some(mounts) = container["volumeMounts"].as_array_mut() else {
                continue;
            };
            if mounts.iter().all(|m| text(m, "mountPath") != MOUNT) {
                mounts.push(json!({"name": name, "mountPath": MOUNT, "readOnly": true}));
                used = true;
            }
        }
    }
    if !used || !fresh {
        return;
    }
    if !spec["volumes"].is_array() {
        spec["volumes"] = json!([]);
    }
    let namespace = json!([{"path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]);
    let authority =
        json!({"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": POD_SECONDS, "path": "token"}},
        {"configMap": authority},
        {"downwardAPI": {"items": namespace}},
    ]);
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes
            .push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": sources}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_the_mount_once() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}]}});
        mount(&mut pod);
        mount(&mut pod);
        let spec = &pod["spec"];
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert!(spec.get("initContainers").is_none(), "no null is left");
        let name = &spec["volumes"][0]["name"];
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], *name);
        assert_eq!(
            spec["containers"][0]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}
