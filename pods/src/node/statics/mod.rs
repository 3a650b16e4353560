//! Static pods: what manifests in a directory of the node say is there, whoever deletes it.
//!
//! As with the kubelet, a pod `web` of the directory is `web-<node>` in the API, a mirror that cannot
//! be changed there for long. Unlike with the kubelet it may use ConfigMaps and Secrets, those of the
//! directory among them.

mod run;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub use run::Statics;

use crate::api::{Res, kinds};
use crate::controllers::objects::short_hash;
use crate::store::Object;

/// Where an object comes from; `file` for those of the directory.
pub const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The file's name.
const FILE: &str = "rrun.io/config.file";

/// Kind, namespace and name.
pub type Id = (&'static str, String, String);

/// What the directory says.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Objects as they are to be made.
    pub objects: BTreeMap<Id, Value>,
    /// Files that could not be read: what came of them stays.
    pub broken: BTreeSet<String>,
    /// What is wrong, for the log.
    pub faults: Vec<String>,
}

/// A step to make the API as the directory.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make it.
    Create(Value),
    /// Put this in its place.
    Replace(Value),
    /// Remove it, by its uid.
    Delete(Id, String),
}

/// The kind of an object that a directory may have.
fn kind(object: &Value) -> Option<Res> {
    let all: [Res; 3] = [&kinds::POD, &kinds::CONFIG_MAP, &kinds::SECRET];
    let named = |res: &Res| object["kind"] == res.kind && object["apiVersion"] == res.api_version();
    all.into_iter().find(named)
}

/// The kind by the name in an [`Id`].
pub fn kind_of(id: &Id) -> Res {
    match id.0 {
        "Pod" => &kinds::POD,
        "Secret" => &kinds::SECRET,
        _ => &kinds::CONFIG_MAP,
    }
}

impl Wanted {
    /// Takes an object of a file.
    pub fn take(&mut self, file: &str, node: &str, mut object: Value) {
        let Some(res) = kind(&object) else {
            let kind = &object["kind"];
            let fault = format!("{file}: {kind} is neither a Pod, a ConfigMap nor a Secret of v1");
            return self.faults.push(fault);
        };
        let hash = short_hash(&object.to_string());
        let meta = &mut object["metadata"];
        let text = |meta: &Value, key: &str| meta[key].as_str().unwrap_or_default().to_owned();
        let mut name = text(meta, "name");
        if name.is_empty() {
            return self
                .faults
                .push(format!("{file}: {} without a name", res.kind));
        }
        let mut namespace = text(meta, "namespace");
        if namespace.is_empty() {
            "default".clone_into(&mut namespace);
        }
        if *res == kinds::POD {
            name = format!("{name}-{node}");
            meta["annotations"][MIRROR] = json!(hash);
        }
        meta["name"] = json!(name);
        meta["namespace"] = json!(namespace);
        meta["annotations"][SOURCE] = json!("file");
        meta["annotations"][HASH] = json!(hash);
        meta["annotations"][FILE] = json!(file);
        if *res == kinds::POD {
            let spec = &mut object["spec"];
            spec["nodeName"] = json!(node);
            let all = json!({"operator": "Exists", "effect": "NoExecute"});
            match spec["tolerations"].as_array_mut() {
                Some(list) => list.push(all),
                None => spec["tolerations"] = json!([all]),
            }
        }
        let id = (res.kind, namespace, name);
        if self.objects.insert(id, object).is_some() {
            self.faults
                .push(format!("{file}: {} is there twice", res.kind));
        }
    }
}

/// The steps from what the API has of the directory to what it says.
pub fn plan(wanted: &Wanted, there: &BTreeMap<Id, std::sync::Arc<Object>>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (id, object) in there.iter().filter(|(_, o)| is_ours(o)) {
        let file = object.annotation(FILE).unwrap_or_default();
        let gone = !wanted.objects.contains_key(id) && !wanted.broken.contains(file);
        if gone && !object.is_deleting() {
            steps.push(Step::Delete(id.clone(), object.uid().to_owned()));
        }
    }
    for (id, object) in &wanted.objects {
        let Some(stored) = there.get(id) else {
            steps.push(Step::Create(object.clone()));
            continue;
        };
        let same = stored.annotation(HASH) == object["metadata"]["annotations"][HASH].as_str();
        // What somebody else made is not touched.
        if same || !is_ours(stored) || stored.is_deleting() {
            continue;
        }
        steps.push(if id.0 == "Pod" {
            // A new one is made once this one is gone.
            Step::Delete(id.clone(), stored.uid().to_owned())
        } else {
            Step::Replace(object.clone())
        });
    }
    steps
}

fn is_ours(object: &Object) -> bool {
    object.annotation(SOURCE) == Some("file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn wanted(image: &str) -> Wanted {
        let mut wanted = Wanted::default();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "x"}, "data": {"i": image}});
        wanted.take("a.yaml", "n1", pod);
        wanted.take("b.yaml", "n1", map);
        wanted
    }

    /// Carries the steps out on a world.
    fn apply(there: &mut BTreeMap<Id, Arc<Object>>, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Create(mut o) | Step::Replace(mut o) => {
                    o["metadata"]["uid"] = json!(format!("u{}", there.len()));
                    let text = |v: &Value| v.as_str().unwrap().to_owned();
                    let id = (
                        kind(&o).unwrap().kind,
                        text(&o["metadata"]["namespace"]),
                        text(&o["metadata"]["name"]),
                    );
                    there.insert(id, Object::from_value(1, o));
                }
                Step::Delete(id, _) => drop(there.remove(&id)),
            }
        }
    }

    #[test]
    fn it_converges_and_then_does_nothing() {
        let mut there = BTreeMap::new();
        let steps = plan(&wanted("a"), &there);
        apply(&mut there, steps);
        let names: Vec<&str> = there.keys().map(|id| id.2.as_str()).collect();
        assert_eq!(names, ["m", "web-n1"]);
        assert!(plan(&wanted("a"), &there).is_empty());
        // A change: the map at once, the pod goes and comes.
        let steps = plan(&wanted("b"), &there);
        assert!(
            matches!(steps.as_slice(), [Step::Replace(_), Step::Delete(..)]),
            "{steps:?}"
        );
        apply(&mut there, steps);
        let steps = plan(&wanted("b"), &there);
        apply(&mut there, steps);
        assert!(plan(&wanted("b"), &there).is_empty() && there.len() == 2);
        let steps = plan(&Wanted::default(), &there);
        apply(&mut there, steps);
        assert!(there.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_takes_nothing_away() {
        let mut there = BTreeMap::new();
        let steps = plan(&wanted("a"), &there);
        apply(&mut there, steps);
        let broken = Wanted {
            broken: ["a.yaml".to_owned()].into(),
            ..Wanted::default()
        };
        let steps = plan(&broken, &there);
        assert!(
            matches!(steps.as_slice(), [Step::Delete(id, _)] if id.0 == "ConfigMap"),
            "{steps:?}"
        );
    }

    #[test]
    fn what_others_made_is_theirs() {
        let id: Id = ("ConfigMap", "x".into(), "m".into());
        let theirs = Object::from_value(1, json!({"metadata": {"name": "m", "namespace": "x"}}));
        let there = BTreeMap::from([(id, theirs)]);
        let steps = plan(&wanted("a"), &there);
        assert!(
            matches!(steps.as_slice(), [Step::Create(o)] if o["kind"] == "Pod"),
            "{steps:?}"
        );
        let mut wanted = Wanted::default();
        wanted.take(
            "f",
            "n",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
        );
        assert!(wanted.objects.is_empty() && wanted.faults.len() == 1);
    }
}
