//! `top`.

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;

use super::http::Api;
use super::output::{columns, print};
use crate::quantity;

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What pods use.
    #[command(alias = "pod")]
    Pods {
        /// Every namespace.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// What the node uses.
    #[command(alias = "node")]
    Nodes,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, command: &Command) -> anyhow::Result<()> {
    let base = "/apis/metrics.k8s.io/v1beta1";
    let path = match command {
        Command::Pods {
            all_namespaces: true,
        } => format!("{base}/pods"),
        Command::Pods { .. } => format!("{base}/namespaces/{namespace}/pods"),
        Command::Nodes => format!("{base}/nodes"),
    };
    let list = match api.get(&path).await {
        Ok(list) => list,
        Err(error) if super::http::is_missing(&error) => bail!("Metrics API not available"),
        Err(error) => return Err(error),
    };
    let mut rows = vec![
        ["NAME", "CPU(cores)", "MEMORY(bytes)"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let (cpu, memory) = usage(item);
        rows.push(vec![
            name.to_owned(),
            format!("{cpu}m"),
            format!("{}Mi", memory >> 20),
        ]);
    }
    print(&columns(&rows));
    Ok(())
}

/// Thousandths of a CPU, and bytes.
fn usage(item: &Value) -> (i128, i128) {
    let parts = item["containers"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![item.clone()]);
    let of = |part: &Value, name: &str| {
        part["usage"][name]
            .as_str()
            .and_then(quantity::parse_nano)
            .unwrap_or(0)
    };
    let cpu: i128 = parts.iter().map(|p| of(p, "cpu")).sum();
    let memory: i128 = parts.iter().map(|p| of(p, "memory")).sum();
    (cpu / 1_000_000, memory / 1_000_000_000)
}
