//! `describe`: an object with all that belongs to it, and its events.

mod capsules;
mod deployment;
mod job;
mod node;
mod pod;
mod policy;
mod service;
mod sets;
mod storage;

use clap::Args;
use serde_json::Value;

use super::http::{Api, encode};
use super::output::{ago, columns, print};
use super::{custom, kinds, output};
use crate::api::Res;

/// `rrun-pods describe pod web`.
#[derive(Debug, Args)]
pub struct Options {
    /// Kinds and names: `pod web`, `deployment/web`, `nodes`.
    #[arg(required = true)]
    what: Vec<String>,
    /// Only objects with these labels.
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let mut first = true;
    for (res, names) in kinds::targets(api, &options.what).await? {
        for object in objects(api, namespace, res, &names, options).await? {
            if !std::mem::take(&mut first) {
                print("\n\n");
            }
            print(&describe(api, res, &object).await?);
        }
    }
    if first {
        eprintln!("No resources found in {namespace} namespace");
    }
    Ok(())
}

async fn objects(
    api: &Api,
    namespace: &str,
    res: Res,
    names: &[String],
    options: &Options,
) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for name in names {
        all.push(api.get(&kinds::path(res, namespace, Some(name))).await?);
    }
    if names.is_empty() {
        let selector = encode(options.selector.as_deref().unwrap_or_default());
        let path = format!(
            "{}?labelSelector={selector}",
            kinds::path(res, namespace, None)
        );
        let list = api.get(&path).await?;
        all.extend(list["items"].as_array().cloned().unwrap_or_default());
    }
    Ok(all)
}

async fn describe(api: &Api, res: Res, object: &Value) -> anyhow::Result<String> {
    let mut page = Page::default();
    head(&mut page, res, object);
    // Another group may have a kind of the same name.
    let known = if custom::is_built_in(res) {
        res.plural
    } else {
        ""
    };
    match known {
        "pods" => {
            pod::describe(&mut page, object);
            capsules::describe(api, &mut page, object).await;
        }
        "deployments" => deployment::describe(api, &mut page, object).await?,
        "replicasets" => deployment::describe_set(&mut page, object),
        "services" => service::describe(api, &mut page, object).await?,
        "nodes" => node::describe(api, &mut page, object).await?,
        "jobs" => job::describe(&mut page, object),
        "cronjobs" => job::describe_cron(&mut page, object),
        "statefulsets" => sets::stateful(&mut page, object),
        "daemonsets" => sets::daemon(&mut page, object),
        "replicationcontrollers" => sets::replication(&mut page, object),
        "persistentvolumeclaims" => storage::claim(api, &mut page, object).await?,
        "persistentvolumes" => storage::volume(&mut page, object),
        "storageclasses" => storage::class(&mut page, object),
        "poddisruptionbudgets" => policy::budget(&mut page, object),
        "resourcequotas" => policy::quota(&mut page, object),
        "limitranges" => policy::limits(&mut page, object),
        "priorityclasses" => policy::priority(&mut page, object),
        "secrets" => data(&mut page, object, true),
        "configmaps" => data(&mut page, object, false),
        _ => {
            for key in ["spec", "status"] {
                if !object[key].is_null() {
                    page.line(0, &format!("{}{}:", key[..1].to_uppercase(), &key[1..]));
                    for line in output::yaml(&object[key])?.lines() {
                        page.line(2, line);
                    }
                }
            }
        }
    }
    events(api, &mut page, object).await?;
    Ok(page.finish())
}

/// Lines of `name:  value`, whose values line up within a block of equal indent.
#[derive(Default)]
pub struct Page {
    lines: Vec<(usize, String, Option<String>)>,
}

impl Page {
    /// A name with its value.
    pub fn field(&mut self, indent: usize, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.lines.push((indent, format!("{name}:"), Some(value)));
    }

    /// A line as it is.
    pub fn line(&mut self, indent: usize, text: &str) {
        self.lines.push((indent, text.to_owned(), None));
    }

    /// A name with several values, one a line.
    pub fn list(&mut self, indent: usize, name: &str, values: &[String]) {
        match values {
            [] => self.field(indent, name, "<none>"),
            [first, rest @ ..] => {
                self.field(indent, name, first.clone());
                for value in rest {
                    self.lines
                        .push((indent, String::new(), Some(value.clone())));
                }
            }
        }
    }

    fn finish(self) -> String {
        let mut out = String::new();
        for (index, (indent, name, value)) in self.lines.iter().enumerate() {
            let pad = " ".repeat(*indent);
            let Some(value) = value else {
                out.push_str(&format!("{pad}{name}\n"));
                continue;
            };
            let width = self.width(index, *indent);
            let line = format!("{pad}{name:width$}  {value}");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// The widest name of the block that line `at` is in: neighbours of no smaller indent.
    fn width(&self, at: usize, indent: usize) -> usize {
        let same = |line: &&(usize, String, Option<String>)| line.0 >= indent;
        let before = self.lines[..at].iter().rev().take_while(same);
        let after = self.lines[at..].iter().take_while(same);
        let block = before.chain(after);
        let names = block
            .filter(|l| l.0 == indent && l.2.is_some())
            .map(|l| l.1.len());
        names.max().unwrap_or(0)
    }
}

/// Text of a field; empty where it is absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A value for people; `<none>` where it is absent.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `key=value` pairs.
pub fn pairs(value: &Value, sign: &str) -> Vec<String> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(k, v)| format!("{k}{sign}{}", v.as_str().unwrap_or_default()))
        .collect()
}

/// A time with how long ago it was.
pub fn when(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => time.to_owned(),
    }
}

fn head(page: &mut Page, res: Res, object: &Value) {
    let meta = &object["metadata"];
    page.field(0, "Name", text(meta, "/name"));
    if res.namespaced {
        page.field(0, "Namespace", text(meta, "/namespace"));
    }
    if res.plural == "pods" {
        return;
    }
    if matches!(res.plural, "deployments" | "nodes") {
        page.field(
            0,
            "CreationTimestamp",
            when(text(meta, "/creationTimestamp")),
        );
    }
    page.list(0, "Labels", &pairs(&meta["labels"], "="));
    page.list(0, "Annotations", &pairs(&meta["annotations"], ": "));
}

fn data(page: &mut Page, object: &Value, secret: bool) {
    if secret {
        page.field(0, "Type", text(object, "/type"));
    }
    page.line(0, "");
    page.line(0, "Data");
    page.line(0, "====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if secret {
            // Base64 of n bytes, four characters for three.
            let padding = value.bytes().rev().take_while(|b| *b == b'=').count();
            page.line(
                0,
                &format!("{key}:  {} bytes", value.len() / 4 * 3 - padding),
            );
        } else {
            page.line(0, &format!("{key}:\n----\n{value}\n"));
        }
    }
    page.line(0, "");
}

async fn events(api: &Api, page: &mut Page, object: &Value) -> anyhow::Result<()> {
    let meta = &object["metadata"];
    let namespace = match text(meta, "/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let fields = format!(
        "involvedObject.name={},involvedObject.uid={}",
        text(meta, "/name"),
        text(meta, "/uid")
    );
    let path = format!(
        "/api/v1/namespaces/{namespace}/events?fieldSelector={}",
        encode(&fields)
    );
    let list = api.get(&path).await?;
    let mut all = list["items"].as_array().cloned().unwrap_or_default();
    all.sort_by_key(|e| text(e, "/lastTimestamp").to_owned());
    if all.is_empty() {
        page.field(0, "Events", "<none>");
        return Ok(());
    }
    page.line(0, "Events:");
    let mut rows = vec![
        ["  Type", "Reason", "Age", "From", "Message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.push(
        ["  ----", "------", "----", "----", "-------"]
            .map(str::to_owned)
            .to_vec(),
    );
    for event in &all {
        let count = event["count"].as_i64().unwrap_or(1);
        let mut age = ago(event["lastTimestamp"].as_str());
        if count > 1 {
            age = format!(
                "{age} (x{count} over {})",
                ago(event["firstTimestamp"].as_str())
            );
        }
        let from = match text(event, "/source/component") {
            "" => text(event, "/reportingComponent"),
            from => from,
        };
        rows.push(vec![
            format!("  {}", text(event, "/type")),
            text(event, "/reason").to_owned(),
            age,
            from.to_owned(),
            text(event, "/message").trim().to_owned(),
        ]);
    }
    for line in columns(&rows).lines() {
        page.line(0, line);
    }
    Ok(())
}
