//! Services.

use serde_json::Value;

use super::{Api, Page, encode, pairs, shown, text};

/// Adds the Service's lines.
pub async fn describe(api: &Api, page: &mut Page, service: &Value) -> anyhow::Result<()> {
    let spec = &service["spec"];
    page.field(0, "Selector", pairs(&spec["selector"], "=").join(","));
    page.field(0, "Type", text(spec, "/type"));
    page.field(0, "IP", shown(&spec["clusterIP"]));
    let namespace = text(service, "/metadata/namespace");
    let label = format!(
        "kubernetes.io/service-name={}",
        text(service, "/metadata/name")
    );
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector={}",
        encode(&label)
    );
    let slices = api.get(&path).await?;
    for port in spec["ports"].as_array().into_iter().flatten() {
        let name = match text(port, "/name") {
            "" => "<unset>",
            name => name,
        };
        let protocol = text(port, "/protocol");
        page.field(
            0,
            "Port",
            format!("{name}  {}/{protocol}", shown(&port["port"])),
        );
        page.field(
            0,
            "TargetPort",
            format!("{}/{protocol}", shown(&port["targetPort"])),
        );
        if let Some(number) = port["nodePort"].as_i64().filter(|n| *n > 0) {
            page.field(0, "NodePort", format!("{name}  {number}/{protocol}"));
        }
        let ready = endpoints(&slices, text(port, "/name"));
        let shown = if ready.is_empty() {
            "<none>".to_owned()
        } else {
            ready.join(",")
        };
        page.field(0, "Endpoints", shown);
    }
    page.field(0, "Session Affinity", shown(&spec["sessionAffinity"]));
    Ok(())
}

/// Addresses with ports of the ready endpoints behind a port of the Service.
fn endpoints(slices: &Value, port: &str) -> Vec<String> {
    let mut all = Vec::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let Some(port) = ports.find(|p| text(p, "/name") == port) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == true {
                let address = text(endpoint, "/addresses/0");
                all.push(format!("{address}:{}", shown(&port["port"])));
            }
        }
    }
    all
}
