//! `scale`.

use clap::Args;
use serde_json::json;

use super::http::{Api, patch};
use super::kinds;
use super::output::print;

/// `rrun-pods scale deployment/web --replicas 5`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods scale deployment/web --replicas 5
  rrun-pods scale deployment web --replicas 0")]
pub struct Options {
    /// `deployment/web`, or `deployment web`.
    #[arg(required = true)]
    what: Vec<String>,
    /// How many.
    #[arg(long)]
    replicas: u32,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    for (res, names) in kinds::targets(api, &options.what).await? {
        anyhow::ensure!(!names.is_empty(), "scale {}: give a name", res.plural);
        for name in names {
            let path = kinds::path(res, namespace, Some(&name));
            let change = json!({"spec": {"replicas": options.replicas}});
            api.call("PATCH", &format!("{path}/scale"), patch("merge", &change))
                .await?;
            print(&format!("{} scaled\n", kinds::label(res, &name)));
        }
    }
    Ok(())
}
