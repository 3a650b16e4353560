//! `Endpoints`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::items;
use crate::store::Object;

/// `v1` `Endpoints`: what came before EndpointSlices, and what many still look at.
pub static ENDPOINTS: Resource = Resource {
    plural: "endpoints",
    singular: "endpoints",
    kind: "Endpoints",
    short_names: &["ep"],
    columns: &[
        Column::text("Name"),
        Column::text("Endpoints"),
        Column::text("Age"),
    ],
    row,
    ..Resource::BASE
};

fn row(o: &Object) -> Vec<Value> {
    let mut all = Vec::new();
    for (_, subset) in items(o.at("/subsets")) {
        for (_, address) in items(&subset["addresses"]) {
            let ip = address["ip"].as_str().unwrap_or_default();
            let ip = if ip.contains(':') {
                format!("[{ip}]")
            } else {
                ip.to_owned()
            };
            if subset["ports"].as_array().is_none_or(Vec::is_empty) {
                all.push(ip.clone());
            }
            for (_, port) in items(&subset["ports"]) {
                all.push(format!("{ip}:{}", port["port"]));
            }
        }
    }
    let shown = match all.len() {
        0 => "<none>".to_owned(),
        n @ ..=3 => all[..n].join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    };
    vec![
        json!(o.name()),
        json!(shown),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
