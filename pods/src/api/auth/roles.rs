//! The roles that every Kubernetes has, and who has them.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Objects of a namespace that a viewer sees: no Secrets, no roles.
const VIEWED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "pods/log",
            "pods/status",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    (
        "autoscaling",
        &[
            "horizontalpodautoscalers",
            "horizontalpodautoscalers/status",
        ],
    ),
    (
        "batch",
        &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
    ),
    ("discovery.k8s.io", &["endpointslices"]),
    (
        "networking.k8s.io",
        &["ingresses", "ingresses/status", "networkpolicies"],
    ),
    (
        "policy",
        &["poddisruptionbudgets", "poddisruptionbudgets/status"],
    ),
    ("metrics.k8s.io", &["pods", "nodes"]),
];

/// What an editor may change.
const EDITED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "events",
            "persistentvolumeclaims",
            "pods",
            "pods/attach",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
            "services/proxy",
        ],
    ),
    (
        "apps",
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
    ("coordination.k8s.io", &["leases"]),
];

const PATHS: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn rules(table: &[(&str, &[&str])], verbs: &[&str]) -> Vec<Value> {
    table.iter().map(|(g, r)| rule(g, r, verbs)).collect()
}

fn review(kinds: &[&str]) -> Value {
    rule("authorization.k8s.io", kinds, &["create"])
}

fn everything() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
        json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
    ]
}

fn edit() -> Vec<Value> {
    let mut all = rules(EDITED, WRITE);
    all.push(rule(
        "",
        &["pods/eviction", "serviceaccounts/token"],
        &["create"],
    ));
    let read = [
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "secrets",
        "services/proxy",
    ];
    all.push(rule("", &read, READ));
    all.push(rule("coordination.k8s.io", &["leases"], READ));
    all.push(rule("", &["serviceaccounts"], &["impersonate"]));
    all
}

fn admin() -> Vec<Value> {
    let roles = ["roles", "rolebindings"];
    let every = [READ, WRITE].concat();
    vec![
        rule("rbac.authorization.k8s.io", &roles, &every),
        review(&["localsubjectaccessreviews"]),
    ]
}

fn label(of: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{of}")
}

/// A role that gathers others by a label, and the one that brings what it has by itself. `to` is
/// the role that gathers it in turn.
fn aggregated(name: &str, to: Option<&str>, rules: Vec<Value>) -> [Value; 2] {
    let mut role = cluster_role(name, Vec::new());
    if let Some(of) = to {
        role["metadata"]["labels"][label(of)] = json!("true");
    }
    role["aggregationRule"] =
        json!({"clusterRoleSelectors": [{"matchLabels": {label(name): "true"}}]});
    let mut own = cluster_role(&format!("system:aggregate-to-{name}"), rules);
    own["metadata"]["labels"][label(name)] = json!("true");
    [role, own]
}

fn cluster_role(name: &str, rules: Vec<Value>) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
           "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}}, "rules": rules})
}

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<Value> {
    let own = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    let basic = vec![
        review(&own),
        rule(
            "authentication.k8s.io",
            &["selfsubjectreviews"],
            &["create"],
        ),
    ];
    let paths = |all: &[&str]| vec![json!({"nonResourceURLs": all, "verbs": ["get"]})];
    let known = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let delegator = vec![
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        review(&["subjectaccessreviews"]),
    ];
    let issuer = ["/.well-known/openid-configuration", "/openid/v1/jwks"];
    let gathered = [
        aggregated("admin", None, admin()),
        aggregated("edit", Some("admin"), edit()),
        aggregated("view", Some("edit"), rules(VIEWED, READ)),
    ];
    let plain = vec![
        cluster_role("cluster-admin", everything()),
        cluster_role("system:basic-user", basic),
        cluster_role("system:discovery", paths(PATHS)),
        cluster_role("system:public-info-viewer", paths(&known)),
        cluster_role("system:auth-delegator", delegator),
        cluster_role("system:service-account-issuer-discovery", paths(&issuer)),
        cluster_role(
            "system:monitoring",
            paths(&["/healthz", "/livez", "/metrics", "/readyz"]),
        ),
    ];
    plain
        .into_iter()
        .chain(gathered.into_iter().flatten())
        .collect()
}

/// Name of a ClusterRoleBinding, its ClusterRole, and the groups that have it.
pub const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["system:masters"]),
    ("system:basic-user", &["system:authenticated"]),
    ("system:discovery", &["system:authenticated"]),
    (
        "system:public-info-viewer",
        &["system:authenticated", "system:unauthenticated"],
    ),
    (
        "system:service-account-issuer-discovery",
        &["system:serviceaccounts"],
    ),
    ("system:monitoring", &["system:monitoring"]),
];

/// The ClusterRoleBinding of a row of [`BINDINGS`].
pub fn binding(name: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups
        .iter()
        .map(|g| json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": g}))
        .collect();
    let mut binding = cluster_role(name, Vec::new());
    binding.as_object_mut().map(|m| m.remove("rules"));
    binding["subjects"] = json!(subjects);
    binding["roleRef"] =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    binding
}
