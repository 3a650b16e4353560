//! `Lease`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::Faults;
use crate::store::Object;

/// `coordination.k8s.io/v1` `Lease`.
pub static LEASE: Resource = Resource {
    group: "coordination.k8s.io",
    plural: "leases",
    singular: "lease",
    kind: "Lease",
    // Renewed every few seconds for as long as its holder lives: in memory only, so that a machine
    // at rest writes nothing. After a restart holders take it anew, as they do when one ran out.
    durable: false,
    columns: &[
        Column::text("Name"),
        Column::text("Holder"),
        Column::text("Age"),
    ],
    row,
    validate,
    ..Resource::BASE
};

fn validate(lease: &Value, faults: &mut Faults) {
    let spec = &lease["spec"];
    if spec["leaseDurationSeconds"]
        .as_i64()
        .is_some_and(|n| n <= 0)
    {
        faults.invalid(
            "spec.leaseDurationSeconds",
            &spec["leaseDurationSeconds"],
            "must be greater than 0",
        );
    }
    faults.not_negative("spec.leaseTransitions", &spec["leaseTransitions"]);
}

fn row(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        json!(o.str_at("/spec/holderIdentity")),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
