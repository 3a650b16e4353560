//! Server-side apply: what a manager wants is merged into what is there, what it no longer wants
//! goes, and what others own is not taken without force.

use serde_json::{Map, Value};

use super::Set;
use super::managers::{self, Entry, Manager};
use super::walk::{self, Shape};
use crate::api::meta::now;
use crate::api::resource::Res;
use crate::api::status::{Cause, Details, Result, Status};

/// Owner of everything that an object had before it was applied for the first time.
const BEFORE: &str = "before-first-apply";

/// What somebody applies.
pub(in crate::api) struct Applied<'a> {
    /// Who.
    pub manager: &'a str,
    /// Part of the object that is applied to; empty for the object itself.
    pub sub: &'a str,
    /// The fields wanted.
    pub wanted: &'a Value,
    /// Whether fields of others are taken over.
    pub force: bool,
}

/// The object after an apply, with its managers. `live` is `None` when it does not exist yet.
pub(in crate::api) fn apply(
    res: Res,
    live: Option<&Value>,
    applied: &Applied<'_>,
) -> Result<Value> {
    let Some(ty) = managers::type_of(res) else {
        return Err(Status::new(
            415,
            "UnsupportedMediaType",
            "the kind has no known shape",
        ));
    };
    let shape = Shape::of(&ty);
    let mut wanted = applied.wanted.clone();
    if !wanted["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    limit(&mut wanted, applied.sub);
    if let Some(key) = walk::duplicates(&wanted, shape) {
        return Err(Status::bad_request(format!(
            "the list has two elements with the same key: {key}"
        )));
    }
    let me = Manager {
        name: applied.manager.to_owned(),
        applies: true,
        subresource: applied.sub.to_owned(),
        version: res.api_version(),
    };
    let nothing = Value::Object(Map::new());
    let live = live.unwrap_or(&nothing);
    let mut all = managers::read(live);
    let first = all.is_empty() && *live != nothing;
    if first {
        let had = managers::owned(walk::fields(live, shape));
        let manager = Manager {
            name: BEFORE.into(),
            applies: false,
            subresource: String::new(),
            ..me.clone()
        };
        all.push(Entry {
            manager,
            set: had,
            time: now(),
        });
    }

    let set = managers::owned(walk::fields(&wanted, shape));
    let last = all
        .iter()
        .find(|e| e.manager == me)
        .map(|e| e.set.clone())
        .unwrap_or_default();
    let mut new = live.clone();
    walk::merge(&mut new, &wanted, shape);
    prune(&mut new, &last, &set, &all, &me, shape);

    let (changed, removed) = walk::compare(live, &new, shape);
    let (changed, removed) = (managers::owned(changed), managers::owned(removed));
    let conflicts: Vec<(Manager, Set)> = all
        .iter()
        .filter(|e| e.manager != me)
        .map(|e| (e.manager.clone(), e.set.common(&changed)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !conflicts.is_empty() && !applied.force {
        return Err(refused(&conflicts));
    }
    for e in all.iter_mut().filter(|e| e.manager != me) {
        e.set = e.set.without(&changed).without(&removed);
    }
    let own = managers::entry(&mut all, &me);
    if own.set != set {
        own.time = now();
        own.set = set;
    }
    managers::write(&mut new, &all);
    Ok(new)
}

/// An apply to the object does not reach its status, and one to the status nothing else.
fn limit(wanted: &mut Value, sub: &str) {
    let Some(map) = wanted.as_object_mut() else {
        return;
    };
    match sub {
        "" => drop(map.remove("status")),
        sub => {
            map.retain(|k, _| k == sub || matches!(k.as_str(), "apiVersion" | "kind" | "metadata"));
        }
    }
}

/// Takes away what the manager applied before, does not want now, and nobody else owns.
fn prune(new: &mut Value, last: &Set, set: &Set, all: &[Entry], me: &Manager, shape: Shape<'_>) {
    let mut kept = set.clone();
    for e in all.iter().filter(|e| e.manager != *me) {
        kept.join(e.set.clone());
    }
    let gone = last.without(&kept);
    if !gone.is_empty() {
        walk::remove(new, &gone, &kept, shape);
    }
}

fn refused(conflicts: &[(Manager, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (m, set) in conflicts {
        let mut who = format!("{:?}", m.name);
        if !m.subresource.is_empty() {
            who.push_str(&format!(" with subresource {:?}", m.subresource));
        }
        if !m.applies {
            who.push_str(&format!(" using {}", m.version));
        }
        let paths = set.paths();
        lines.push(match paths.as_slice() {
            [one] => format!("conflict with {who}: {one}"),
            many => format!("conflicts with {who}:\n- {}", many.join("\n- ")),
        });
        causes.extend(paths.into_iter().map(|field| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {who}"),
            field,
        }));
    }
    let (n, s) = (causes.len(), if causes.len() == 1 { "" } else { "s" });
    let message = format!("Apply failed with {n} conflict{s}: {}", lines.join("\n"));
    let mut status = Status::new(409, "Conflict", message);
    status.details = Some(Box::new(Details {
        causes,
        ..Details::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    fn by(manager: &str, live: Option<&Value>, wanted: Value, force: bool) -> Result<Value> {
        apply(
            &kinds::DEPLOYMENT,
            live,
            &Applied {
                manager,
                sub: "",
                wanted: &wanted,
                force,
            },
        )
    }

    fn containers(all: Value) -> Value {
        json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": all}}}})
    }

    #[test]
    fn what_is_no_longer_wanted_goes() {
        let first = containers(
            json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]),
        );
        let live = by("me", None, first, false).unwrap();
        let live = by(
            "me",
            Some(&live),
            containers(json!([{"name": "a", "image": "2"}])),
            false,
        )
        .unwrap();
        assert_eq!(
            live["spec"]["template"]["spec"]["containers"],
            json!([{"name": "a", "image": "2"}])
        );
        assert_eq!(
            live["metadata"]["managedFields"].as_array().unwrap().len(),
            1
        );
    }

    #[test]
    fn what_others_own_is_refused_then_taken_by_force() {
        let wanted = |n: i64| json!({"metadata": {"name": "d"}, "spec": {"replicas": n}});
        let live = by("a", None, wanted(1), false).unwrap();
        let same = by("b", Some(&live), wanted(1), false).unwrap();
        assert_eq!(
            same["metadata"]["managedFields"].as_array().unwrap().len(),
            2
        );
        let refused = by("b", Some(&same), wanted(2), false).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
        );
        let taken = by("b", Some(&same), wanted(2), true).unwrap();
        let entries = managers::read(&taken);
        assert_eq!((entries.len(), entries[0].manager.name.as_str()), (1, "b"));
    }

    #[test]
    fn what_nobody_else_owns_stays_when_shared() {
        let labels = |l: Value| json!({"metadata": {"name": "d", "labels": l}});
        let live = by("a", None, labels(json!({"x": "1", "y": "1"})), false).unwrap();
        let live = by("b", Some(&live), labels(json!({"y": "1"})), false).unwrap();
        let live = by("a", Some(&live), labels(json!({"x": "1"})), false).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"x": "1", "y": "1"}));
        let live = by("b", Some(&live), labels(json!({})), false).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"x": "1"}));
    }

    #[test]
    fn tracking_starts_with_the_first_apply_and_follows_other_writes() {
        let res = &kinds::DEPLOYMENT;
        let plain = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "paused": false}});
        let mut changed = plain.clone();
        managers::track(res, "", "kubectl", &plain, &mut changed);
        assert!(changed["metadata"]["managedFields"].is_null());
        let wanted = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}});
        let live = by("me", Some(&plain), wanted.clone(), false).unwrap();
        assert_eq!(live["metadata"]["managedFields"][0]["manager"], BEFORE);
        let mut scaled = live.clone();
        scaled["spec"]["replicas"] = json!(5);
        managers::track(res, "scale", "kubectl", &live, &mut scaled);
        let refused = by("me", Some(&scaled), wanted, false).unwrap_err();
        assert!(
            refused
                .message
                .contains("\"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
            "{refused}"
        );
    }

    #[test]
    fn what_defaults_put_beside_goes_along() {
        let probe =
            json!([{"name": "a", "image": "i", "livenessProbe": {"httpGet": {"port": 80}}}]);
        let mut live = by("me", None, containers(probe), false).unwrap();
        (kinds::DEPLOYMENT.defaults)(&mut live);
        let bare = containers(json!([{"name": "a", "image": "i"}]));
        let live = by("me", Some(&live), bare, false).unwrap();
        let container = &live["spec"]["template"]["spec"]["containers"][0];
        assert!(container["livenessProbe"].is_null(), "{container}");
        assert_eq!(container["terminationMessagePolicy"], "File");
    }

    #[test]
    fn a_list_key_that_is_absent_has_its_default() {
        let port = |p: Value| containers(json!([{"name": "a", "image": "i", "ports": [p]}]));
        let live = by(
            "me",
            None,
            port(json!({"containerPort": 80, "protocol": "TCP"})),
            false,
        )
        .unwrap();
        let again = by(
            "me",
            Some(&live),
            port(json!({"containerPort": 80, "name": "w"})),
            false,
        )
        .unwrap();
        let ports = &again["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(ports.as_array().unwrap().len(), 1, "{ports}");
        let twice = containers(json!([{"name": "a"}, {"name": "a"}]));
        assert_eq!(by("me", None, twice, false).unwrap_err().code, 400);
    }
}
