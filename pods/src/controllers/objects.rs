//! What the controllers ask of objects: owners, selectors, readiness.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

/// The owner that manages the object, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Whether the object is managed by the owner with this uid.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// An owner reference of a managing owner.
pub fn owner_reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy the selector. A selector that says nothing selects everything; one
/// with an operator that is not known selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key));
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .into_iter()
        .all(|(key, value)| get(key) == Some(value))
        && expressions.into_iter().all(|e| {
            let value = get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether `labels` hold every pair of a plain selector (a Service's).
pub fn selects_pairs(selector: &Labels, labels: Option<&Labels>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key));
    selector.iter().all(|(key, value)| get(key) == Some(value))
}

/// The pod's condition of this type.
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the pod's Ready condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod has been ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = pod_condition(pod, "Ready").filter(|c| c.status == "True")?;
    condition.last_transition_time.as_ref().map(|t| t.0)
}

/// Whether the pod has been ready for `min_ready` seconds, or else in how many seconds it will be.
pub fn availability(pod: &Pod, min_ready: i32, now: Timestamp) -> Result<(), Option<i64>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready == 0 {
        return Ok(());
    }
    let since = ready_since(pod).ok_or(None)?;
    let left = i64::from(min_ready) - (now.as_second() - since.as_second());
    if left <= 0 { Ok(()) } else { Err(Some(left)) }
}

/// Whether the pod still counts as a replica: it has not ended and is not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !crate::scheduler::snapshot::finished(pod)
}

/// 32-bit FNV-1a in the alphabet that Kubernetes' names use, which spells no words.
pub fn short_hash(text: &str) -> String {
    let mut hash = 0x811c_9dc5_u32;
    for byte in text.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string()
        .bytes()
        .map(|digit| char::from(alphabet[usize::from(digit) % alphabet.len()]))
        .collect()
}
