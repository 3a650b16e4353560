//! `autoscale`.

use clap::Args;
use serde_json::{Value, json};

use super::http::Api;
use super::kinds;
use super::output::print;
use crate::api::kinds::HORIZONTAL_POD_AUTOSCALER;

/// `rrun-pods autoscale deployment/web --max 5 --cpu 80%`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods autoscale deployment/web --min 2 --max 10
  rrun-pods autoscale deployment web --max 5 --cpu 500m --memory 60%")]
pub struct Options {
    /// `deployment/web`, or `deployment web`.
    #[arg(required = true)]
    what: Vec<String>,
    /// The least number of replicas.
    #[arg(long, default_value_t = 1)]
    min: i32,
    /// The largest number of replicas.
    #[arg(long)]
    max: i32,
    /// CPU that a pod is to use: a share of what it requests as 80%, or an amount as 500m.
    #[arg(long, alias = "cpu-percent")]
    cpu: Option<String>,
    /// Memory that a pod is to use, in the same ways.
    #[arg(long)]
    memory: Option<String>,
    /// Name of the autoscaler; that of what it scales when absent.
    #[arg(long)]
    name: Option<String>,
}

/// A number alone is a percentage, as kubectl's --cpu-percent has it.
fn metric(resource: &str, text: &str) -> Value {
    let share = text.strip_suffix('%').unwrap_or(text).parse::<i32>();
    let target = match share {
        Ok(percent) => json!({"type": "Utilization", "averageUtilization": percent}),
        Err(_) => json!({"type": "AverageValue", "averageValue": text}),
    };
    json!({"type": "Resource", "resource": {"name": resource, "target": target}})
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    for (res, names) in kinds::targets(api, &options.what).await? {
        anyhow::ensure!(!names.is_empty(), "autoscale {}: give a name", res.plural);
        anyhow::ensure!(res.has_scale, "{} have no number of replicas", res.plural);
        for name in names {
            let metrics = [("cpu", &options.cpu), ("memory", &options.memory)];
            let metrics = metrics.into_iter();
            let metrics: Vec<Value> = metrics
                .filter_map(|(resource, text)| Some(metric(resource, text.as_deref()?)))
                .collect();
            let own = options.name.as_ref().unwrap_or(&name);
            let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": own},
                "spec": {"minReplicas": options.min, "maxReplicas": options.max, "metrics": metrics,
                    "scaleTargetRef": {"apiVersion": res.api_version(), "kind": res.kind, "name": name}}});
            let path = kinds::path(&HORIZONTAL_POD_AUTOSCALER, namespace, None);
            api.call("POST", &path, super::http::json(&object)).await?;
            print(&format!(
                "{} autoscaled\n",
                kinds::label(&HORIZONTAL_POD_AUTOSCALER, own)
            ));
        }
    }
    Ok(())
}
