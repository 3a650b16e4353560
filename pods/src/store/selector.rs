//! Label and field selectors, in the syntax of the API's query parameters.

use std::fmt::Write as _;

use serde_json::Value;

use super::Object;

/// All requirements must hold; none means everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Debug, Clone, PartialEq)]
enum Op {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq)]
struct FieldRequirement {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether it selects everything.
    pub fn is_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Adds a `labelSelector` such as `a=b,c in (d, e),!f`.
    pub fn with_labels(mut self, text: &str) -> Result<Self, String> {
        for part in split_outside_parens(text) {
            self.labels.push(parse_requirement(part.trim())?);
        }
        Ok(self)
    }

    /// Adds a `fieldSelector` such as `metadata.name=a,status.phase!=Running`.
    pub fn with_fields(mut self, text: &str) -> Result<Self, String> {
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, value, equal) = split_operator(part)
                .ok_or_else(|| format!("invalid selector: '{part}'; can't understand '{part}'"))?;
            let (path, value) = (path.trim().to_owned(), value.trim().to_owned());
            self.fields.push(FieldRequirement { path, value, equal });
        }
        Ok(self)
    }

    /// The same with other names for some fields: pairs of an old and a new one.
    #[must_use]
    pub fn with_renamed_fields(mut self, names: &[(&str, &str)]) -> Self {
        for field in &mut self.fields {
            if let Some((_, new)) = names.iter().find(|(old, _)| *old == field.path) {
                (*new).clone_into(&mut field.path);
            }
        }
        self
    }

    /// Adds the requirement that a field (`spec.nodeName`) equals a value.
    #[must_use]
    pub fn field(mut self, path: &str, value: &str) -> Self {
        self.fields.push(FieldRequirement {
            path: path.into(),
            value: value.into(),
            equal: true,
        });
        self
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`). An absent one selects
    /// nothing and gives `None`; an empty one selects everything.
    pub fn from_label_selector(selector: &Value) -> Result<Option<Self>, String> {
        let Some(map) = selector.as_object() else {
            return Ok(None);
        };
        let mut out = Self::default();
        for (key, value) in map
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            out.push_in(key, value.as_str().unwrap_or_default());
        }
        for e in map
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            out.labels.push(expression(e)?);
        }
        Ok(Some(out))
    }

    /// From a plain map of labels (a Service's `spec.selector`). An absent or empty one gives `None`.
    pub fn from_map(map: &Value) -> Option<Self> {
        let map = map.as_object().filter(|m| !m.is_empty())?;
        let mut out = Self::default();
        for (key, value) in map {
            out.push_in(key, value.as_str().unwrap_or_default());
        }
        Some(out)
    }

    fn push_in(&mut self, key: &str, value: &str) {
        self.labels.push(Requirement {
            key: key.into(),
            op: Op::In(vec![value.into()]),
        });
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.labels.iter().all(|r| r.matches(labels))
            && self.fields.iter().all(|f| f.matches(object))
    }

    /// The same, without unpacking an object whose metadata say it.
    pub fn chooses(&self, object: &Object) -> bool {
        let in_head = |f: &FieldRequirement| {
            ["metadata.name", "metadata.namespace"].contains(&f.path.as_str())
        };
        if self.fields.iter().all(in_head) {
            self.matches(object.head())
        } else {
            self.matches(object.value())
        }
    }

    /// Whether a map of labels is selected; requirements on fields are not looked at.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.labels.iter().all(|r| r.matches(labels))
    }

    /// Paths that requirements on fields name.
    pub fn field_paths(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|f| f.path.as_str())
    }

    /// The value that a field must have, if one is required.
    pub fn required_field(&self, path: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|f| f.equal && f.path == path)
            .map(|f| f.value.as_str())
    }

    /// The label requirements in the syntax of `labelSelector` (also `status.selector` of `scale`).
    pub fn label_string(&self) -> String {
        let mut out = String::new();
        for r in &self.labels {
            if !out.is_empty() {
                out.push(',');
            }
            let _ = match &r.op {
                Op::Exists => write!(out, "{}", r.key),
                Op::Absent => write!(out, "!{}", r.key),
                Op::In(v) if v.len() == 1 => write!(out, "{}={}", r.key, v[0]),
                Op::In(v) => write!(out, "{} in ({})", r.key, v.join(",")),
                Op::NotIn(v) if v.len() == 1 => write!(out, "{}!={}", r.key, v[0]),
                Op::NotIn(v) => write!(out, "{} notin ({})", r.key, v.join(",")),
                Op::Greater(n) => write!(out, "{}>{n}", r.key),
                Op::Less(n) => write!(out, "{}<{n}", r.key),
            };
        }
        out
    }
}

impl Requirement {
    fn matches(&self, labels: Option<&Value>) -> bool {
        let value = labels
            .and_then(|l| l.get(&self.key))
            .and_then(Value::as_str);
        match &self.op {
            Op::Exists => value.is_some(),
            Op::Absent => value.is_none(),
            Op::In(all) => value.is_some_and(|v| all.iter().any(|a| a == v)),
            Op::NotIn(all) => !value.is_some_and(|v| all.iter().any(|a| a == v)),
            Op::Greater(n) => value
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v > *n),
            Op::Less(n) => value
                .and_then(|v| v.parse::<i64>().ok())
                .is_some_and(|v| v < *n),
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let mut at = object;
        for part in self.path.split('.') {
            at = at.get(part).unwrap_or(&Value::Null);
        }
        let equal = match at {
            Value::Null => self.value.is_empty(),
            Value::String(s) => *s == self.value,
            // As text: a number equals the digits that a selector gives.
            other => {
                let text = other.to_string();
                text == self.value
            }
        };
        equal == self.equal
    }
}

fn split_operator(text: &str) -> Option<(&str, &str, bool)> {
    if let Some((k, v)) = text.split_once("!=") {
        return Some((k, v, false));
    }
    text.split_once("==")
        .or_else(|| text.split_once('='))
        .map(|(k, v)| (k, v, true))
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out.retain(|p| !p.trim().is_empty());
    out
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let bad = || unparsed(part);
    let requirement = |key: &str, op| {
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(bad());
        }
        Ok(Requirement {
            key: key.into(),
            op,
        })
    };
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(').ok_or_else(bad)?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        return match head.trim_end().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => requirement(key, Op::In(values)),
            Some((key, "notin")) => requirement(key, Op::NotIn(values)),
            _ => Err(bad()),
        };
    }
    if let Some((key, value, equal)) = split_operator(part) {
        let value = vec![value.trim().to_owned()];
        return requirement(
            key,
            if equal {
                Op::In(value)
            } else {
                Op::NotIn(value)
            },
        );
    }
    if let Some((key, n)) = part.split_once('>') {
        return requirement(key, Op::Greater(n.trim().parse().map_err(|_| bad())?));
    }
    if let Some((key, n)) = part.split_once('<') {
        return requirement(key, Op::Less(n.trim().parse().map_err(|_| bad())?));
    }
    match part.strip_prefix('!') {
        Some(key) => requirement(key, Op::Absent),
        None => requirement(part, Op::Exists),
    }
}

/// Where a second word stands, Kubernetes says what it looked for there.
fn unparsed(part: &str) -> String {
    let why = match part.split_whitespace().nth(1) {
        Some(word) => format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt"),
        None => format!("'{part}'"),
    };
    format!("unable to parse requirement: {why}")
}

fn expression(e: &Value) -> Result<Requirement, String> {
    let key = e["key"].as_str().unwrap_or_default().to_owned();
    let values = e["values"].as_array().into_iter().flatten();
    let values: Vec<String> = values
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    let op = match e["operator"].as_str().unwrap_or_default() {
        "In" => Op::In(values),
        "NotIn" => Op::NotIn(values),
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::Absent,
        other => {
            return Err(format!(
                "\"{other}\" is not a valid label selector operator"
            ));
        }
    };
    Ok(Requirement { key, op })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labelled(text: &str, labels: &Value) -> bool {
        let s = Selector::all().with_labels(text).expect(text);
        s.matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn label_requirements() {
        let l = json!({"a": "b", "n": "5"});
        for yes in [
            "a=b",
            "a==b",
            "a",
            "!z",
            "a in (x, b)",
            "a notin (x,y)",
            "z notin (x)",
            "n>4",
            "n<6",
            "z!=q",
            "",
        ] {
            assert!(labelled(yes, &l), "{yes}");
        }
        for no in [
            "a=c",
            "!a",
            "z",
            "a in (x)",
            "a notin (b)",
            "n>5",
            "a!=b",
            "a=b,z",
        ] {
            assert!(!labelled(no, &l), "{no}");
        }
        assert!(Selector::all().with_labels("a b").is_err());
        assert!(Selector::all().with_labels("a of (b)").is_err());
    }

    #[test]
    fn fields_and_their_absence() {
        let o = json!({"metadata": {"name": "x"}, "spec": {"replicas": 3}});
        let yes = |t: &str| Selector::all().with_fields(t).unwrap().matches(&o);
        assert!(yes("metadata.name=x,spec.replicas=3,spec.nodeName="));
        assert!(yes("metadata.name!=y"));
        assert!(!yes("metadata.name=y"));
        assert!(Selector::all().with_fields("abc").is_err());
    }

    #[test]
    fn round_trip() {
        let s = Selector::from_label_selector(
            &json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}),
        );
        let s = s.unwrap().unwrap();
        assert_eq!(s.label_string(), "a=b,c in (d,e),!f");
        assert_eq!(Selector::all().with_labels(&s.label_string()).unwrap(), s);
    }
}
