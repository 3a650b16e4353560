//! How objects are shown.

use std::io::{IsTerminal, Write};

use anyhow::bail;
use serde_json::Value;

use super::columns::Columns;
use crate::jsonpath::Template;

/// `-o`.
#[derive(Debug)]
pub enum Format {
    /// A table, with more columns where wide.
    Table {
        /// All columns.
        wide: bool,
    },
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `kind/name`.
    Name,
    /// A JSONPath template.
    JsonPath(Template),
    /// Columns that the user names.
    Columns(Columns),
}

impl Format {
    /// Reads the value of `-o`.
    pub fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        Ok(match text {
            None => Self::Table { wide: false },
            Some("wide") => Self::Table { wide: true },
            Some("json") => Self::Json,
            Some("yaml") => Self::Yaml,
            Some("name") => Self::Name,
            Some(other) => match other.split_once('=') {
                Some(("jsonpath", template)) => Self::JsonPath(Template::parse(template)?),
                Some(("custom-columns", columns)) => Self::Columns(Columns::parse(columns)?),
                _ => bail!(
                    "-o {other}: use wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=HEADING:PATH,…"
                ),
            },
        })
    }
}

/// Writes to standard output; a reader that went away ends the program quietly.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Whether colours are wanted: on a terminal, unless NO_COLOR is set.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// JSON with two spaces, as kubectl prints it with four.
pub fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("JSON serializes");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// YAML.
pub fn yaml(value: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value)?;
    Ok(if text.ends_with('\n') {
        text
    } else {
        format!("{text}\n")
    })
}

/// Rows under their headings; columns as wide as their widest cell, three blanks apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| {
            rows.iter()
                .filter_map(|r| r.get(i))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < row.len() {
                let pad = widths[index] + 3 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Whether a word of a status column is good news, bad news or neither, as a colour.
pub fn paint(word: &str) -> String {
    if !colours() {
        return word.to_owned();
    }
    let plain = word.split([' ', ':']).next().unwrap_or_default();
    let colour = match plain {
        "Running" | "Ready" | "Active" | "Completed" | "Succeeded" | "Normal" => "32",
        "Pending" | "ContainerCreating" | "PodInitializing" | "Terminating" => "33",
        "Error" | "Failed" | "NotReady" | "Warning" | "OOMKilled" | "Evicted" => "31",
        other
            if other.ends_with("BackOff")
                || other.starts_with("Err")
                || other.ends_with("Error") =>
        {
            "31"
        }
        _ => return word.to_owned(),
    };
    format!("\x1b[{colour}m{word}\x1b[0m")
}

/// Colours the words of the STATUS column of a finished table.
pub fn colour_table(text: &str) -> String {
    if !colours() {
        return text.to_owned();
    }
    let Some(at) = text.lines().next().and_then(|head| head.find("STATUS")) else {
        return text.to_owned();
    };
    let mut out = String::new();
    for line in text.lines() {
        match line.get(at..) {
            Some(rest) if !rest.starts_with("STATUS") => {
                let end = rest.find("  ").unwrap_or(rest.len());
                out.push_str(&line[..at]);
                out.push_str(&paint(&rest[..end]));
                out.push_str(&rest[end..]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// How long ago a time was, as kubectl says it: `5s`, `3m12s`, `2d3h`.
pub fn ago(time: Option<&str>) -> String {
    let Some(then) = time.and_then(|t| t.parse::<jiff::Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = (jiff::Timestamp::now().as_second() - then.as_second()).max(0);
    span(seconds)
}

/// Seconds in at most two units.
pub fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |a: i64, unit: &str, b: i64, small: &str| {
        if b == 0 {
            format!("{a}{unit}")
        } else {
            format!("{a}{unit}{b}{small}")
        }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () => two(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (3600, "60m"),
            (10_800, "3h"),
            (180_000, "2d2h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["NAME".into(), "READY".into()],
            vec!["a-long-name".into(), "1/1".into()],
        ];
        assert_eq!(columns(&rows), "NAME          READY\na-long-name   1/1\n");
    }
}
