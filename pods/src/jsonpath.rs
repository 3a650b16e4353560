//! JSONPath as kubectl has it: `{.items[*].metadata.name}`, `[?(@.type=="Ready")]`, `{range}`, `{"\n"}`.

use anyhow::{anyhow, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Piece>),
}

#[derive(Debug)]
enum Step {
    Field(String),
    /// Every element or value.
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    /// Everything below, at any depth.
    Deep,
    Filter(Filter),
}

#[derive(Debug)]
struct Filter {
    path: Vec<Step>,
    test: Option<(String, Value)>,
}

impl Template {
    /// Parses a template. A path without braces is taken as one in braces.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let text = if text.contains('{') {
            text.to_owned()
        } else {
            format!(
                "{{{}{text}}}",
                if text.starts_with(['.', '[']) {
                    ""
                } else {
                    "."
                }
            )
        };
        let mut rest = text.as_str();
        let pieces = pieces(&mut rest, false)?;
        Ok(Self(pieces))
    }

    /// The text that it gives for a value.
    pub fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, &mut out);
        out
    }

    /// What its paths find, one text for each value. What is null or not there gives none.
    pub fn texts(&self, value: &Value) -> Vec<String> {
        let paths = self.0.iter().filter_map(|piece| match piece {
            Piece::Path(path) => Some(path),
            Piece::Text(_) | Piece::Range(..) => None,
        });
        let found = paths.flat_map(|path| select(value, path));
        found.filter(|v| !v.is_null()).map(text_of).collect()
    }
}

fn pieces(rest: &mut &str, inside: bool) -> anyhow::Result<Vec<Piece>> {
    let mut all = Vec::new();
    loop {
        let Some(open) = rest.find('{') else {
            if inside {
                bail!("jsonpath: {{range}} without {{end}}");
            }
            if !rest.is_empty() {
                all.push(Piece::Text((*rest).to_owned()));
            }
            return Ok(all);
        };
        if open > 0 {
            all.push(Piece::Text(rest[..open].to_owned()));
        }
        let close =
            closing(&rest[open..]).ok_or_else(|| anyhow!("jsonpath: {{ without }}"))? + open;
        let inner = rest[open + 1..close].trim();
        *rest = &rest[close + 1..];
        if inner == "end" {
            if inside {
                return Ok(all);
            }
            bail!("jsonpath: {{end}} without {{range}}");
        }
        if let Some(path) = inner.strip_prefix("range ") {
            let path = steps(path.trim())?;
            all.push(Piece::Range(path, pieces(rest, true)?));
        } else if inner.starts_with('"') || inner.starts_with('\'') {
            all.push(Piece::Text(quoted(inner)?));
        } else {
            all.push(Piece::Path(steps(inner)?));
        }
    }
}

/// Where the brace that opens `text` closes, past quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> anyhow::Result<String> {
    let body = text[1..]
        .strip_suffix(['"', '\''])
        .ok_or_else(|| anyhow!("jsonpath: {text}: the quote is not closed"))?;
    Ok(body
        .replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\\\", "\\"))
}

fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut rest = text
        .strip_prefix('$')
        .or(text.strip_prefix('@'))
        .unwrap_or(text);
    let mut all = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            all.push(Step::Deep);
            rest = after;
            if rest.starts_with('[') {
                continue;
            }
            rest = name(rest, &mut all);
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            if !rest.starts_with('[') && !rest.is_empty() {
                rest = name(rest, &mut all);
            }
        } else if rest.starts_with('[') {
            let close = bracket(rest).ok_or_else(|| anyhow!("jsonpath: {text}: [ without ]"))?;
            all.push(subscript(rest[1..close].trim())?);
            rest = &rest[close + 1..];
        } else {
            bail!("jsonpath: {text}: a path begins with a dot");
        }
    }
    Ok(all)
}

/// Reads a field's name, in which `\.` is a dot.
fn name<'a>(text: &'a str, all: &mut Vec<Step>) -> &'a str {
    let mut field = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => field.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                all.push(step(field));
                return &text[at..];
            }
            c => field.push(c),
        }
    }
    all.push(step(field));
    ""
}

fn step(field: String) -> Step {
    if field == "*" {
        Step::All
    } else {
        Step::Field(field)
    }
}

fn bracket(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn subscript(text: &str) -> anyhow::Result<Step> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return Ok(Step::Filter(filter_of(filter.trim())?));
    }
    if text.starts_with(['"', '\'']) {
        return Ok(Step::Field(quoted(text)?));
    }
    let number = |text: &str| -> anyhow::Result<Option<i64>> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text
            .parse()
            .map_err(|_| anyhow!("jsonpath: [{text}]: not an index"))?;
        Ok(Some(parsed))
    };
    if let Some((from, to)) = text.split_once(':') {
        return Ok(Step::Slice(number(from)?, number(to)?));
    }
    number(text)?
        .map(Step::Index)
        .ok_or_else(|| anyhow!("jsonpath: []: an index is missing"))
}

fn filter_of(text: &str) -> anyhow::Result<Filter> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        if let Some((left, right)) = text.split_once(operator) {
            let right = right.trim();
            let value = if right.starts_with(['"', '\'']) {
                Value::String(quoted(right)?)
            } else {
                serde_json::from_str(right)
                    .map_err(|_| anyhow!("jsonpath: {right}: not a value"))?
            };
            return Ok(Filter {
                path: steps(left.trim())?,
                test: Some((operator.to_owned(), value)),
            });
        }
    }
    Ok(Filter {
        path: steps(text)?,
        test: None,
    })
}

fn render(pieces: &[Piece], at: &Value, out: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Path(path) => {
                let found = select(at, path);
                let texts: Vec<String> = found.into_iter().map(text_of).collect();
                out.push_str(&texts.join(" "));
            }
            Piece::Range(path, inner) => {
                for item in select(at, path) {
                    render(inner, item, out);
                }
            }
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn select<'a>(value: &'a Value, path: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in path {
        found = found.into_iter().flat_map(|v| apply(v, step)).collect();
    }
    found
}

fn apply<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |index: i64| {
        let index = if index < 0 {
            index + list.len() as i64
        } else {
            index
        };
        usize::try_from(index).unwrap_or(usize::MAX)
    };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => list.iter().collect(),
        },
        Step::Index(index) => list.get(at(*index)).into_iter().collect(),
        Step::Slice(from, to) => {
            let to = to.map_or(list.len(), |t| at(t).min(list.len()));
            let from = from.map_or(0, at).min(to);
            list[from..to].iter().collect()
        }
        Step::Deep => deep(value),
        Step::Filter(filter) => list.iter().filter(|item| holds(filter, item)).collect(),
    }
}

fn deep(value: &Value) -> Vec<&Value> {
    let mut all = vec![value];
    let children: Vec<&Value> = match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => vec![],
    };
    all.extend(children.into_iter().flat_map(deep));
    all
}

fn holds(filter: &Filter, item: &Value) -> bool {
    let found = select(item, &filter.path);
    let Some((operator, wanted)) = &filter.test else {
        return !found.is_empty();
    };
    let order = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        _ => Some(text_of(a).cmp(&text_of(b))),
    };
    found.into_iter().any(|value| {
        let order = order(value, wanted);
        match operator.as_str() {
            "==" => value == wanted,
            "!=" => value != wanted,
            "<" => order.is_some_and(std::cmp::Ordering::is_lt),
            ">" => order.is_some_and(std::cmp::Ordering::is_gt),
            "<=" => order.is_some_and(std::cmp::Ordering::is_le),
            _ => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_give_what_kubectl_gives() {
        let value = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "n": [1, 2]}},
            {"metadata": {"name": "b"}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}]});
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            (".items[0].metadata.name", "a"),
            ("{.items[-1].metadata.name}", "b"),
            (
                r#"{.items[0].status.conditions[?(@.type=="Ready")].status}"#,
                "True",
            ),
            (
                r#"{.items[*].status.conditions[?(@.type=="Ready")].status}"#,
                "True False",
            ),
            (r#"{range .items[*]}{.metadata.name}{"\n"}{end}"#, "a\nb\n"),
            (r"{.items[0].metadata.labels.x\.y/z}", "1"),
            ("{.items[0].status.n}", "[1,2]"),
            ("{..name}", "a b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{.nothing.here}", ""),
        ] {
            let rendered = Template::parse(template).unwrap().render(&value);
            assert_eq!(rendered, expected, "{template}");
        }
        for bad in ["{.a", "{range .a}x", "{.a[}", "{.a[x]}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
