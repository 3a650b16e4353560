//! `IngressClass`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, names, text};
use crate::store::Object;

/// `networking.k8s.io/v1` `IngressClass`.
pub static INGRESS_CLASS: Resource = Resource {
    group: "networking.k8s.io",
    plural: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    namespaced: false,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Controller"),
        Column::text("Parameters"),
        Column::text("Age"),
    ],
    row,
    validate,
    validate_update: |old, new, faults| {
        let (was, is) = (&old["spec"]["controller"], &new["spec"]["controller"]);
        faults.immutable("spec.controller", was, is);
    },
    ..Resource::BASE
};

fn validate(class: &Value, faults: &mut Faults) {
    let controller = text(&class["spec"], "controller");
    if controller.len() > 250 {
        faults.too_long("spec.controller", 250);
    }
    if controller.is_empty() {
        faults.required("spec.controller", "");
    } else if !controller.contains('/') {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        faults.invalid_str("spec.controller", controller, detail);
    } else {
        let domain = controller.split('/').next().unwrap_or_default();
        for wrong in names::subdomain(domain) {
            faults.invalid_str("spec.controller", controller, wrong);
        }
    }
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return;
    }
    for field in ["kind", "name"] {
        if text(parameters, field).is_empty() {
            faults.required(format!("spec.parameters.{field}"), "");
        }
    }
    let scopes = ["Cluster", "Namespace"];
    faults.one_of("spec.parameters.scope", &parameters["scope"], &scopes);
}

fn row(o: &Object) -> Vec<Value> {
    let parameters = o.at("/spec/parameters");
    let shown = match (text(parameters, "apiGroup"), text(parameters, "kind")) {
        (_, "") => "<none>".to_owned(),
        ("", kind) => format!("{kind}/{}", text(parameters, "name")),
        (group, kind) => format!("{kind}.{group}/{}", text(parameters, "name")),
    };
    vec![
        json!(o.name()),
        o.at("/spec/controller").clone(),
        json!(shown),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
