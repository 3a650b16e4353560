//! ClusterRoles with an `aggregationRule`: their rules are those of the roles that it selects.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::drive::{Controller, Key, Mapper};
use crate::api::kinds::CLUSTER_ROLE as ROLE;
use crate::api::validate::items;
use crate::api::{Client, Patch, Res, Status};
use crate::store::{Object, Selector};

/// Roles gather roles that gather roles: after so many rounds a chain is followed to its end.
const ROUNDS: usize = 8;

/// The rules that a role should have, where they are others than it has.
pub fn rules(role: &Value, all: &[Arc<Object>]) -> Option<Vec<Value>> {
    let selectors: Vec<Selector> = items(&role["aggregationRule"]["clusterRoleSelectors"])
        .filter_map(|(_, s)| Selector::from_label_selector(s).ok().flatten())
        .collect();
    if role["aggregationRule"].is_null() {
        return None;
    }
    let mut wanted: Vec<Value> = Vec::new();
    for other in all {
        let selected = selectors.iter().any(|s| s.matches(other.value()));
        if !selected || role["metadata"]["name"] == other.name() {
            continue;
        }
        for (_, rule) in items(other.at("/rules")) {
            if !wanted.contains(rule) {
                wanted.push(rule.clone());
            }
        }
    }
    // In whatever order: roles that gather each other would be written for ever.
    let has: Vec<&Value> = items(&role["rules"]).map(|(_, r)| r).collect();
    let same = has.len() == wanted.len() && has.iter().all(|rule| wanted.contains(*rule));
    (!same).then_some(wanted)
}

async fn gather(client: &Client, role: &Object) -> Result<bool, Status> {
    let all = client.list(&ROLE, "", &Selector::all()).items;
    let Some(rules) = rules(role.value(), &all) else {
        return Ok(false);
    };
    let version = role.resource_version().to_string();
    let patch = json!({"rules": rules, "metadata": {"resourceVersion": version}});
    client
        .patch(&ROLE, "", role.name(), Patch::Merge(patch))
        .await?;
    Ok(true)
}

/// Gathers for every role, before anybody asks what they may do.
pub async fn settle(client: &Client) -> Result<(), Status> {
    for _ in 0..ROUNDS {
        let mut changed = false;
        for role in client.list(&ROLE, "", &Selector::all()).items {
            changed |= gather(client, &role).await?;
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

/// See the module.
pub struct Aggregation {
    client: Client,
}

impl Aggregation {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("clusterrole-aggregation-controller"),
        }
    }
}

/// Any role may be one that others gather.
fn gatherers(client: &Client, _: &Object) -> Vec<Key> {
    let all = client.list(&ROLE, "", &Selector::all()).items;
    let gathering = all.iter().filter(|r| !r.at("/aggregationRule").is_null());
    gathering
        .map(|r| (String::new(), r.name().to_owned()))
        .collect()
}

impl Controller for Aggregation {
    const NAME: &'static str = "clusterrole-aggregation";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&ROLE, gatherers)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        if let Some(role) = self.client.find(&ROLE, "", &key.1) {
            gather(&self.client, &role).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, rules: Value) -> Value {
        json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules})
    }

    fn gathering(name: &str, label: &str, from: &str) -> Value {
        let mut role = role(name, label, json!([]));
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {from: "true"}}]});
        role
    }

    /// Gathers until nothing changes; how many writes that took.
    fn settled(roles: &mut [Value]) -> usize {
        let mut writes = 0;
        loop {
            let all: Vec<_> = roles
                .iter()
                .map(|r| Object::from_value(1, r.clone()))
                .collect();
            let change = roles
                .iter()
                .enumerate()
                .find_map(|(i, r)| Some((i, rules(r, &all)?)));
            let Some((i, rules)) = change else {
                return writes;
            };
            roles[i]["rules"] = json!(rules);
            writes += 1;
            assert!(writes < 50, "it never ends: {roles:?}");
        }
    }

    #[test]
    fn chains_and_circles_come_to_rest() {
        let mut roles = [
            gathering("top", "none", "to-top"),
            gathering("middle", "to-top", "to-middle"),
            role("base", "to-middle", json!([{"verbs": ["get"]}])),
            role("other", "no", json!([{"verbs": ["list"]}])),
        ];
        assert_eq!(settled(&mut roles), 2);
        assert_eq!(roles[0]["rules"], json!([{"verbs": ["get"]}]));
        roles[2]["rules"] = json!([]);
        assert_eq!(settled(&mut roles), 2);
        assert_eq!(roles[0]["rules"], json!([]));
        let mut circle = [
            gathering("a", "to-b", "to-a"),
            gathering("b", "to-a", "to-b"),
            role("c", "to-a", json!([{"verbs": ["get"]}])),
            role("d", "to-b", json!([{"verbs": ["list"]}])),
        ];
        settled(&mut circle);
        assert_eq!(circle[0]["rules"].as_array().unwrap().len(), 2);
        assert_eq!(circle[1]["rules"].as_array().unwrap().len(), 2);
    }
}
