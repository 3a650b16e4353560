//! `delete`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::http::{Api, Lines, encode, is_missing, json as body};
use super::output::print;
use super::{kinds, manifest};
use crate::api::Res;

/// `rrun-pods delete pod web`, `delete -f web.yaml`, `delete pods --all`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods delete deployment/web service/web
  rrun-pods delete -f manifests/ --wait
  rrun-pods delete pods -l app=web
  rrun-pods delete pod stuck --now")]
pub struct Options {
    /// Kinds and names: `pod web`, `deployment/web service/web`, `pods --all`.
    what: Vec<String>,
    /// Delete what these manifests name.
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    /// Directories below directories too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Every object of the kinds in the namespace.
    #[arg(long)]
    all: bool,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Seconds that pods get to end.
    #[arg(long)]
    grace_period: Option<i64>,
    /// A grace period of one second.
    #[arg(long)]
    now: bool,
    /// Remove the object at once, without waiting for its containers to end.
    #[arg(long)]
    force: bool,
    /// background, foreground or orphan.
    #[arg(long, default_value = "background")]
    cascade: String,
    /// Wait until the objects are gone.
    #[arg(long, num_args = 0..=1, default_value = "true", default_missing_value = "true", require_equals = true)]
    wait: bool,
    /// How long to wait in seconds; 0 is for ever.
    #[arg(long, default_value_t = 0)]
    timeout: u64,
    /// What is gone already is fine.
    #[arg(long)]
    ignore_not_found: bool,
}

struct Target {
    res: Res,
    path: String,
    name: String,
    uid: String,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let mut gone = Vec::new();
    for (res, path, name) in collect(api, namespace, options).await? {
        let query = body(&delete_options(options)?);
        match api.call("DELETE", &path, query).await {
            Ok(answer) => {
                let how = if options.force {
                    "force deleted"
                } else {
                    "deleted"
                };
                print(&format!("{} \"{name}\" {how}\n", label(res)));
                let uid = answer["metadata"]["uid"]
                    .as_str()
                    .or(answer["details"]["uid"].as_str());
                let uid = uid.unwrap_or_default().to_owned();
                gone.push(Target {
                    res,
                    path,
                    name,
                    uid,
                });
            }
            Err(error) if is_missing(&error) && (options.ignore_not_found || options.all) => {}
            Err(error) => return Err(error),
        }
    }
    if gone.is_empty() && !options.ignore_not_found {
        eprintln!("No resources found");
    }
    if !options.wait || options.force {
        return Ok(());
    }
    let all = async {
        for target in &gone {
            wait_for(api, target).await?;
        }
        Ok(())
    };
    if options.timeout == 0 {
        return all.await;
    }
    match tokio::time::timeout(Duration::from_secs(options.timeout), all).await {
        Ok(done) => done,
        Err(_) => bail!(
            "not gone within {} s; `get` shows what is left",
            options.timeout
        ),
    }
}

/// Deletes one object, in the background and with its own grace. One that is gone is fine.
pub async fn one(api: &Api, res: Res, path: &str, name: &str) -> anyhow::Result<()> {
    let options = body(&json!({"propagationPolicy": "Background"}));
    match api.call("DELETE", path, options).await {
        Ok(_) => print(&format!("{} \"{name}\" deleted\n", label(res))),
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn label(res: Res) -> String {
    kinds::label(res, "").trim_end_matches('/').to_owned()
}

fn delete_options(options: &Options) -> anyhow::Result<Value> {
    let propagation = match options.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => bail!("--cascade {other}: use background, foreground or orphan"),
    };
    let mut value = json!({"propagationPolicy": propagation});
    let grace = match (options.force, options.now, options.grace_period) {
        (true, _, _) => Some(0),
        (_, true, _) => Some(1),
        (_, _, grace) => grace,
    };
    if let Some(grace) = grace {
        value["gracePeriodSeconds"] = grace.into();
    }
    Ok(value)
}

async fn collect(
    api: &Api,
    namespace: &str,
    options: &Options,
) -> anyhow::Result<Vec<(Res, String, String)>> {
    let mut all = Vec::new();
    if !options.filename.is_empty() {
        for document in manifest::read(&options.filename, options.recursive)? {
            let (res, path) = kinds::path_of(api, &document.object, namespace).await?;
            let name = document.object["metadata"]["name"]
                .as_str()
                .unwrap_or_default();
            all.push((res, path, name.to_owned()));
        }
        return Ok(all);
    }
    for (res, names) in kinds::targets(api, &options.what).await? {
        if !names.is_empty() {
            for name in names {
                all.push((res, kinds::path(res, namespace, Some(&name)), name));
            }
            continue;
        }
        if !options.all && options.selector.is_none() {
            bail!("delete {}: give names, -l SELECTOR or --all", res.plural);
        }
        let selector = options.selector.as_deref().unwrap_or_default();
        let query = format!("?labelSelector={}", encode(selector));
        let list = api
            .get(&format!("{}{query}", kinds::path(res, namespace, None)))
            .await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            all.push((res, kinds::path(res, namespace, Some(&name)), name));
        }
    }
    Ok(all)
}

/// Waits until the object is gone, or another one has its name.
async fn wait_for(api: &Api, target: &Target) -> anyhow::Result<()> {
    loop {
        let Some(object) = api.find(&target.path).await? else {
            return Ok(());
        };
        if !target.uid.is_empty() && object["metadata"]["uid"] != target.uid.as_str() {
            return Ok(());
        }
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let path = format!(
            "{}?watch=true&resourceVersion={version}&fieldSelector={}",
            kinds::path(target.res, namespace, None),
            encode(&format!("metadata.name={}", target.name))
        );
        let Ok(stream) = api.open("GET", &path, "application/json", None).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let mut lines = Lines::new(stream);
        while let Some(line) = lines.next().await? {
            let event: Value = serde_json::from_slice(&line)?;
            if matches!(event["type"].as_str(), Some("DELETED" | "ERROR")) {
                break;
            }
        }
    }
}
