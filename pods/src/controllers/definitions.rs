//! CustomResourceDefinitions: which names each gets, when it is served, and what goes with it.

use serde_json::{Value, json};

/// What a definition's status is to be.
///
/// Names belong to whoever was there first: `others` are the older definitions of the same group
/// that have theirs.
pub fn status(definition: &Value, others: &[&Value], now: &str) -> Value {
    let (spec, old) = (&definition["spec"], &definition["status"]);
    let names = &spec["names"];
    let taken = others
        .iter()
        .find_map(|o| conflict(names, &o["status"]["acceptedNames"]));
    let accepted = if taken.is_some() {
        old["acceptedNames"].clone()
    } else {
        names.clone()
    };
    let going = definition["metadata"]["deletionTimestamp"].is_string();
    let established = taken.is_none() || is_true(old, "Established");
    let mut wanted = vec![
        match &taken {
            None => (
                "NamesAccepted",
                "True",
                "NoConflicts",
                "no conflicts found".to_owned(),
            ),
            Some((reason, message)) => ("NamesAccepted", "False", *reason, message.clone()),
        },
        if established {
            (
                "Established",
                "True",
                "InitialNamesAccepted",
                "the initial names have been accepted".to_owned(),
            )
        } else {
            (
                "Established",
                "False",
                "NotAccepted",
                "not all names are accepted".to_owned(),
            )
        },
    ];
    if going {
        let message = "CustomResource deletion is in progress".to_owned();
        wanted.push(("Terminating", "True", "InstanceDeletionInProgress", message));
    }
    let mut stored: Vec<Value> = old["storedVersions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let versions = spec["versions"].as_array().into_iter().flatten();
    for v in versions.filter(|v| v["storage"] == true) {
        if !stored.contains(&v["name"]) {
            stored.push(v["name"].clone());
        }
    }
    json!({"acceptedNames": accepted, "storedVersions": stored,
           "conditions": conditions(&old["conditions"], &wanted, now)})
}

fn is_true(status: &Value, kind: &str) -> bool {
    let all = status["conditions"].as_array();
    let mut all = all.into_iter().flatten();
    all.any(|c| c["type"] == kind && c["status"] == "True")
}

fn conflict(names: &Value, taken: &Value) -> Option<(&'static str, String)> {
    let words = |n: &Value| -> Vec<String> {
        let short = n["shortNames"].as_array().cloned().unwrap_or_default();
        let all = [n["plural"].clone(), n["singular"].clone()];
        let all = all.into_iter().chain(short);
        all.filter_map(|v| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned))
            .collect()
    };
    let kinds = |n: &Value| [n["kind"].clone(), n["listKind"].clone()];
    if let Some(word) = words(names).into_iter().find(|w| words(taken).contains(w)) {
        return Some(("NameConflict", format!("{word:?} is already in use")));
    }
    let found = kinds(names)
        .into_iter()
        .find(|k| k.is_string() && kinds(taken).contains(k));
    found.map(|kind| ("KindConflict", format!("{kind} is already in use")))
}

/// The wanted conditions, with the time of the last change of each.
fn conditions(old: &Value, wanted: &[(&str, &str, &str, String)], now: &str) -> Vec<Value> {
    let known = |kind: &str| {
        old.as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind)
    };
    let all = wanted.iter().map(|(kind, status, reason, message)| {
        let since = known(kind)
            .filter(|c| c["status"] == *status)
            .map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": since})
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"metadata": {"name": plural}, "spec": {"group": "g.io",
            "names": {"plural": plural, "kind": kind, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "storage": true}]}, "status": {}})
    }

    #[test]
    fn a_definition_is_established_and_then_left_alone() {
        let mut d = definition("crons", "Cron");
        let first = status(&d, &[], "t1");
        assert!(is_true(&first, "Established") && is_true(&first, "NamesAccepted"));
        assert_eq!(first["storedVersions"], json!(["v1"]));
        d["status"] = first.clone();
        assert_eq!(status(&d, &[], "t2"), first);
        d["spec"]["versions"] = json!([{"name": "v1"}, {"name": "v2", "storage": true}]);
        assert_eq!(status(&d, &[], "t2")["storedVersions"], json!(["v1", "v2"]));
        d["metadata"]["deletionTimestamp"] = json!("t3");
        assert!(is_true(&status(&d, &[], "t3"), "Terminating"));
    }

    #[test]
    fn names_belong_to_the_first() {
        let mut first = definition("crons", "Cron");
        first["status"] = status(&first, &[], "t1");
        let second = definition("cronies", "Cron");
        let got = status(&second, &[&first], "t2");
        assert!(!is_true(&got, "Established"));
        assert_eq!(got["conditions"][0]["reason"], "NameConflict");
        let third = definition("others", "Other");
        assert!(is_true(&status(&third, &[&first], "t2"), "Established"));
    }
}
