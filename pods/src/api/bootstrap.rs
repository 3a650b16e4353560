//! Objects that always exist.

use serde_json::json;

use super::client::Client;
use super::kinds;
use super::status::Result;

/// Namespaces that every Kubernetes has.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing; changes nothing that is there.
pub async fn objects(client: &Client) -> Result<()> {
    for name in NAMESPACES {
        if client.find(&kinds::NAMESPACE, "", name).is_none() {
            client
                .create(&kinds::NAMESPACE, "", json!({"metadata": {"name": name}}))
                .await?;
        }
    }
    Ok(())
}
