//! `set image`.

use anyhow::{anyhow, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::http::{Api, patch};
use super::kinds;
use super::output::print;

/// What to set.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// `rrun-pods set image deployment/web web=registry/web:v2`.
    Image {
        /// The object.
        what: String,
        /// `CONTAINER=IMAGE`, where `*` is every container.
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, command: &Command) -> anyhow::Result<()> {
    let Command::Image { what, images } = command;
    let (res, name) = kinds::one(api, what, "deployment").await?;
    let path = kinds::path(res, namespace, Some(&name));
    let object = api.get(&path).await?;
    let pod = res.plural == "pods";
    let spec = if pod {
        &object["spec"]
    } else {
        &object["spec"]["template"]["spec"]
    };
    let mut changes = json!({});
    for pair in images {
        let (container, image) = pair
            .split_once('=')
            .ok_or_else(|| anyhow!("{pair}: must be CONTAINER=IMAGE"))?;
        let mut found = false;
        for list in ["containers", "initContainers"] {
            for known in spec[list].as_array().into_iter().flatten() {
                if container == "*" || known["name"] == container {
                    found = true;
                    let change = json!({"name": known["name"], "image": image});
                    push(&mut changes, list, change);
                }
            }
        }
        if !found {
            bail!(
                "unable to find container named \"{container}\" in {}",
                kinds::label(res, &name)
            );
        }
    }
    let change = if pod {
        json!({"spec": changes})
    } else {
        json!({"spec": {"template": {"spec": changes}}})
    };
    let after = api
        .call("PATCH", &path, patch("strategic", &change))
        .await?;
    if after["spec"] != object["spec"] {
        print(&format!("{} image updated\n", kinds::label(res, &name)));
    }
    Ok(())
}

fn push(changes: &mut Value, list: &str, change: Value) {
    match changes[list].as_array_mut() {
        Some(all) => all.push(change),
        None => changes[list] = json!([change]),
    }
}
