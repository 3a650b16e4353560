//! Nodes.

use serde_json::Value;

use super::{Api, Page, columns, encode, shown, text};

/// Adds the Node's lines.
pub async fn describe(api: &Api, page: &mut Page, node: &Value) -> anyhow::Result<()> {
    let (spec, status) = (&node["spec"], &node["status"]);
    let taints = spec["taints"].as_array().into_iter().flatten();
    let taints: Vec<String> = taints
        .map(|t| {
            format!(
                "{}={}:{}",
                text(t, "/key"),
                text(t, "/value"),
                text(t, "/effect")
            )
        })
        .collect();
    page.list(0, "Taints", &taints);
    page.field(
        0,
        "Unschedulable",
        (spec["unschedulable"] == true).to_string(),
    );
    page.line(0, "Conditions:");
    let mut rows = vec![
        ["Type", "Status", "Reason", "Message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let cells = ["/type", "/status", "/reason", "/message"];
        rows.push(
            cells
                .iter()
                .map(|p| text(condition, p).to_owned())
                .collect(),
        );
    }
    for line in columns(&rows).lines() {
        page.line(2, line);
    }
    page.line(0, "Addresses:");
    for address in status["addresses"].as_array().into_iter().flatten() {
        page.field(2, text(address, "/type"), text(address, "/address"));
    }
    for (title, key) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        page.line(0, &format!("{title}:"));
        for (name, amount) in status[key].as_object().into_iter().flatten() {
            page.field(2, name, shown(amount));
        }
    }
    page.line(0, "System Info:");
    for (name, value) in status["nodeInfo"].as_object().into_iter().flatten() {
        page.field(2, name, shown(value));
    }
    let fields = format!("spec.nodeName={}", text(node, "/metadata/name"));
    let pods = api
        .get(&format!("/api/v1/pods?fieldSelector={}", encode(&fields)))
        .await?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    page.line(0, &format!("Pods: ({} in total)", pods.len()));
    let mut rows = vec![["Namespace", "Name", "Phase"].map(str::to_owned).to_vec()];
    for pod in &pods {
        let cells = ["/metadata/namespace", "/metadata/name", "/status/phase"];
        rows.push(cells.iter().map(|p| text(pod, p).to_owned()).collect());
    }
    for line in columns(&rows).lines() {
        page.line(2, line);
    }
    Ok(())
}
