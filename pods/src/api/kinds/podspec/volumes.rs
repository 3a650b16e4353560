//! The faults of volumes and of what mounts them.

use std::collections::HashSet;

use serde_json::Value;

use crate::api::validate::{Faults, items, names, text};
use crate::quantity;

/// Checks the volumes; returns their names.
pub(super) fn check<'a>(volumes: &'a Value, path: &str, faults: &mut Faults) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (i, v) in items(volumes) {
        let path = format!("{path}[{i}]");
        let name = text(v, "name");
        if name.is_empty() {
            faults.required(format!("{path}.name"), "");
        } else {
            for w in names::label(name) {
                faults.invalid_str(format!("{path}.name"), name, w);
            }
            if !seen.insert(name) {
                faults.duplicate(format!("{path}.name"), &v["name"]);
            }
        }
        source(v, &path, faults);
    }
    seen
}

fn source(v: &Value, path: &str, faults: &mut Faults) {
    let mut kinds = v
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, _)| *k != "name");
    let Some((kind, s)) = kinds.next() else {
        return faults.required(path, "must specify a volume type");
    };
    for (more, _) in kinds {
        faults.forbidden(
            format!("{path}.{more}"),
            "may not specify more than 1 volume type",
        );
    }
    let path = format!("{path}.{kind}");
    let mut need = |field: &str| {
        if text(s, field).is_empty() {
            faults.required(format!("{path}.{field}"), "");
        }
    };
    match kind.as_str() {
        "hostPath" => need("path"),
        "secret" => need("secretName"),
        "configMap" => need("name"),
        "persistentVolumeClaim" => need("claimName"),
        _ => {}
    }
    match kind.as_str() {
        "hostPath" => host_path(s, &path, faults),
        "secret" | "configMap" | "downwardAPI" | "projected" => files(s, &path, faults),
        "emptyDir" => {
            let limit = &s["sizeLimit"];
            if limit
                .as_str()
                .and_then(quantity::parse_nano)
                .is_some_and(|n| n < 0)
            {
                faults.forbidden(
                    format!("{path}.sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                );
            }
        }
        _ => {}
    }
}

fn host_path(s: &Value, path: &str, faults: &mut Faults) {
    if text(s, "path").split('/').any(|part| part == "..") {
        faults.invalid(format!("{path}.path"), &s["path"], "must not contain '..'");
    }
    let known = [
        "",
        "DirectoryOrCreate",
        "Directory",
        "FileOrCreate",
        "File",
        "Socket",
        "CharDevice",
        "BlockDevice",
    ];
    faults.one_of(&format!("{path}.type"), &s["type"], &known);
}

fn files(s: &Value, path: &str, faults: &mut Faults) {
    mode(&s["defaultMode"], format!("{path}.defaultMode"), faults);
    let sources = items(&s["sources"]).flat_map(|(i, source)| {
        let kinds = source.as_object().into_iter().flatten();
        kinds.map(move |(kind, one)| (format!("{path}.sources[{i}].{kind}"), one))
    });
    for (path, one) in sources.chain(std::iter::once((path.to_owned(), s))) {
        for (i, item) in items(&one["items"]) {
            let path = format!("{path}.items[{i}]");
            relative(text(item, "path"), format!("{path}.path"), faults);
            mode(&item["mode"], format!("{path}.mode"), faults);
            let by_key = item["fieldRef"].is_null() && item["resourceFieldRef"].is_null();
            if by_key && text(item, "key").is_empty() {
                faults.required(format!("{path}.key"), "");
            }
        }
    }
}

fn mode(value: &Value, path: String, faults: &mut Faults) {
    if value.as_i64().is_some_and(|n| !(0..=0o777).contains(&n)) {
        faults.invalid(
            path,
            value,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

/// A path below the volume: it may not lead out.
fn relative(value: &str, path: String, faults: &mut Faults) {
    if value.is_empty() {
        faults.required(path, "");
    } else if value.starts_with('/') {
        faults.invalid_str(path, value, "must be a relative path");
    } else if value.split('/').any(|part| part == "..") {
        faults.invalid_str(path, value, "must not contain '..'");
    } else if value.starts_with("..") {
        faults.invalid_str(path, value, "must not start with '..'");
    }
}

/// The faults of a container's volumeMounts.
pub(super) fn mounts(c: &Value, path: &str, volumes: &HashSet<&str>, faults: &mut Faults) {
    let mut paths = HashSet::new();
    for (i, m) in items(&c["volumeMounts"]) {
        let path = format!("{path}.volumeMounts[{i}]");
        let (name, at) = (text(m, "name"), text(m, "mountPath"));
        if name.is_empty() {
            faults.required(format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            faults.not_found(format!("{path}.name"), name);
        }
        if at.is_empty() {
            faults.required(format!("{path}.mountPath"), "");
        } else if !paths.insert(at) {
            faults.invalid_str(format!("{path}.mountPath"), at, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            let sub = text(m, field);
            if !sub.is_empty() {
                relative(sub, format!("{path}.{field}"), faults);
            }
        }
        if !text(m, "subPath").is_empty() && !text(m, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            faults.invalid(format!("{path}.subPathExpr"), &m["subPathExpr"], detail);
        }
        let known = ["None", "HostToContainer", "Bidirectional"];
        faults.one_of(
            &format!("{path}.mountPropagation"),
            &m["mountPropagation"],
            &known,
        );
    }
}
