//! `capsule`: what a container that failed left.

use clap::Args;
use serde_json::Value;

use super::http::Api;
use super::kinds;
use super::output::print;
use crate::api::kinds::CAPSULE;

/// `rrun-pods capsule web`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods capsule                  all capsules of the namespace
  rrun-pods capsule web              the newest one of the pod web
  rrun-pods capsule web -c sidecar   of one of its containers
  rrun-pods capsule web --all        every one of the pod")]
pub struct Options {
    /// Name of a pod, which may be gone; or of a capsule.
    what: Option<String>,
    /// Of this container.
    #[arg(short, long)]
    container: Option<String>,
    /// Every one, not the newest alone.
    #[arg(long)]
    all: bool,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let list = api.get(&kinds::path(&CAPSULE, namespace, None)).await?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    let Some(what) = &options.what else {
        print(&overview(&all));
        return Ok(());
    };
    let what = what.strip_prefix("pod/").unwrap_or(what);
    let of = |c: &&Value| {
        let named = c["pod"]["name"] == *what || c["metadata"]["name"] == *what;
        named
            && options
                .container
                .as_ref()
                .is_none_or(|n| c["container"] == **n)
    };
    let mut mine = all.iter().filter(of).peekable();
    anyhow::ensure!(
        mine.peek().is_some(),
        "no capsule of {what}: no container of it failed, or it was too long ago (`capsule` lists all)"
    );
    let number = if options.all { usize::MAX } else { 1 };
    for capsule in mine.take(number) {
        print(&page(capsule));
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Nothing of what a container wrote reaches the terminal but its letters.
fn plain(text: &str) -> String {
    let keep = |c: char| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(keep).collect()
}

fn overview(all: &[Value]) -> String {
    if all.is_empty() {
        return "No container has failed.\n".to_owned();
    }
    let mut rows =
        vec![["FINISHED", "POD", "CONTAINER", "RESTARTS", "EXIT", "REASON"].map(str::to_owned)];
    for c in all {
        rows.push([
            text(&c["finishedAt"]),
            text(&c["pod"]["name"]),
            text(&c["container"]),
            text(&c["restarts"]),
            text(&c["exitCode"]),
            plain(&text(&c["reason"])),
        ]);
    }
    let mut out = String::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|r| r[i].len()).max().unwrap_or(0);
            let pad = if i + 1 < row.len() { width + 3 } else { 0 };
            out.push_str(&format!("{cell:pad$}"));
        }
        out.push('\n');
    }
    out
}

/// One capsule for people.
fn page(c: &Value) -> String {
    let mut out = String::new();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("{:<14}{}\n", format!("{name}:"), plain(&value)));
        }
    };
    field("Capsule", text(&c["metadata"]["name"]));
    field(
        "Pod",
        format!(
            "{}/{}",
            text(&c["metadata"]["namespace"]),
            text(&c["pod"]["name"])
        ),
    );
    field(
        "Container",
        format!("{} (run {})", text(&c["container"]), text(&c["restarts"])),
    );
    field("Image", text(&c["image"]));
    field("Started", text(&c["startedAt"]));
    field("Finished", text(&c["finishedAt"]));
    field("Exit Code", text(&c["exitCode"]));
    field("Signal", text(&c["signal"]));
    field("Reason", text(&c["reason"]));
    if c["oomKilled"] == true {
        let limit = text(&c["resources"]["limits"]["memory"]);
        let limit = if limit.is_empty() {
            "none of its own".to_owned()
        } else {
            limit
        };
        field("Memory", format!("out of memory; its limit is {limit}"));
    }
    field("Message", text(&c["message"]));
    out.push_str(&usage(&c["usage"]));
    out.push_str(&files(c));
    out.push_str(&log(c));
    out.push('\n');
    out
}

fn usage(points: &Value) -> String {
    let points = points.as_array().map(Vec::as_slice).unwrap_or_default();
    if points.is_empty() {
        return "Usage:        it did not live long enough to be measured\n".to_owned();
    }
    let mut out = "Usage:        time      cpu     memory\n".to_owned();
    for point in points.iter().rev().take(15).rev() {
        let at = point["at"]
            .as_i64()
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        let at = at
            .map(|t| t.strftime("%H:%M:%S").to_string())
            .unwrap_or_default();
        let memory = point["memory"].as_u64().unwrap_or(0) >> 20;
        let cpu = format!("{}m", text(&point["cpu"]));
        out.push_str(&format!("              {at}  {cpu:<7} {memory}Mi\n"));
    }
    out
}

fn files(c: &Value) -> String {
    if let Some(why) = c["filesError"].as_str() {
        return format!("Files:        not known: {}\n", plain(why));
    }
    let files = c["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = format!("Files:        {} changed", files.len());
    out.push_str(if c["filesTruncated"] == true {
        ", and more\n"
    } else {
        "\n"
    });
    for file in files.iter().take(40) {
        let mark = text(&file["change"]).chars().next().unwrap_or('?');
        let size = file["size"]
            .as_u64()
            .map(|n| format!("  {n} B"))
            .unwrap_or_default();
        let path = plain(&text(&file["path"]));
        out.push_str(&format!("  {mark} {path}{size}\n"));
    }
    if files.len() > 40 {
        out.push_str("  … all with -o json: get capsules\n");
    }
    out
}

fn log(c: &Value) -> String {
    if let Some(why) = c["logError"].as_str() {
        return format!("Log:          not known: {}\n", plain(why));
    }
    let lines = c["log"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = format!("Log:          the last {} lines\n", lines.len());
    for line in lines.iter().filter_map(Value::as_str) {
        out.push_str(&format!("  {}\n", plain(line)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_container_wrote_cannot_steer_the_terminal() {
        let capsule = json!({"metadata": {"name": "x"}, "message": "\u{1b}[2J", "log": ["t stdout F \u{1b}]0;x\u{7}"],
            "files": [{"path": "/\u{1b}[31m", "change": "Added", "size": 3}]});
        let shown = page(&capsule);
        assert!(
            !shown.contains('\u{1b}') && !shown.contains('\u{7}'),
            "{shown}"
        );
        assert!(shown.contains("A /") && shown.contains("3 B"));
    }
}
