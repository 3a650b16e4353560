//! `wait`.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::http::{Api, encode};
use super::kinds;
use super::output::print;
use crate::jsonpath::Template;

/// `rrun-pods wait pod/web --for condition=Ready`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods wait pod/web --for condition=Ready --timeout 60s
  rrun-pods wait pods -l app=web --for delete
  rrun-pods wait pod/job --for jsonpath='{.status.phase}'=Succeeded")]
pub struct Options {
    /// Kinds and names.
    #[arg(required = true)]
    what: Vec<String>,
    /// condition=NAME[=VALUE], jsonpath={PATH}=VALUE, or delete.
    #[arg(long = "for")]
    until: String,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// How long, as 30s or 5m.
    #[arg(long, default_value = "30s")]
    timeout: String,
}

enum Until {
    Gone,
    Condition(String, String),
    Path(Template, String),
}

impl Until {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "delete" {
            return Ok(Self::Gone);
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "True"));
            return Ok(Self::Condition(name.to_lowercase(), value.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=")
            && let Some((path, value)) = rest.rsplit_once('=')
        {
            return Ok(Self::Path(Template::parse(path)?, value.to_owned()));
        }
        bail!("--for {text}: use condition=NAME, jsonpath={{PATH}}=VALUE or delete");
    }

    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Gone, object) => object.is_none(),
            (_, None) => false,
            (Self::Condition(name, value), Some(object)) => {
                let all = object["status"]["conditions"].as_array();
                all.into_iter().flatten().any(|c| {
                    c["type"]
                        .as_str()
                        .is_some_and(|t| t.to_lowercase() == *name)
                        && c["status"]
                            .as_str()
                            .is_some_and(|s| s.eq_ignore_ascii_case(value))
                })
            }
            (Self::Path(template, value), Some(object)) => template.render(object) == *value,
        }
    }
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let until = Until::parse(&options.until)?;
    let limit = super::logs::seconds(&options.timeout)?;
    let mut objects = Vec::new();
    for (res, mut names) in kinds::targets(api, &options.what).await? {
        if names.is_empty() {
            let selector = encode(options.selector.as_deref().unwrap_or_default());
            let path = format!(
                "{}?labelSelector={selector}",
                kinds::path(res, namespace, None)
            );
            let list = api.get(&path).await?;
            let items = list["items"].as_array().into_iter().flatten();
            names.extend(items.filter_map(|i| i["metadata"]["name"].as_str().map(str::to_owned)));
        }
        objects.extend(names.into_iter().map(|name| (res, name)));
    }
    if objects.is_empty() && !matches!(until, Until::Gone) {
        bail!("no matching resources found");
    }
    let all = async {
        for (res, name) in &objects {
            let path = kinds::path(res, namespace, Some(name));
            while !until.holds(api.find(&path).await?.as_ref()) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            print(&format!("{} condition met\n", kinds::label(res, name)));
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(limit), all).await {
        Ok(done) => done,
        Err(_) => bail!(
            "timed out after {} waiting for {}",
            options.timeout,
            options.until
        ),
    }
}
