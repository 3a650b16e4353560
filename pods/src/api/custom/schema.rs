//! Structural schemas: `openAPIV3Schema` of a CustomResourceDefinition, read once.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::Value;

/// Schemas inside schemas, at most.
const MAX_DEPTH: usize = 64;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Not said: inside `allOf` and the like, or where anything is preserved.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl Kind {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "int-or-string",
        }
    }
}

/// A schema of one value.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub kind: Kind,
    pub properties: BTreeMap<String, Node>,
    /// Values of keys that are no properties.
    pub additional: Option<Box<Node>>,
    /// `additionalProperties: true`.
    pub open: bool,
    pub items: Option<Box<Node>>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    pub nullable: bool,
    pub default: Option<Value>,
    pub list_type: String,
    pub list_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    pub rules: Rules,
}

/// What a value of the right type must be like.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub required: Vec<String>,
    pub choices: Option<Vec<Value>>,
    pub pattern: Option<(String, Regex)>,
    pub format: String,
    pub minimum: Option<f64>,
    pub above: bool,
    pub maximum: Option<f64>,
    pub below: bool,
    pub multiple_of: Option<f64>,
    /// Characters, elements, keys: at least and at most.
    pub length: (Option<usize>, Option<usize>),
    pub items: (Option<usize>, Option<usize>),
    pub keys: (Option<usize>, Option<usize>),
    pub unique: bool,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

/// Reads a schema; faults are (path below the schema, message).
pub(super) fn parse(schema: &Value, faults: &mut Vec<(String, String)>) -> Node {
    Parser { faults }.node(schema, "", true, 0)
}

struct Parser<'a> {
    faults: &'a mut Vec<(String, String)>,
}

/// Keywords that structural schemas do not have.
const FORBIDDEN: &[&str] = &[
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
    "xml",
    "additionalItems",
];

impl Parser<'_> {
    fn fault(&mut self, path: &str, message: impl Into<String>) {
        self.faults.push((path.to_owned(), message.into()));
    }

    fn node(&mut self, v: &Value, path: &str, structural: bool, depth: usize) -> Node {
        if depth > MAX_DEPTH {
            self.fault(
                path,
                format!("Too many: must have at most {MAX_DEPTH} levels"),
            );
            return Node::default();
        }
        for word in FORBIDDEN.iter().filter(|w| !v[**w].is_null()) {
            self.fault(&format!("{path}.{word}"), "Forbidden: not supported");
        }
        let flag = |name: &str| v[name] == true;
        let mut node = Node {
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            default: v.get("default").filter(|d| !d.is_null()).cloned(),
            list_type: text(v, "x-kubernetes-list-type"),
            list_keys: strings(&v["x-kubernetes-list-map-keys"]),
            atomic_map: v["x-kubernetes-map-type"] == "atomic",
            ..Node::default()
        };
        node.kind = self.kind(v, path, structural, &node);
        for (name, inner) in v["properties"].as_object().into_iter().flatten() {
            let at = format!("{path}.properties[{name}]");
            let inner = self.node(inner, &at, structural, depth + 1);
            node.properties.insert(name.clone(), inner);
        }
        match &v["additionalProperties"] {
            Value::Bool(open) => node.open = *open,
            Value::Object(_) => {
                let at = format!("{path}.additionalProperties");
                if !node.properties.is_empty() {
                    self.fault(
                        &at,
                        "Forbidden: additionalProperties and properties are mutual exclusive",
                    );
                }
                let inner = self.node(&v["additionalProperties"], &at, structural, depth + 1);
                node.additional = Some(Box::new(inner));
            }
            _ => {}
        }
        if v["items"].is_object() {
            let at = format!("{path}.items");
            node.items = Some(Box::new(self.node(&v["items"], &at, structural, depth + 1)));
        } else if node.kind == Kind::Array && structural {
            self.fault(
                &format!("{path}.items"),
                "Required value: must be specified",
            );
        }
        self.lists(&node, path);
        node.rules = self.rules(v, path, depth);
        node
    }

    fn kind(&mut self, v: &Value, path: &str, structural: bool, node: &Node) -> Kind {
        let int_or_string = v["x-kubernetes-int-or-string"] == true;
        match v["type"].as_str().unwrap_or_default() {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            "" if int_or_string => Kind::IntOrString,
            "" if structural && !node.preserve => {
                let at = format!("{path}.type");
                self.fault(
                    &at,
                    "Required value: must not be empty for specified object fields",
                );
                Kind::Any
            }
            "" => Kind::Any,
            other => {
                let known =
                    "\"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"";
                let message = format!("Unsupported value: {other:?}: supported values: {known}");
                self.fault(&format!("{path}.type"), message);
                Kind::Any
            }
        }
    }

    fn lists(&mut self, node: &Node, path: &str) {
        match node.list_type.as_str() {
            "" | "atomic" | "set" => {}
            "map" if node.list_keys.is_empty() => {
                let at = format!("{path}.x-kubernetes-list-map-keys");
                self.fault(
                    &at,
                    "Required value: must not be empty if x-kubernetes-list-type is map",
                );
            }
            "map" => {
                let items = node.items.as_deref();
                for key in &node.list_keys {
                    if items.is_some_and(|i| !i.properties.contains_key(key)) {
                        let at = format!("{path}.x-kubernetes-list-map-keys");
                        let why = "entries have to all be names of item properties";
                        self.fault(&at, format!("Invalid value: {key:?}: {why}"));
                    }
                }
            }
            other => {
                let at = format!("{path}.x-kubernetes-list-type");
                let known = "\"atomic\", \"map\", \"set\"";
                let message = format!("Unsupported value: {other:?}: supported values: {known}");
                self.fault(&at, message);
            }
        }
    }

    fn rules(&mut self, v: &Value, path: &str, depth: usize) -> Rules {
        let number = |name: &str| v[name].as_f64();
        let size = |name: &str| v[name].as_u64().and_then(|n| usize::try_from(n).ok());
        let pattern = v["pattern"].as_str().filter(|p| !p.is_empty());
        let pattern = pattern.and_then(|p| match Regex::new(p) {
            Ok(regex) => Some((p.to_owned(), regex)),
            Err(why) => {
                let at = format!("{path}.pattern");
                let message = format!("must be a valid regular expression, but isn't: {why}");
                self.fault(&at, format!("Invalid value: {p:?}: {message}"));
                None
            }
        });
        let mut list = |name: &str| -> Vec<Node> {
            let all = v[name].as_array().into_iter().flatten().enumerate();
            all.map(|(i, s)| self.node(s, &format!("{path}.{name}[{i}]"), false, depth + 1))
                .collect()
        };
        let (all_of, any_of, one_of) = (list("allOf"), list("anyOf"), list("oneOf"));
        let not = v["not"].is_object().then(|| {
            let at = format!("{path}.not");
            Box::new(self.node(&v["not"], &at, false, depth + 1))
        });
        Rules {
            required: strings(&v["required"]),
            choices: v["enum"].as_array().cloned(),
            pattern,
            format: text(v, "format"),
            minimum: number("minimum"),
            above: v["exclusiveMinimum"] == true,
            maximum: number("maximum"),
            below: v["exclusiveMaximum"] == true,
            multiple_of: number("multipleOf"),
            length: (size("minLength"), size("maxLength")),
            items: (size("minItems"), size("maxItems")),
            keys: (size("minProperties"), size("maxProperties")),
            unique: v["uniqueItems"] == true,
            all_of,
            any_of,
            one_of,
            not,
        }
    }
}

fn text(v: &Value, name: &str) -> String {
    v[name].as_str().unwrap_or_default().to_owned()
}

fn strings(v: &Value) -> Vec<String> {
    let all = v.as_array().into_iter().flatten();
    all.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

impl Node {
    /// Whether keys without a schema of their own stay.
    pub fn keeps_unknown(&self) -> bool {
        self.preserve || self.open
    }

    /// Whether anything below has a default.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self.additional.as_deref().is_some_and(Self::has_defaults)
            || self.items.as_deref().is_some_and(Self::has_defaults)
    }
}
