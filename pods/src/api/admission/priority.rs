//! Priority: a pod's number from the name of its PriorityClass.

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::status::{Result, Status};
use crate::api::validate::text;
use crate::store::Selector;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "Priority",
    mutate,
    check,
};

/// A pod's class, number and policy: its own, the default class', or none.
fn class(request: &Request<'_>, named: &str) -> Result<(String, i64, String)> {
    let policy = |class: &Value| match text(class, "preemptionPolicy") {
        "" => "PreemptLowerPriority".to_owned(),
        other => other.to_owned(),
    };
    let value = |class: &Value| class["value"].as_i64().unwrap_or(0);
    if !named.is_empty() {
        let found = request.api.get(&kinds::PRIORITY_CLASS, "", named);
        let class = found.map_err(|_| {
            let why = format!("no PriorityClass with name {named} was found");
            Status::forbidden(&kinds::POD, "", &why)
        })?;
        let class = class.value();
        return Ok((named.to_owned(), value(class), policy(class)));
    }
    let all = request
        .api
        .list(&kinds::PRIORITY_CLASS, "", &Selector::all())
        .items;
    // Where two say that they are the default, the lower one is.
    let default = all
        .iter()
        .filter(|c| c.at("/globalDefault") == true)
        .min_by_key(|c| value(c.value()));
    Ok(match default {
        Some(c) => (c.name().to_owned(), value(c.value()), policy(c.value())),
        None => (String::new(), 0, "PreemptLowerPriority".to_owned()),
    })
}

fn mutate(request: &Request<'_>, pod: &mut Value) -> Result<()> {
    if *request.res != kinds::POD {
        return Ok(());
    }
    if let Some(old) = request.old {
        for field in ["priority", "preemptionPolicy"] {
            if pod["spec"].get(field).is_none() && old["spec"].get(field).is_some() {
                pod["spec"][field] = old["spec"][field].clone();
            }
        }
        return Ok(());
    }
    let (name, value, policy) = class(request, text(&pod["spec"], "priorityClassName"))?;
    let asked = pod["spec"]["priority"].as_i64();
    if asked.is_some_and(|asked| asked != value) {
        let why = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
            asked.unwrap_or(0)
        );
        return Err(Status::forbidden(
            &kinds::POD,
            text(&pod["metadata"], "name"),
            &why,
        ));
    }
    let spec = &mut pod["spec"];
    if !name.is_empty() {
        spec["priorityClassName"] = json!(name);
    }
    spec["priority"] = json!(value);
    if spec["preemptionPolicy"].is_null() {
        spec["preemptionPolicy"] = json!(policy);
    }
    Ok(())
}

fn check(request: &Request<'_>, class: &Value) -> Result<()> {
    if *request.res != kinds::PRIORITY_CLASS || class["globalDefault"] != true {
        return Ok(());
    }
    let name = text(&class["metadata"], "name");
    let all = request
        .api
        .list(&kinds::PRIORITY_CLASS, "", &Selector::all())
        .items;
    match all
        .iter()
        .find(|c| c.at("/globalDefault") == true && c.name() != name)
    {
        None => Ok(()),
        Some(other) => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            );
            Err(Status::forbidden(&kinds::PRIORITY_CLASS, name, &why))
        }
    }
}
