//! `get`.

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::http::{Api, Lines, encode};
use super::kinds;
use super::output::{self, Format};
use crate::api::Res;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// `rrun-pods get pods`, `get deploy,svc`, `get pod web -o yaml`, `get pods -w`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods get pods -A -o wide
  rrun-pods get deployments,services -l app=web
  rrun-pods get pod web -o jsonpath='{.status.podIP}'
  rrun-pods get pods -w")]
pub struct Options {
    /// Kinds and names: `pods`, `pod web`, `deployment/web service/web`.
    #[arg(required = true)]
    what: Vec<String>,
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEADING:PATH,….
    #[arg(short, long)]
    output: Option<String>,
    /// Every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels, as `app=web,tier!=db`.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Only objects with these fields, as `status.phase=Running`.
    #[arg(long)]
    field_selector: Option<String>,
    /// Go on and show every change.
    #[arg(short, long)]
    watch: bool,
    /// Without the line of headings.
    #[arg(long)]
    no_headers: bool,
    /// Show labels as a column.
    #[arg(long)]
    show_labels: bool,
    /// Say nothing when there is no such object.
    #[arg(long)]
    ignore_not_found: bool,
}

/// Runs it.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let format = Format::parse(options.output.as_deref())?;
    let targets = kinds::targets(api, &options.what).await?;
    let namespace = if options.all_namespaces {
        ""
    } else {
        namespace
    };
    if options.watch {
        let [(res, names)] = targets.as_slice() else {
            bail!("--watch takes one kind");
        };
        return watch(api, namespace, res, names, &format, options).await;
    }
    match &format {
        Format::Table { wide } => tables(api, namespace, &targets, *wide, options).await,
        _ => objects(api, namespace, &targets, &format, options).await,
    }
}

fn query(options: &Options) -> String {
    let mut parts = Vec::new();
    if let Some(selector) = &options.selector {
        parts.push(format!("labelSelector={}", encode(selector)));
    }
    if let Some(selector) = &options.field_selector {
        parts.push(format!("fieldSelector={}", encode(selector)));
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!("?{}", parts.join("&"))
    }
}

async fn tables(
    api: &Api,
    namespace: &str,
    targets: &[(Res, Vec<String>)],
    wide: bool,
    options: &Options,
) -> anyhow::Result<()> {
    let several = targets.len() > 1;
    let mut shown = false;
    for (res, names) in targets {
        let mut table: Option<Value> = None;
        let paths: Vec<String> = if names.is_empty() {
            vec![format!(
                "{}{}",
                kinds::path(res, namespace, None),
                query(options)
            )]
        } else {
            names
                .iter()
                .map(|n| kinds::path(res, namespace, Some(n)))
                .collect()
        };
        for path in paths {
            let part = match api.call_for("GET", &path, TABLE, None).await {
                Ok(part) => part,
                Err(e) if options.ignore_not_found && super::http::is_missing(&e) => continue,
                Err(e) => return Err(e),
            };
            match &mut table {
                None => table = Some(part),
                Some(table) => {
                    let more = part["rows"].as_array().cloned().unwrap_or_default();
                    if let Some(rows) = table["rows"].as_array_mut() {
                        rows.extend(more);
                    }
                }
            }
        }
        let Some(table) = table else { continue };
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        if shown {
            output::print("\n");
        }
        shown = true;
        let prefix = several.then(|| kinds::label(res, ""));
        let look = Look {
            wide,
            prefix,
            namespaces: options.all_namespaces && res.namespaced,
            options,
        };
        output::print(&output::colour_table(&output::columns(
            &look.rows(&table, !options.no_headers),
        )));
    }
    if !shown && !options.ignore_not_found {
        let place = if namespace.is_empty() {
            String::new()
        } else {
            format!(" in {namespace} namespace")
        };
        let cluster = targets.iter().all(|(res, _)| !res.namespaced);
        eprintln!("No resources found{}", if cluster { "" } else { &place });
    }
    Ok(())
}

/// How a table is shown.
struct Look<'a> {
    wide: bool,
    /// Put before names where several kinds are shown.
    prefix: Option<String>,
    namespaces: bool,
    options: &'a Options,
}

impl Look<'_> {
    fn rows(&self, table: &Value, headings: bool) -> Vec<Vec<String>> {
        let columns = table["columnDefinitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let shown: Vec<usize> = (0..columns.len())
            .filter(|i| self.wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        let mut all = Vec::new();
        if headings {
            let mut head: Vec<String> = Vec::new();
            if self.namespaces {
                head.push("NAMESPACE".to_owned());
            }
            head.extend(shown.iter().map(|i| {
                columns[*i]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_uppercase()
            }));
            if self.options.show_labels {
                head.push("LABELS".to_owned());
            }
            all.push(head);
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            all.push(self.row(row, &shown));
        }
        all
    }

    fn row(&self, row: &Value, shown: &[usize]) -> Vec<String> {
        let mut line = Vec::new();
        let meta = &row["object"]["metadata"];
        if self.namespaces {
            line.push(meta["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (position, index) in shown.iter().enumerate() {
            let cell = match &row["cells"][*index] {
                Value::String(text) if text.is_empty() => "<none>".to_owned(),
                Value::String(text) => text.clone(),
                Value::Null => "<none>".to_owned(),
                other => other.to_string(),
            };
            match (position, &self.prefix) {
                (0, Some(prefix)) => line.push(format!("{prefix}{cell}")),
                _ => line.push(cell),
            }
        }
        if self.options.show_labels {
            line.push(labels(&meta["labels"]));
        }
        line
    }
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

async fn objects(
    api: &Api,
    namespace: &str,
    targets: &[(Res, Vec<String>)],
    format: &Format,
    options: &Options,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    let mut single = targets.len() == 1;
    for (res, names) in targets {
        single &= names.len() == 1;
        if names.is_empty() {
            let path = format!("{}{}", kinds::path(res, namespace, None), query(options));
            let list = api.get(&path).await?;
            for item in list["items"].as_array().into_iter().flatten() {
                found.push((*res, typed(res, item)));
            }
        }
        for name in names {
            let path = kinds::path(res, namespace, Some(name));
            match api.get(&path).await {
                Ok(object) => found.push((*res, object)),
                Err(e) if options.ignore_not_found && super::http::is_missing(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    if let Format::Name = format {
        for (res, object) in &found {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            output::print(&format!("{}\n", kinds::label(res, name)));
        }
        return Ok(());
    }
    if let Format::Columns(columns) = format {
        let all = found.iter().map(|(_, object)| object);
        output::print(&columns.table(all, !options.no_headers));
        return Ok(());
    }
    if single && found.is_empty() {
        return Ok(());
    }
    let value = match (single, found.len()) {
        (true, 1) => found.remove(0).1,
        _ => {
            let items: Vec<Value> = found.into_iter().map(|(_, o)| o).collect();
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        }
    };
    show(&value, format)
}

/// Items of a list come without the kind that they are.
fn typed(res: Res, item: &Value) -> Value {
    let mut all = serde_json::Map::new();
    all.insert("apiVersion".to_owned(), res.api_version().into());
    all.insert("kind".to_owned(), res.kind.into());
    all.extend(item.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}

fn show(value: &Value, format: &Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::print(&output::json(value)),
        Format::Yaml => output::print(&output::yaml(value)?),
        Format::JsonPath(template) => output::print(&template.render(value)),
        Format::Name | Format::Columns(_) | Format::Table { .. } => {}
    }
    Ok(())
}

async fn watch(
    api: &Api,
    namespace: &str,
    res: Res,
    names: &[String],
    format: &Format,
    options: &Options,
) -> anyhow::Result<()> {
    let mut path = kinds::path(res, namespace, None);
    let mut parts = vec!["watch=true".to_owned()];
    let fields = match names {
        [] => options.field_selector.clone(),
        [name] => Some(format!("metadata.name={name}")),
        _ => bail!("--watch takes one name at most"),
    };
    parts.extend(fields.map(|f| format!("fieldSelector={}", encode(&f))));
    parts.extend(
        options
            .selector
            .as_ref()
            .map(|s| format!("labelSelector={}", encode(s))),
    );
    path.push_str(&format!("?{}", parts.join("&")));
    let table = matches!(format, Format::Table { .. });
    let accept = if table { TABLE } else { "application/json" };
    let mut lines = Lines::new(api.open("GET", &path, accept, None).await?);
    let mut headings = !options.no_headers;
    // Columns keep the width that the first rows gave them.
    let mut widths: Vec<usize> = Vec::new();
    while let Some(line) = lines.next().await? {
        let event: Value = serde_json::from_slice(&line)?;
        let object = &event["object"];
        match (event["type"].as_str().unwrap_or_default(), format) {
            ("ERROR", _) => bail!(
                "{}",
                object["message"].as_str().unwrap_or("the watch ended")
            ),
            ("BOOKMARK", _) => {}
            (_, Format::Table { wide }) => {
                let look = Look {
                    wide: *wide,
                    prefix: None,
                    namespaces: options.all_namespaces && res.namespaced,
                    options,
                };
                let rows = look.rows(object, std::mem::take(&mut headings));
                output::print(&aligned(&rows, &mut widths));
            }
            (_, Format::Columns(columns)) => {
                let headings = std::mem::take(&mut headings);
                output::print(&columns.table(std::iter::once(object), headings));
            }
            (_, Format::Name) => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                output::print(&format!("{}\n", kinds::label(res, name)));
            }
            _ => {
                show(object, format)?;
                if let Format::JsonPath(_) = format {
                    output::print("\n");
                }
            }
        }
    }
    Ok(())
}

fn aligned(rows: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    let mut out = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let length = cell.chars().count();
            if widths.len() <= index {
                widths.push(0);
            }
            widths[index] = widths[index].max(length);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(cell);
            let pad = widths[index] + 3 - cell.chars().count();
            line.extend(std::iter::repeat_n(' ', pad));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
