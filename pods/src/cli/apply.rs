//! `apply`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::http::{Api, patch};
use super::output::{self, print};
use super::{kinds, manifest};

/// `rrun-pods apply -f web.yaml`: server-side apply of every document.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods apply -f web.yaml -f service.yaml
  rrun-pods apply -f manifests/ --recursive
  cat web.yaml | rrun-pods apply -f -
  rrun-pods apply -f web.yaml --dry-run -o yaml")]
pub struct Options {
    /// File, directory or `-` for standard input; may be repeated.
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    /// Directories below directories too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Everything but the write itself.
    #[arg(long)]
    dry_run: bool,
    /// Do not take over fields that another manager set: a conflict is an error.
    #[arg(long)]
    no_force_conflicts: bool,
    /// json, yaml or name: show the objects instead of a line each.
    #[arg(short, long)]
    output: Option<String>,
}

/// Runs it. What is valid is applied; the first fault ends it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let documents = manifest::read(&options.filename, options.recursive)?;
    // Every document is understood before the first is applied.
    let mut planned = Vec::new();
    for document in &documents {
        let target =
            kinds::path_of(&document.object, namespace).with_context(|| document.origin.clone())?;
        planned.push((document, target));
    }
    for (document, (res, path)) in planned {
        let before = api
            .find(&path)
            .await
            .with_context(|| document.origin.clone())?;
        let mut query = format!(
            "?fieldManager=rrun-pods&fieldValidation=Strict&force={}",
            !options.no_force_conflicts
        );
        if options.dry_run {
            query.push_str("&dryRun=All");
        }
        let body = patch("apply", &document.object);
        let after = api
            .call("PATCH", &format!("{path}{query}"), body)
            .await
            .with_context(|| document.origin.clone())?;
        let name = after["metadata"]["name"].as_str().unwrap_or_default();
        let label = kinds::label(res, name);
        match options.output.as_deref() {
            Some("json") => print(&output::json(&after)),
            Some("yaml") => print(&format!("---\n{}", output::yaml(&after)?)),
            Some("name") => print(&format!("{label}\n")),
            _ => {
                let dry = if options.dry_run {
                    " (server dry run)"
                } else {
                    ""
                };
                print(&format!("{label} {}{dry}\n", word(before.as_ref(), &after)));
            }
        }
    }
    Ok(())
}

fn word(before: Option<&Value>, after: &Value) -> &'static str {
    match before {
        None => "created",
        Some(before) if changed(before, after) => "configured",
        Some(_) => "unchanged",
    }
}

/// Whether anything but the bookkeeping differs.
fn changed(before: &Value, after: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        if let Some(meta) = value["metadata"].as_object_mut() {
            meta.remove("managedFields");
            meta.remove("resourceVersion");
            meta.remove("generation");
        }
        value
    };
    plain(before) != plain(after)
}
