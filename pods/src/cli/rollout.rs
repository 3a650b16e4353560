//! `rollout`.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::http::{Api, Lines, encode, patch};
use super::kinds;
use super::output::{columns, print};

const REVISION: &str = "deployment.kubernetes.io/revision";

/// Which object.
#[derive(Debug, Args)]
pub struct Target {
    /// `deployment/web`.
    what: String,
}

/// What to do with a rollout.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait until the rollout is done.
    Status {
        #[command(flatten)]
        target: Target,
        /// Do not wait.
        #[arg(long, num_args = 0..=1, default_value = "true", default_missing_value = "true", require_equals = true)]
        watch: bool,
        /// Seconds to wait; 0 is for ever.
        #[arg(long, default_value_t = 0)]
        timeout: u64,
    },
    /// List revisions.
    History {
        #[command(flatten)]
        target: Target,
        /// Show the template of one.
        #[arg(long)]
        revision: Option<i64>,
    },
    /// Go back to an earlier revision.
    Undo {
        #[command(flatten)]
        target: Target,
        /// The revision; 0 is the last but one.
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace every pod, one batch after the other.
    Restart(Target),
    /// Hold changes of the template back.
    Pause(Target),
    /// Let changes of the template go on.
    Resume(Target),
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Status {
            target,
            watch,
            timeout,
        } => {
            let done = status(api, namespace, target, *watch);
            if *timeout == 0 {
                return done.await;
            }
            match tokio::time::timeout(Duration::from_secs(*timeout), done).await {
                Ok(done) => done,
                Err(_) => bail!("the rollout was not done within {timeout} s"),
            }
        }
        Command::History { target, revision } => history(api, namespace, target, *revision).await,
        Command::Undo {
            target,
            to_revision,
        } => undo(api, namespace, target, *to_revision).await,
        Command::Restart(target) => {
            let now = crate::node::now().to_string();
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            let change = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
            change_it(api, namespace, target, &change, "restarted").await
        }
        Command::Pause(target) => {
            change_it(
                api,
                namespace,
                target,
                &json!({"spec": {"paused": true}}),
                "paused",
            )
            .await
        }
        Command::Resume(target) => {
            change_it(
                api,
                namespace,
                target,
                &json!({"spec": {"paused": false}}),
                "resumed",
            )
            .await
        }
    }
}

async fn path(api: &Api, namespace: &str, target: &Target) -> anyhow::Result<(String, String)> {
    let (res, name) = kinds::one(api, &target.what, "deployment").await?;
    if res.plural != "deployments" {
        bail!("{}: only Deployments have rollouts here", target.what);
    }
    Ok((kinds::path(res, namespace, Some(&name)), name))
}

async fn change_it(
    api: &Api,
    namespace: &str,
    target: &Target,
    change: &Value,
    word: &str,
) -> anyhow::Result<()> {
    let (path, name) = path(api, namespace, target).await?;
    api.call("PATCH", &path, patch("merge", change)).await?;
    print(&format!("deployment.apps/{name} {word}\n"));
    Ok(())
}

/// What kubectl says of a rollout, and whether it is done.
fn progress(deployment: &Value) -> anyhow::Result<(String, bool)> {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let status = &deployment["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let generation = number(&deployment["metadata"]["generation"]);
    if generation > number(&status["observedGeneration"]) {
        return Ok((
            "Waiting for deployment spec update to be observed...\n".to_owned(),
            false,
        ));
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.into_iter();
    if conditions.any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded") {
        bail!("deployment \"{name}\" exceeded its progress deadline");
    }
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let updated = number(&status["updatedReplicas"]);
    let total = number(&status["replicas"]);
    let available = number(&status["availableReplicas"]);
    let waiting = format!("Waiting for deployment \"{name}\" rollout to finish: ");
    let said = if updated < wanted {
        format!("{waiting}{updated} out of {wanted} new replicas have been updated...\n")
    } else if total > updated {
        format!(
            "{waiting}{} old replicas are pending termination...\n",
            total - updated
        )
    } else if available < updated {
        format!("{waiting}{available} of {updated} updated replicas are available...\n")
    } else {
        return Ok((
            format!("deployment \"{name}\" successfully rolled out\n"),
            true,
        ));
    };
    Ok((said, false))
}

async fn status(api: &Api, namespace: &str, target: &Target, wait: bool) -> anyhow::Result<()> {
    let (path, name) = path(api, namespace, target).await?;
    let mut last = String::new();
    loop {
        let object = api.get(&path).await?;
        let (said, done) = progress(&object)?;
        if said != last {
            print(&said);
            last.clone_from(&said);
        }
        if done || !wait {
            return Ok(());
        }
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let all = path.trim_end_matches(&format!("/{name}"));
        let fields = encode(&format!("metadata.name={name}"));
        let watch = format!("{all}?watch=true&resourceVersion={version}&fieldSelector={fields}");
        let mut lines = Lines::new(api.open("GET", &watch, "application/json", None).await?);
        while let Some(line) = lines.next().await? {
            let event: Value = serde_json::from_slice(&line)?;
            match event["type"].as_str() {
                Some("ERROR") => break,
                Some("DELETED") => bail!("deployment \"{name}\" was deleted"),
                Some("BOOKMARK") => continue,
                _ => {}
            }
            let (said, done) = progress(&event["object"])?;
            if said != last {
                print(&said);
                last = said;
            }
            if done {
                return Ok(());
            }
        }
    }
}

fn revision(object: &Value) -> i64 {
    let text = object["metadata"]["annotations"][REVISION].as_str();
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The Deployment's sets, by revision.
async fn sets(api: &Api, namespace: &str, deployment: &Value) -> anyhow::Result<Vec<Value>> {
    let list = api
        .get(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets"))
        .await?;
    let uid = &deployment["metadata"]["uid"];
    let mut sets: Vec<Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|set| {
            let owners = set["metadata"]["ownerReferences"].as_array();
            owners.into_iter().flatten().any(|o| o["uid"] == *uid)
        })
        .cloned()
        .collect();
    sets.sort_by_key(revision);
    Ok(sets)
}

async fn history(
    api: &Api,
    namespace: &str,
    target: &Target,
    wanted: Option<i64>,
) -> anyhow::Result<()> {
    let (path, name) = path(api, namespace, target).await?;
    let deployment = api.get(&path).await?;
    let sets = sets(api, namespace, &deployment).await?;
    if let Some(wanted) = wanted {
        let set = sets.iter().find(|s| revision(s) == wanted);
        let set = set.ok_or_else(|| anyhow!("unable to find the specified revision {wanted}"))?;
        print(&format!("deployment.apps/{name} with revision #{wanted}\n"));
        print(&super::output::yaml(&set["spec"]["template"])?);
        return Ok(());
    }
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for set in &sets {
        let cause = set["metadata"]["annotations"]["kubernetes.io/change-cause"].as_str();
        rows.push(vec![
            revision(set).to_string(),
            cause.unwrap_or("<none>").to_owned(),
        ]);
    }
    print(&format!("deployment.apps/{name}\n{}\n", columns(&rows)));
    Ok(())
}

async fn undo(api: &Api, namespace: &str, target: &Target, to: i64) -> anyhow::Result<()> {
    let (path, name) = path(api, namespace, target).await?;
    let deployment = api.get(&path).await?;
    if deployment["spec"]["paused"] == true {
        bail!(
            "you cannot rollback a paused deployment; resume it first with 'rollout resume deployment/{name}'"
        );
    }
    let sets = sets(api, namespace, &deployment).await?;
    let current = revision(&deployment);
    let chosen = if to == 0 {
        sets.iter()
            .rev()
            .find(|s| revision(s) < current && revision(s) > 0)
    } else {
        sets.iter().find(|s| revision(s) == to)
    };
    let chosen = chosen.ok_or_else(|| match to {
        0 => anyhow!("no rollout history found for deployment \"{name}\""),
        _ => anyhow!("unable to find the specified revision {to}"),
    })?;
    if revision(chosen) == current {
        print(&format!(
            "deployment.apps/{name} skipped rollback (current template already matches revision {current})\n"
        ));
        return Ok(());
    }
    let mut template = chosen["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    // Replaced as a whole: a merge would keep what the newer template added.
    let change = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let body = Some((
        "application/json-patch+json",
        change.to_string().into_bytes(),
    ));
    api.call("PATCH", &path, body).await?;
    print(&format!("deployment.apps/{name} rolled back\n"));
    Ok(())
}
