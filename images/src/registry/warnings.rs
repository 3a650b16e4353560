//! What a registry has to tell its users (distribution-spec, Warnings).

use std::collections::HashSet;
use std::sync::Mutex;

use http::HeaderMap;
use http::header::WARNING;

/// Bytes of all warnings of an answer that are read.
const LIMIT: usize = 4096;
/// Different warnings that are told.
const MOST: usize = 100;

/// Warnings that were told already.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<HashSet<String>>);

impl Warnings {
    /// Tells the user what is new. Nothing else follows from a warning.
    pub fn tell(&self, registry: &str, headers: &HeaderMap) {
        for text in self.fresh(headers) {
            tracing::warn!(registry, "the registry says: {text}");
        }
    }

    fn fresh(&self, headers: &HeaderMap) -> Vec<String> {
        let Ok(mut told) = self.0.lock() else {
            return Vec::new();
        };
        let mut left = LIMIT;
        let mut fresh = Vec::new();
        for value in headers.get_all(WARNING) {
            left = left.saturating_sub(value.len());
            let text = value.to_str().ok().filter(|_| left > 0).and_then(text_of);
            if let Some(text) = text
                && told.len() < MOST
                && told.insert(text.clone())
            {
                fresh.push(text);
            }
        }
        fresh
    }
}

/// `299 - "text"`; any other code or agent is none of a registry's.
fn text_of(value: &str) -> Option<String> {
    let quoted = value.strip_prefix("299 - \"")?.strip_suffix('"')?;
    // What another party sends must not steer a terminal.
    let text: String = quoted.chars().filter(|c| !c.is_control()).collect();
    Some(text.replace("\\\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once() {
        let warnings = Warnings::default();
        let mut headers = HeaderMap::new();
        let lines = [
            "299 - \"soon gone\"",
            "299 - \"a \\\"b\\\"\"",
            "299 - \"soon gone\"",
            "199 - \"other\"",
            "299 - no quotes",
        ];
        for line in lines {
            headers.append(WARNING, line.parse().unwrap());
        }
        assert_eq!(warnings.fresh(&headers), ["soon gone", "a \"b\""]);
        assert!(warnings.fresh(&headers).is_empty());
        let long = format!("299 - \"{}\"", "x".repeat(LIMIT));
        let headers = HeaderMap::from_iter([(WARNING, long.parse().unwrap())]);
        assert!(warnings.fresh(&headers).is_empty());
    }
}
