//! Claims, volumes and their classes.

use serde_json::Value;

use super::{Api, Page, shown, text};

fn modes(list: &Value) -> String {
    let all = list.as_array().into_iter().flatten();
    let short = all.filter_map(Value::as_str).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}

/// Adds the claim's lines, with the pods that use it.
pub async fn claim(api: &Api, page: &mut Page, claim: &Value) -> anyhow::Result<()> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    page.field(0, "StorageClass", text(spec, "/storageClassName"));
    page.field(0, "Status", shown(&status["phase"]));
    page.field(0, "Volume", text(spec, "/volumeName"));
    page.field(0, "Finalizers", shown(&claim["metadata"]["finalizers"]));
    page.field(0, "Capacity", text(status, "/capacity/storage"));
    page.field(0, "Access Modes", modes(&status["accessModes"]));
    page.field(0, "VolumeMode", shown(&spec["volumeMode"]));
    let (namespace, name) = (
        text(claim, "/metadata/namespace"),
        &claim["metadata"]["name"],
    );
    let pods = api
        .get(&format!("/api/v1/namespaces/{namespace}/pods"))
        .await?;
    let uses = |pod: &&Value| {
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        volumes.any(|v| v["persistentVolumeClaim"]["claimName"] == *name)
    };
    let users = pods["items"].as_array().into_iter().flatten().filter(uses);
    let users: Vec<String> = users
        .map(|p| text(p, "/metadata/name").to_owned())
        .collect();
    page.list(0, "Used By", &users);
    Ok(())
}

/// Adds the volume's lines.
pub fn volume(page: &mut Page, volume: &Value) {
    let spec = &volume["spec"];
    page.field(0, "Finalizers", shown(&volume["metadata"]["finalizers"]));
    page.field(0, "StorageClass", text(spec, "/storageClassName"));
    page.field(0, "Status", shown(&volume["status"]["phase"]));
    let claim = match text(spec, "/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", text(spec, "/claimRef/namespace")),
    };
    page.field(0, "Claim", claim);
    page.field(
        0,
        "Reclaim Policy",
        shown(&spec["persistentVolumeReclaimPolicy"]),
    );
    page.field(0, "Access Modes", modes(&spec["accessModes"]));
    page.field(0, "VolumeMode", shown(&spec["volumeMode"]));
    page.field(0, "Capacity", text(spec, "/capacity/storage"));
    page.line(0, "Source:");
    for (field, name) in [("hostPath", "HostPath"), ("local", "LocalVolume")] {
        if spec[field].is_object() {
            page.field(2, "Type", name);
            page.field(2, "Path", shown(&spec[field]["path"]));
        }
    }
}

/// Adds the class' lines.
pub fn class(page: &mut Page, class: &Value) {
    let default = &class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"];
    page.field(
        0,
        "IsDefaultClass",
        if default == "true" { "Yes" } else { "No" },
    );
    page.field(0, "Provisioner", shown(&class["provisioner"]));
    page.field(0, "Parameters", shown(&class["parameters"]));
    page.field(
        0,
        "AllowVolumeExpansion",
        shown(&class["allowVolumeExpansion"]).replace("<none>", "<unset>"),
    );
    page.field(0, "ReclaimPolicy", shown(&class["reclaimPolicy"]));
    page.field(0, "VolumeBindingMode", shown(&class["volumeBindingMode"]));
}
