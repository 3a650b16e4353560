//! `logs`.

use anyhow::bail;
use clap::Args;
use http_body_util::BodyExt;
use serde_json::Value;
use std::io::Write;

use super::http::{Api, encode};
use super::kinds;

/// `rrun-pods logs -f web`, `logs deployment/web --tail 20`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods logs web
  rrun-pods logs -f deployment/web --tail 20 --timestamps
  rrun-pods logs web -c sidecar --previous
  rrun-pods logs -l app=web --all-containers --prefix")]
pub struct Options {
    /// A pod, or `deployment/web`.
    what: Option<String>,
    /// The container, where the pod has several.
    #[arg(short, long)]
    container: Option<String>,
    /// Every container.
    #[arg(long)]
    all_containers: bool,
    /// The pods with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Go on while the log grows.
    #[arg(short, long)]
    follow: bool,
    /// The run before the current one.
    #[arg(short, long)]
    previous: bool,
    /// The last lines alone; -1 is all.
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Begin each line with its time.
    #[arg(long)]
    timestamps: bool,
    /// Not what is older, as 30s, 5m or 2h.
    #[arg(long)]
    since: Option<String>,
    /// Not what is older than this RFC 3339 time.
    #[arg(long)]
    since_time: Option<String>,
    /// End after so many bytes.
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// Begin each line with the pod and the container.
    #[arg(long)]
    prefix: bool,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let pods = match (&options.what, &options.selector) {
        (Some(what), None) => vec![pod_of(api, namespace, what).await?],
        (None, Some(selector)) => matching(api, namespace, selector).await?,
        _ => bail!("logs: give a pod, deployment/NAME, or -l SELECTOR"),
    };
    let query = query(options)?;
    let mut parts = Vec::new();
    for pod in &pods {
        for container in containers(pod, options) {
            parts.push((pod, container));
        }
    }
    let copies = parts.iter().map(|(pod, container)| {
        copy(
            api,
            namespace,
            pod,
            container.as_deref(),
            &query,
            options.prefix,
        )
    });
    if options.follow {
        futures_util::future::try_join_all(copies).await?;
        return Ok(());
    }
    for one in copies {
        one.await?;
    }
    Ok(())
}

/// The pod that is meant: itself, or the first that runs of what a controller selects.
pub async fn pod_of(api: &Api, namespace: &str, what: &str) -> anyhow::Result<Value> {
    let (res, name) = kinds::one(api, what, "pod").await?;
    let object = api.get(&kinds::path(res, namespace, Some(&name))).await?;
    if res.plural == "pods" {
        return Ok(object);
    }
    let selector = match res.plural {
        "services" => &object["spec"]["selector"],
        _ => &object["spec"]["selector"]["matchLabels"],
    };
    let pairs = selector.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        bail!("{what}: selects no pods");
    }
    let mut pods = matching(api, namespace, &pairs.join(",")).await?;
    pods.retain(|p| p["metadata"]["deletionTimestamp"].is_null());
    pods.sort_by_key(|pod| {
        let ready = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = ready
            .into_iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        !ready
    });
    let count = pods.len();
    let first = pods.into_iter().next();
    let first = first.ok_or_else(|| anyhow::anyhow!("{what}: has no pods"))?;
    if count > 1 {
        let name = first["metadata"]["name"].as_str().unwrap_or_default();
        eprintln!("Found {count} pods, using pod/{name}");
    }
    Ok(first)
}

async fn matching(api: &Api, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector={}",
        encode(selector)
    );
    let list = api.get(&path).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn containers(pod: &Value, options: &Options) -> Vec<Option<String>> {
    if !options.all_containers {
        let named = options.container.clone();
        return vec![named.or_else(|| default_container(pod))];
    }
    let list = |key: &str| pod["spec"][key].as_array().cloned().unwrap_or_default();
    let all = list("initContainers").into_iter().chain(list("containers"));
    all.map(|c| c["name"].as_str().map(str::to_owned)).collect()
}

/// The container that is meant where none is named, told where there is a choice: the one of the
/// annotation, or the first.
pub fn default_container(pod: &Value) -> Option<String> {
    let all = pod["spec"]["containers"].as_array()?;
    let names: Vec<&str> = all.iter().filter_map(|c| c["name"].as_str()).collect();
    let annotated = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    let chosen = names.iter().find(|n| **n == annotated).or(names.first())?;
    if names.len() > 1 {
        eprintln!(
            "Defaulted container \"{chosen}\" out of: {}",
            names.join(", ")
        );
    }
    Some((*chosen).to_owned())
}

fn query(options: &Options) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for (set, name) in [
        (options.follow, "follow"),
        (options.previous, "previous"),
        (options.timestamps, "timestamps"),
    ] {
        if set {
            parts.push(format!("{name}=true"));
        }
    }
    if let Some(lines) = options.tail.filter(|n| *n >= 0) {
        parts.push(format!("tailLines={lines}"));
    }
    if let Some(span) = &options.since {
        parts.push(format!("sinceSeconds={}", seconds(span)?));
    }
    if let Some(time) = &options.since_time {
        parts.push(format!("sinceTime={}", encode(time)));
    }
    if let Some(bytes) = options.limit_bytes {
        parts.push(format!("limitBytes={bytes}"));
    }
    Ok(parts.join("&"))
}

/// `90s`, `5m`, `1h30m` as seconds.
pub fn seconds(text: &str) -> anyhow::Result<u64> {
    let bad = || anyhow::anyhow!("{text}: not a span of time; write 30s, 5m or 2h");
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(bad()),
        };
        let count: u64 = std::mem::take(&mut number).parse().map_err(|_| bad())?;
        total = count
            .checked_mul(unit)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(bad)?;
    }
    if !number.is_empty() {
        total += number.parse::<u64>().map_err(|_| bad())?;
    }
    if text.is_empty() {
        Err(bad())
    } else {
        Ok(total)
    }
}

async fn copy(
    api: &Api,
    namespace: &str,
    pod: &Value,
    container: Option<&str>,
    query: &str,
    prefix: bool,
) -> anyhow::Result<()> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let mut path = format!("/api/v1/namespaces/{namespace}/pods/{name}/log?{query}");
    if let Some(container) = container {
        path.push_str(&format!("&container={container}"));
    }
    let prefix = prefix.then(|| format!("[pod/{name}/{}] ", container.unwrap_or_default()));
    let mut body = api
        .open("GET", &path, "text/plain, application/json", None)
        .await?;
    let mut fresh = true;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let mut out = std::io::stdout().lock();
        let written = match &prefix {
            None => out.write_all(&data),
            Some(prefix) => prefixed(&mut out, prefix, &data, &mut fresh),
        };
        if written.and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn prefixed(
    out: &mut impl Write,
    prefix: &str,
    data: &[u8],
    fresh: &mut bool,
) -> std::io::Result<()> {
    for line in data.split_inclusive(|b| *b == b'\n') {
        if *fresh {
            out.write_all(prefix.as_bytes())?;
        }
        out.write_all(line)?;
        *fresh = line.ends_with(b"\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time() {
        for (text, expected) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("7", 7)] {
            assert_eq!(seconds(text).unwrap(), expected);
        }
        for bad in ["", "m", "5x", "-5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
