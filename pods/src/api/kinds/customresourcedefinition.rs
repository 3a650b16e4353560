//! `CustomResourceDefinition`.

use serde_json::{Value, json};

use super::podspec::default;
use crate::api::custom;
use crate::api::resource::Resource;
use crate::api::table::{Column, name_age};
use crate::api::validate::{Faults, items, names, text};
use crate::store::Object;

/// Finalizer that keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// `apiextensions.k8s.io/v1` `CustomResourceDefinition`.
pub static CUSTOM_RESOURCE_DEFINITION: Resource = Resource {
    group: "apiextensions.k8s.io",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    kind: "CustomResourceDefinition",
    namespaced: false,
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    has_status: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column {
            kind: "date",
            ..Column::text("Created At")
        },
    ],
    row: |o: &Object| {
        let mut row = name_age(o);
        row[1] = o.at("/metadata/creationTimestamp").clone();
        row
    },
    prepare: |o| {
        o["status"] = json!({"conditions": [], "storedVersions": [],
            "acceptedNames": {"plural": "", "kind": ""}});
    },
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn defaults(o: &mut Value) {
    if o["metadata"]["deletionTimestamp"].is_null() {
        let held = items(&o["metadata"]["finalizers"]).any(|(_, f)| f == CLEANUP);
        if !held && let Some(meta) = o["metadata"].as_object_mut() {
            let all = meta.entry("finalizers").or_insert_with(|| json!([]));
            if let Some(all) = all.as_array_mut() {
                all.push(json!(CLEANUP));
            }
        }
    }
    let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
        return;
    };
    if !spec["conversion"].is_object() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    if let Some(names) = spec.get_mut("names").filter(|n| n.is_object()) {
        let kind = text(names, "kind").to_owned();
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
}

fn validate(o: &Value, faults: &mut Faults) {
    let (spec, name) = (&o["spec"], text(&o["metadata"], "name"));
    let (group, words) = (text(spec, "group"), &spec["names"]);
    if group.is_empty() {
        faults.required("spec.group", "");
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        faults.invalid_str("spec.group", group, detail);
    } else {
        for w in names::subdomain(group) {
            faults.invalid_str("spec.group", group, w);
        }
    }
    let wanted = format!("{}.{group}", text(words, "plural"));
    if name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.invalid_str("metadata.name", name, detail);
    }
    protected(o, group, faults);
    if text(spec, "scope").is_empty() {
        faults.required("spec.scope", "");
    }
    faults.one_of("spec.scope", &spec["scope"], &["Cluster", "Namespaced"]);
    for field in ["plural", "singular", "kind", "listKind"] {
        let (value, path) = (text(words, field), format!("spec.names.{field}"));
        if value.is_empty() {
            faults.required(path, "");
            continue;
        }
        for w in names::label(&value.to_lowercase()) {
            faults.invalid_str(&path, value, w);
        }
    }
    if spec["preserveUnknownFields"] == true {
        let detail = "must be false in order to use defaults in the schema";
        faults.invalid("spec.preserveUnknownFields", &json!(true), detail);
    }
    // A webhook would be called for each read of another version: there is none to call here.
    faults.one_of(
        "spec.conversion.strategy",
        &spec["conversion"]["strategy"],
        &["None"],
    );
    versions(spec, faults);
}

/// Groups of the project itself need its consent, which an annotation tells of.
fn protected(o: &Value, group: &str, faults: &mut Faults) {
    let own = [".k8s.io", ".kubernetes.io"];
    let note = "api-approved.kubernetes.io";
    let told = !text(&o["metadata"]["annotations"], note).is_empty();
    if own.iter().any(|end| group.ends_with(end)) && !told {
        let detail = format!("protected groups must have approval annotation {note:?}");
        faults.required(format!("metadata.annotations[{note}]"), &detail);
    }
}

fn versions(spec: &Value, faults: &mut Faults) {
    let all = &spec["versions"];
    let mut seen: Vec<&str> = Vec::new();
    for (i, v) in items(all) {
        let (path, name) = (format!("spec.versions[{i}]"), text(v, "name"));
        for w in names::label(name) {
            faults.invalid_str(format!("{path}.name"), name, w);
        }
        if seen.contains(&name) {
            faults.invalid_str(&path, name, "must contain unique version names");
        }
        seen.push(name);
        let schema = &v["schema"]["openAPIV3Schema"];
        let at = format!("{path}.schema.openAPIV3Schema");
        if schema.is_object() {
            for (below, message) in custom::schema_faults(schema) {
                faults.said(format!("{at}{below}"), message);
            }
        } else {
            faults.required(at, "schemas are required");
        }
        for (j, c) in items(&v["additionalPrinterColumns"]) {
            let at = format!("{path}.additionalPrinterColumns[{j}]");
            for field in ["name", "type", "jsonPath"] {
                if text(c, field).is_empty() {
                    faults.required(format!("{at}.{field}"), "");
                }
            }
            let known = ["boolean", "date", "integer", "number", "string"];
            faults.one_of(&format!("{at}.type"), &c["type"], &known);
            let column = text(c, "jsonPath");
            if crate::jsonpath::Template::parse(column).is_err() {
                faults.invalid_str(format!("{at}.jsonPath"), column, "is not a JSONPath");
            }
        }
        let scale = &v["subresources"]["scale"];
        for (field, root) in [
            ("specReplicasPath", ".spec."),
            ("statusReplicasPath", ".status."),
        ] {
            let at = format!("{path}.subresources.scale.{field}");
            match text(scale, field) {
                _ if !scale.is_object() => {}
                "" => faults.required(at, ""),
                found if !found.starts_with(root) => {
                    let detail = format!("should be a json path under {root}");
                    faults.invalid_str(at, found, detail.trim_end_matches('.'));
                }
                _ => {}
            }
        }
    }
    if items(all).filter(|(_, v)| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.invalid("spec.versions", &json!(seen), detail);
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    for field in ["group", "scope"] {
        faults.immutable(
            &format!("spec.{field}"),
            &old["spec"][field],
            &new["spec"][field],
        );
    }
    for (i, stored) in items(&old["status"]["storedVersions"]) {
        let there = items(&new["spec"]["versions"]).any(|(_, v)| v["name"] == *stored);
        if !there {
            let path = format!("status.storedVersions[{i}]");
            faults.invalid(path, stored, "must appear in spec.versions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(edit: impl Fn(&mut Value)) -> Vec<String> {
        let mut o = json!({"metadata": {"name": "crons.stable.example.com"}, "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crons", "kind": "Cron"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        edit(&mut o);
        defaults(&mut o);
        let mut faults = Faults::default();
        validate(&o, &mut faults);
        let causes = faults.into_causes().into_iter();
        causes
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn faults_are_named() {
        assert!(said(|_| {}).is_empty());
        assert_eq!(
            said(|o| o["metadata"]["name"] = json!("x")),
            ["metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group"]
        );
        assert_eq!(
            said(|o| o["spec"]["versions"][0]["storage"] = json!(false)),
            [
                "spec.versions: Invalid value: [\"v1\"]: must have exactly one version marked as storage version"
            ]
        );
        assert_eq!(
            said(|o| o["spec"]["versions"][0]["schema"] = json!({})),
            ["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"]
        );
        assert_eq!(
            said(
                |o| o["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] =
                    json!({"spec": {}})
            ),
            [
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
            ]
        );
        let webhook = said(|o| o["spec"]["conversion"] = json!({"strategy": "Webhook"}));
        assert_eq!(
            webhook,
            [
                "spec.conversion.strategy: Unsupported value: \"Webhook\": supported values: \"None\""
            ]
        );
    }
}
