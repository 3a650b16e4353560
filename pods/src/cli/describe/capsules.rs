//! What containers of a pod left when they failed, in a line each.

use serde_json::Value;

use super::{Api, Page, text};
use crate::api::kinds::CAPSULE;
use crate::cli::kinds;

/// Adds the lines; none where nothing failed.
pub async fn describe(api: &Api, page: &mut Page, pod: &Value) {
    let namespace = text(pod, "/metadata/namespace");
    // Another API server has none.
    let Ok(list) = api.get(&kinds::path(&CAPSULE, namespace, None)).await else {
        return;
    };
    let uid = text(pod, "/metadata/uid");
    let all = list["items"].as_array().into_iter().flatten();
    let mine: Vec<&Value> = all.filter(|c| text(c, "/pod/uid") == uid).collect();
    if mine.is_empty() {
        return;
    }
    page.field(0, "Capsules", "(rrun-pods capsule NAME)");
    for capsule in mine {
        let code = &capsule["exitCode"];
        let said = format!("exit code {code}, {}", text(capsule, "/finishedAt"));
        page.field(1, text(capsule, "/metadata/name"), said);
    }
}
