//! StatefulSets, DaemonSets and ReplicationControllers.

use serde_json::Value;

use super::deployment::template;
use super::{Page, pairs, shown, text};

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn selector(page: &mut Page, set: &Value) {
    let chosen = &set["spec"]["selector"];
    let map = if chosen["matchLabels"].is_object() {
        &chosen["matchLabels"]
    } else {
        chosen
    };
    page.field(0, "Selector", pairs(map, "=").join(","));
}

/// Adds the StatefulSet's lines.
pub fn stateful(page: &mut Page, set: &Value) {
    let (spec, status) = (&set["spec"], &set["status"]);
    selector(page, set);
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} total",
            number(&spec["replicas"]),
            number(&status["replicas"])
        ),
    );
    page.field(0, "Update Strategy", text(spec, "/updateStrategy/type"));
    if let Some(partition) = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64() {
        page.field(2, "Partition", partition.to_string());
    }
    page.field(
        0,
        "Pods Status",
        format!(
            "{} Ready / {} total",
            number(&status["readyReplicas"]),
            number(&status["replicas"])
        ),
    );
    template(page, &spec["template"]);
    page.line(0, "Volume Claims:");
    for claim in spec["volumeClaimTemplates"]
        .as_array()
        .into_iter()
        .flatten()
    {
        page.field(2, "Name", text(claim, "/metadata/name"));
        page.field(2, "StorageClass", text(claim, "/spec/storageClassName"));
        page.field(
            2,
            "Capacity",
            shown(&claim["spec"]["resources"]["requests"]["storage"]),
        );
        page.field(2, "Access Modes", shown(&claim["spec"]["accessModes"]));
    }
}

/// Adds the DaemonSet's lines.
pub fn daemon(page: &mut Page, set: &Value) {
    let (spec, status) = (&set["spec"], &set["status"]);
    selector(page, set);
    let nodes = pairs(&spec["template"]["spec"]["nodeSelector"], "=");
    page.field(
        0,
        "Node-Selector",
        if nodes.is_empty() {
            "<none>".to_owned()
        } else {
            nodes.join(",")
        },
    );
    for (name, field) in [
        (
            "Desired Number of Nodes Scheduled",
            "desiredNumberScheduled",
        ),
        (
            "Current Number of Nodes Scheduled",
            "currentNumberScheduled",
        ),
        (
            "Number of Nodes Scheduled with Up-to-date Pods",
            "updatedNumberScheduled",
        ),
        (
            "Number of Nodes Scheduled with Available Pods",
            "numberAvailable",
        ),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        page.field(0, name, number(&status[field]).to_string());
    }
    template(page, &spec["template"]);
}

/// Adds the ReplicationController's lines.
pub fn replication(page: &mut Page, set: &Value) {
    let (spec, status) = (&set["spec"], &set["status"]);
    selector(page, set);
    let (current, wanted) = (number(&status["replicas"]), number(&spec["replicas"]));
    page.field(
        0,
        "Replicas",
        format!("{current} current / {wanted} desired"),
    );
    page.field(
        0,
        "Pods Status",
        format!(
            "{} Ready / {current} total",
            number(&status["readyReplicas"])
        ),
    );
    template(page, &spec["template"]);
}
