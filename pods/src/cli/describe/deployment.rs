//! Deployments and ReplicaSets.

use serde_json::Value;

use super::{Api, Page, columns, pairs, shown, text};

/// Adds the Deployment's lines.
pub async fn describe(api: &Api, page: &mut Page, deployment: &Value) -> anyhow::Result<()> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    page.field(
        0,
        "Selector",
        pairs(&spec["selector"]["matchLabels"], "=").join(","),
    );
    let number = |key: &str| status[key].as_i64().unwrap_or(0);
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            spec["replicas"].as_i64().unwrap_or(1),
            number("updatedReplicas"),
            number("replicas"),
            number("availableReplicas"),
            number("unavailableReplicas")
        ),
    );
    page.field(0, "StrategyType", text(spec, "/strategy/type"));
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    page.field(0, "MinReadySeconds", ready.to_string());
    if let Some(rolling) = spec["strategy"].get("rollingUpdate") {
        page.field(
            0,
            "RollingUpdateStrategy",
            format!(
                "{} max unavailable, {} max surge",
                shown(&rolling["maxUnavailable"]),
                shown(&rolling["maxSurge"])
            ),
        );
    }
    template(page, &spec["template"]);
    conditions(page, &status["conditions"]);
    let namespace = text(deployment, "/metadata/namespace");
    let list = api
        .get(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets"))
        .await?;
    let uid = &deployment["metadata"]["uid"];
    let revision = &deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for set in list["items"].as_array().into_iter().flatten() {
        let mut owners = set["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        if !owners.any(|o| o["uid"] == *uid) {
            continue;
        }
        let made = set["status"]["replicas"].as_i64().unwrap_or(0);
        let wanted = set["spec"]["replicas"].as_i64().unwrap_or(0);
        let line = format!(
            "{} ({made}/{wanted} replicas created)",
            text(set, "/metadata/name")
        );
        if set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == *revision {
            new.push(line);
        } else {
            old.push(line);
        }
    }
    page.field(0, "OldReplicaSets", or_none(&old));
    page.field(0, "NewReplicaSet", or_none(&new));
    Ok(())
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() {
        "<none>".to_owned()
    } else {
        list.join(", ")
    }
}

/// Adds the ReplicaSet's lines.
pub fn describe_set(page: &mut Page, set: &Value) {
    let (spec, status) = (&set["spec"], &set["status"]);
    page.field(
        0,
        "Selector",
        pairs(&spec["selector"]["matchLabels"], "=").join(","),
    );
    let owners = set["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten();
    if let Some(owner) = owners.into_iter().find(|o| o["controller"] == true) {
        let name = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
        page.field(0, "Controlled By", name);
    }
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let (current, wanted) = (number(&status["replicas"]), number(&spec["replicas"]));
    page.field(
        0,
        "Replicas",
        format!("{current} current / {wanted} desired"),
    );
    let ready = number(&status["readyReplicas"]);
    page.field(0, "Pods Status", format!("{ready} Ready / {current} total"));
    template(page, &spec["template"]);
}

/// Adds the lines of a pod template.
pub fn template(page: &mut Page, template: &Value) {
    page.line(0, "Pod Template:");
    page.list(2, "Labels", &pairs(&template["metadata"]["labels"], "="));
    page.line(2, "Containers:");
    for container in template["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
    {
        page.line(4, &format!("{}:", text(container, "/name")));
        page.field(6, "Image", text(container, "/image"));
        let ports = container["ports"].as_array().into_iter().flatten();
        let ports: Vec<String> = ports
            .map(|p| format!("{}/{}", shown(&p["containerPort"]), text(p, "/protocol")))
            .collect();
        page.field(6, "Port", or_none(&ports));
    }
}

/// Adds the table of conditions.
pub fn conditions(page: &mut Page, conditions: &Value) {
    page.line(0, "Conditions:");
    let mut rows = vec![["Type", "Status", "Reason"].map(str::to_owned).to_vec()];
    for condition in conditions.as_array().into_iter().flatten() {
        let cells = ["/type", "/status", "/reason"];
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
}
