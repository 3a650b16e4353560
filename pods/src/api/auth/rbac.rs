//! Role-based access control: which rules hold for a user, and whether one of them allows a request.

use serde_json::{Value, json};

use super::{Access, User, account_of};
use crate::api::client::Client;
use crate::api::kinds;
use crate::api::resource::Res;
use crate::api::status::{Result, Status};
use crate::store::{Object, Selector};

/// A rule that holds, and the binding that says so.
pub struct Rule {
    /// A PolicyRule.
    pub rule: Value,
    /// For the reason of an answer.
    pub why: String,
}

/// Whether the user may; the reason where one is known.
pub fn allowed(client: &Client, user: &User, access: &Access) -> (bool, String) {
    if user.is_master() {
        return (true, String::new());
    }
    for found in rules(client, user, &access.namespace) {
        if matches(&found.rule, access) {
            return (true, format!("RBAC: allowed by {}", found.why));
        }
    }
    (false, String::new())
}

/// The rules that hold for a user in a namespace; with `""` those of the whole cluster.
pub fn rules(client: &Client, user: &User, ns: &str) -> Vec<Rule> {
    let mut all = Vec::new();
    let list = |res, ns: &str| client.list(res, ns, &Selector::all()).items;
    for binding in list(&kinds::CLUSTER_ROLE_BINDING, "") {
        take(client, &binding, user, &mut all);
    }
    if !ns.is_empty() {
        for binding in list(&kinds::ROLE_BINDING, ns) {
            take(client, &binding, user, &mut all);
        }
    }
    all
}

fn take(client: &Client, binding: &Object, user: &User, all: &mut Vec<Rule>) {
    let subjects = binding.at("/subjects").as_array();
    let ns = binding.namespace();
    let Some(subject) = subjects.into_iter().flatten().find(|s| is(s, ns, user)) else {
        return;
    };
    let text = |path: &str| binding.str_at(path);
    let kind = if ns.is_empty() {
        "ClusterRoleBinding"
    } else {
        "RoleBinding"
    };
    let why = format!(
        "{kind} \"{}\" of {} \"{}\" to {} \"{}\"",
        binding.name(),
        text("/roleRef/kind"),
        text("/roleRef/name"),
        subject["kind"].as_str().unwrap_or_default(),
        subject["name"].as_str().unwrap_or_default()
    );
    for rule in of_role(client, ns, binding.at("/roleRef")) {
        let why = why.clone();
        all.push(Rule { rule, why });
    }
}

/// Whether a binding's subject is this user.
fn is(subject: &Value, binding_ns: &str, user: &User) -> bool {
    let text = |key: &str| subject[key].as_str().unwrap_or_default();
    match text("kind") {
        "User" => text("name") == user.name,
        "Group" => user.groups.iter().any(|g| g == text("name")),
        "ServiceAccount" => account_of(&user.name).is_some_and(|(ns, name)| {
            let own = text("namespace");
            let own = if own.is_empty() { binding_ns } else { own };
            ns == own && name == text("name")
        }),
        _ => false,
    }
}

/// The rules of the role that a binding refers to; none where it is not there.
pub fn of_role(client: &Client, ns: &str, reference: &Value) -> Vec<Value> {
    let name = reference["name"].as_str().unwrap_or_default();
    let found = if reference["kind"] == "Role" {
        client.find(&kinds::ROLE, ns, name)
    } else {
        client.find(&kinds::CLUSTER_ROLE, "", name)
    };
    let Some(role) = found else {
        return Vec::new();
    };
    list(role.at("/rules")).to_vec()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    let mut all = list(&rule[field]).iter().filter_map(Value::as_str);
    all.any(|v| v == "*" || v == wanted)
}

/// Whether a PolicyRule allows what is asked for.
pub fn matches(rule: &Value, access: &Access) -> bool {
    if !has(rule, "verbs", &access.verb) {
        return false;
    }
    if access.resource.is_empty() {
        let mut paths = list(&rule["nonResourceURLs"])
            .iter()
            .filter_map(Value::as_str);
        return paths.any(|p| match p.strip_suffix('*') {
            Some(prefix) => access.path.starts_with(prefix),
            None => p == access.path,
        });
    }
    let names = list(&rule["resourceNames"]);
    has(rule, "apiGroups", &access.group)
        && resource_matches(rule, access)
        && (names.is_empty()
            || (!access.name.is_empty() && names.iter().any(|n| *n == access.name)))
}

fn resource_matches(rule: &Value, access: &Access) -> bool {
    let (sub, full) = (&access.subresource, access.full_resource());
    let mut all = list(&rule["resources"]).iter().filter_map(Value::as_str);
    all.any(|r| r == "*" || r == full || (!sub.is_empty() && r.strip_prefix("*/") == Some(sub)))
}

/// Nobody gives what they do not have: refuses rules that go beyond those of the user.
pub fn no_escalation(client: &Client, user: &User, ns: &str, rules: &[Value]) -> Vec<String> {
    let own = self::rules(client, user, ns);
    let mut missing = Vec::new();
    for rule in rules {
        for part in single(rule) {
            if !own.iter().any(|o| matches(&o.rule, &part)) {
                let what = if part.resource.is_empty() {
                    format!(
                        "{{NonResourceURLs:[\"{}\"], Verbs:[\"{}\"]}}",
                        part.path, part.verb
                    )
                } else {
                    format!(
                        "{{APIGroups:[\"{}\"], Resources:[\"{}\"], Verbs:[\"{}\"]}}",
                        part.group,
                        part.full_resource(),
                        part.verb
                    )
                };
                missing.push(what);
            }
        }
    }
    missing
}

/// What a rule allows, one by one. A star stands for itself: only a star covers it.
fn single(rule: &Value) -> Vec<Access> {
    let texts = |field: &str| -> Vec<&str> {
        list(&rule[field])
            .iter()
            .filter_map(Value::as_str)
            .collect()
    };
    let mut names = texts("resourceNames");
    if names.is_empty() {
        names.push("");
    }
    let mut all = Vec::new();
    for verb in texts("verbs") {
        for path in texts("nonResourceURLs") {
            all.push(Access {
                verb: verb.to_owned(),
                path: path.to_owned(),
                ..Access::default()
            });
        }
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                all.extend(names.iter().map(|name| Access {
                    verb: verb.to_owned(),
                    group: group.to_owned(),
                    resource: resource.to_owned(),
                    subresource: sub.to_owned(),
                    name: (*name).to_owned(),
                    ..Access::default()
                }));
            }
        }
    }
    all
}

/// Refuses the writing of a role or binding that would give the writer more than they have.
pub fn check_write(client: &Client, user: &User, res: Res, ns: &str, object: &Value) -> Result<()> {
    if user.is_master() || res.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let binding = res.plural.ends_with("bindings");
    let reference = &object["roleRef"];
    let (verb, resource, target) = if binding {
        let kind = if reference["kind"] == "Role" {
            "roles"
        } else {
            "clusterroles"
        };
        ("bind", kind, reference["name"].as_str().unwrap_or_default())
    } else {
        ("escalate", res.plural, name)
    };
    let access = Access {
        verb: verb.to_owned(),
        group: res.group.to_owned(),
        resource: resource.to_owned(),
        namespace: ns.to_owned(),
        name: target.to_owned(),
        ..Access::default()
    };
    if allowed(client, user, &access).0 {
        return Ok(());
    }
    let wanted = if binding {
        of_role(client, ns, reference)
    } else {
        list(&object["rules"]).to_vec()
    };
    let missing = no_escalation(client, user, ns, &wanted);
    if missing.is_empty() && object["aggregationRule"].is_null() {
        return Ok(());
    }
    let why = format!(
        "user \"{}\" (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        json!(user.groups),
        missing.join("\n")
    );
    Err(Status::forbidden(res, name, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(verb: &str, group: &str, resource: &str, name: &str) -> Access {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        Access {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            ..Access::default()
        }
    }

    #[test]
    fn rules_allow_what_they_name_and_no_more() {
        let rule =
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]});
        assert!(matches(&rule, &access("get", "", "pods", "a")));
        assert!(matches(&rule, &access("get", "", "x/scale", "a")));
        for no in [
            access("get", "", "pods/log", "a"),
            access("delete", "", "pods", "a"),
            access("get", "apps", "pods", "a"),
            access("get", "", "secrets", "a"),
        ] {
            assert!(!matches(&rule, &no), "{no:?}");
        }
        let named =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]});
        assert!(matches(&named, &access("get", "", "pods/log", "a")));
        assert!(!matches(&named, &access("get", "", "pods", "b")));
        assert!(!matches(&named, &access("list", "", "pods", "")));
        let path = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*", "/version"]});
        let of = |p: &str| Access {
            verb: "get".into(),
            path: p.into(),
            ..Access::default()
        };
        assert!(matches(&path, &of("/healthz/x")) && matches(&path, &of("/version")));
        assert!(!matches(&path, &of("/metrics")));
    }

    #[test]
    fn a_star_is_only_covered_by_a_star() {
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        let some = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let covers = |own: &Value, wanted: &Value| single(wanted).iter().all(|a| matches(own, a));
        assert!(covers(&all, &some) && covers(&all, &all) && !covers(&some, &all));
    }
}
