//! Objects that always exist.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::auth::roles;
use super::client::Client;
use super::kinds;
use super::resource::Res;
use super::status::Result;
use crate::controllers::aggregation;
use crate::controllers::volumes::LOCAL_PATH;

/// Namespaces that every Kubernetes has.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// What a cluster has from its first day: the classes that system pods name, and the class of
/// volumes that are directories of this machine.
fn classes() -> Vec<(Res, Value)> {
    let priority = |name: &str, value: i64| {
        let about = "Used for system critical pods that must run.";
        (
            &kinds::PRIORITY_CLASS as Res,
            json!({"metadata": {"name": name}, "value": value, "description": about}),
        )
    };
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let local = json!({"metadata": {"name": "local-path", "annotations": annotations},
        "provisioner": LOCAL_PATH, "volumeBindingMode": "WaitForFirstConsumer"});
    vec![
        priority("system-node-critical", 2_000_001_000),
        priority("system-cluster-critical", 2_000_000_000),
        (&kinds::STORAGE_CLASS, local),
    ]
}

/// Creates what is missing; changes nothing that is there.
pub async fn objects(client: &Client) -> Result<()> {
    for name in NAMESPACES {
        if client.find(&kinds::NAMESPACE, "", name).is_none() {
            client
                .create(&kinds::NAMESPACE, "", json!({"metadata": {"name": name}}))
                .await?;
        }
    }
    for (res, object) in classes() {
        missing(client, res, "", object).await?;
    }
    roles(client).await
}

/// The default roles and who has them. What was added to them stays.
async fn roles(client: &Client) -> Result<()> {
    for role in roles::cluster_roles() {
        missing(client, &kinds::CLUSTER_ROLE, "", role).await?;
    }
    for (name, groups) in roles::BINDINGS {
        let binding = roles::binding(name, groups);
        missing(client, &kinds::CLUSTER_ROLE_BINDING, "", binding).await?;
    }
    aggregation::settle(client).await
}

async fn missing(client: &Client, res: Res, ns: &str, object: Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if client.find(res, ns, name).is_none() {
        client.create(res, ns, object).await?;
    }
    Ok(())
}

/// The Service by which pods find the API: `kubernetes.default.svc`.
pub async fn service(client: &Client, address: Ipv4Addr) -> Result<()> {
    let service = json!({"metadata": {"name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": address.to_string(),
                 "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}});
    missing(client, &kinds::SERVICE, "default", service).await
}
