//! ResourceQuota: what is in use of each quota, for people; admission counts for itself.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::drive::{Controller, Key, Mapper, all_in_namespace, itself};
use crate::api::admission::{quota_source, quota_used};
use crate::api::{Client, Res, Status, kinds};
use crate::quantity::format_nano;
use crate::store::{Object, Selector};

/// See the module.
pub struct ResourceQuotas {
    client: Client,
}

impl ResourceQuotas {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("resourcequota-controller"),
        }
    }
}

/// The status that the quota should have. `list` gives all objects of a kind in its namespace.
pub fn status(quota: &Value, list: impl Fn(Res) -> Vec<std::sync::Arc<Object>>) -> Value {
    let hard = quota["spec"]["hard"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let mut used = Map::new();
    for name in hard.keys() {
        // A kind that is not served has no objects.
        let amount = quota_source(name).map_or(0, |res| quota_used(quota, res, name, &list(res)));
        used.insert(name.clone(), json!(format_nano(amount, name)));
    }
    json!({"hard": hard, "used": used})
}

fn quotas(client: &Client, object: &Object) -> Vec<Key> {
    all_in_namespace(client, &kinds::RESOURCE_QUOTA, object)
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        let others = kinds::ALL
            .iter()
            .copied()
            .filter(|r| r.namespaced && r.durable && **r != kinds::RESOURCE_QUOTA);
        let mut all: Vec<(Res, Mapper)> = vec![(&kinds::RESOURCE_QUOTA, itself)];
        all.extend(others.map(|r| (r, quotas as Mapper)));
        all
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(quota) = self.client.find(&kinds::RESOURCE_QUOTA, &key.0, &key.1) else {
            return Ok(None);
        };
        let list = |res: Res| self.client.list(res, &key.0, &Selector::all()).items;
        let status = status(quota.value(), list);
        if *quota.at("/status") != status {
            self.client
                .set_status(&kinds::RESOURCE_QUOTA, &key.0, &key.1, status)
                .await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_counted_from_the_objects() {
        let pod = |phase: &str| {
            Object::from_value(
                1,
                json!({"status": {"phase": phase}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "300m"}}}]}}),
            )
        };
        let quota = json!({"spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/deployments.apps": "1", "count/none": "1"}}});
        let list = |res: Res| match res.plural {
            "pods" => vec![pod("Running"), pod("Running"), pod("Succeeded")],
            _ => vec![],
        };
        let status = status(&quota, list);
        let expected = json!({"pods": "2", "requests.cpu": "600m", "count/deployments.apps": "0", "count/none": "0"});
        assert_eq!(status["used"], expected);
        assert_eq!(status["hard"], quota["spec"]["hard"]);
    }
}
