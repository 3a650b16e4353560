//! Budgets, quotas, limits and priorities.

use serde_json::Value;

use super::{Page, columns, pairs, shown};

fn table(page: &mut Page, rows: &[Vec<String>]) {
    for line in columns(rows).lines() {
        page.line(0, line);
    }
}

fn heading(names: &[&str]) -> Vec<Vec<String>> {
    let dashes = names.iter().map(|n| "-".repeat(n.len()));
    vec![
        names.iter().map(|n| (*n).to_owned()).collect(),
        dashes.collect(),
    ]
}

/// Adds the budget's lines.
pub fn budget(page: &mut Page, budget: &Value) {
    let (spec, status) = (&budget["spec"], &budget["status"]);
    for (name, field) in [
        ("Min available", "minAvailable"),
        ("Max unavailable", "maxUnavailable"),
    ] {
        if !spec[field].is_null() {
            page.field(0, name, shown(&spec[field]));
        }
    }
    page.field(
        0,
        "Selector",
        pairs(&spec["selector"]["matchLabels"], "=").join(","),
    );
    page.line(0, "Status:");
    for (name, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        page.field(4, name, status[field].as_i64().unwrap_or(0).to_string());
    }
}

/// Adds the quota's lines.
pub fn quota(page: &mut Page, quota: &Value) {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten();
    let scopes: Vec<&str> = scopes.filter_map(Value::as_str).collect();
    if !scopes.is_empty() {
        page.field(0, "Scopes", scopes.join(", "));
    }
    let mut rows = heading(&["Resource", "Used", "Hard"]);
    for (name, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
        let used = &quota["status"]["used"][name];
        rows.push(vec![name.clone(), shown(used), shown(hard)]);
    }
    table(page, &rows);
}

/// Adds the LimitRange's lines.
pub fn limits(page: &mut Page, range: &Value) {
    let names = [
        "Type",
        "Resource",
        "Min",
        "Max",
        "Default Request",
        "Default Limit",
        "Max Limit/Request Ratio",
    ];
    let mut rows = heading(&names);
    let fields = [
        "min",
        "max",
        "defaultRequest",
        "default",
        "maxLimitRequestRatio",
    ];
    for limit in range["spec"]["limits"].as_array().into_iter().flatten() {
        let maps = fields.iter().filter_map(|f| limit[f].as_object());
        let resources: std::collections::BTreeSet<&String> = maps.flat_map(|m| m.keys()).collect();
        for resource in resources {
            let mut row = vec![shown(&limit["type"]), resource.clone()];
            row.extend(
                fields
                    .iter()
                    .map(|f| shown(&limit[f][resource]).replace("<none>", "-")),
            );
            rows.push(row);
        }
    }
    table(page, &rows);
}

/// Adds the PriorityClass' lines.
pub fn priority(page: &mut Page, class: &Value) {
    page.field(0, "Value", shown(&class["value"]));
    page.field(
        0,
        "GlobalDefault",
        (class["globalDefault"] == true).to_string(),
    );
    page.field(0, "PreemptionPolicy", shown(&class["preemptionPolicy"]));
    page.field(0, "Description", shown(&class["description"]));
}
