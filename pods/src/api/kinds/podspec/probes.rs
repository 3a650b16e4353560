//! The faults of probes and life cycle hooks.

use serde_json::Value;

use crate::api::validate::{Faults, names, text};

const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Checks the probes and hooks of a container.
pub(super) fn check(c: &Value, path: &str, faults: &mut Faults) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &c[name];
        if probe.is_null() {
            continue;
        }
        let path = format!("{path}.{name}");
        handler(
            probe,
            &path,
            &["exec", "httpGet", "tcpSocket", "grpc"],
            faults,
        );
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            faults.not_negative(&format!("{path}.{field}"), &probe[field]);
        }
        if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
            faults.invalid(
                format!("{path}.successThreshold"),
                &probe["successThreshold"],
                "must be 1",
            );
        }
    }
    for hook in ["postStart", "preStop"] {
        let action = &c["lifecycle"][hook];
        if !action.is_null() {
            let path = format!("{path}.lifecycle.{hook}");
            handler(
                action,
                &path,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                faults,
            );
        }
    }
}

fn handler(h: &Value, path: &str, kinds: &[&str], faults: &mut Faults) {
    let given: Vec<&&str> = kinds.iter().filter(|k| !h[**k].is_null()).collect();
    let Some(kind) = given.first() else {
        return faults.required(path, "must specify a handler type");
    };
    for more in &given[1..] {
        faults.forbidden(
            format!("{path}.{more}"),
            "may not specify more than 1 handler type",
        );
    }
    let (path, action) = (format!("{path}.{kind}"), &h[**kind]);
    match **kind {
        "exec" if action["command"].as_array().is_none_or(Vec::is_empty) => {
            faults.required(format!("{path}.command"), "");
        }
        "httpGet" => {
            if text(action, "path").is_empty() {
                faults.required(format!("{path}.path"), "");
            }
            port(&action["port"], &format!("{path}.port"), faults);
            faults.one_of(
                &format!("{path}.scheme"),
                &action["scheme"],
                &["HTTP", "HTTPS"],
            );
        }
        "tcpSocket" | "grpc" => port(&action["port"], &format!("{path}.port"), faults),
        _ => {}
    }
}

/// A number, or the name of one of the container's ports.
fn port(value: &Value, path: &str, faults: &mut Faults) {
    match value {
        Value::String(name) => {
            for w in names::port(name) {
                faults.invalid_str(path, name, w);
            }
        }
        other if other.as_i64().is_some_and(|n| (1..=65535).contains(&n)) => {}
        Value::Null => faults.required(path, ""),
        other => faults.invalid(path, other, PORT_RANGE),
    }
}
