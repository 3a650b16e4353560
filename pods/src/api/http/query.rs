//! Query parameters, in Kubernetes' names.

use super::super::status::{Result, Status};
use crate::store::Selector;

/// Decoded parameters in their order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The first value of a parameter that is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, v)| k == key && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter (`command` of exec).
    pub fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// Whether a parameter is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// A truth value: `true`, `1`, or the bare name.
    pub fn flag(&self, key: &str) -> bool {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.is_some_and(|(_, v)| !matches!(v.as_str(), "false" | "0"))
    }

    /// An integer, or 400.
    pub fn int(&self, key: &str) -> Result<Option<i64>> {
        self.get(key)
            .map(|v| {
                v.parse().map_err(|_| {
                    Status::bad_request(format!("query parameter {key}: \"{v}\" is not an integer"))
                })
            })
            .transpose()
    }

    /// `labelSelector` and `fieldSelector`.
    pub fn selector(&self) -> Result<Selector> {
        Selector::all()
            .with_labels(self.get("labelSelector").unwrap_or_default())
            .and_then(|s| s.with_fields(self.get("fieldSelector").unwrap_or_default()))
            .map_err(Status::bad_request)
    }

    /// Whether `dryRun=All`; any other value is refused.
    pub fn dry_run(&self) -> Result<bool> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Status::bad_request(format!(
                "dryRun: Unsupported value: \"{other}\": supported values: \"All\""
            ))),
        }
    }
}

/// Undoes percent-encoding; `+` is a space. What is not UTF-8 becomes U+FFFD.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                i += 2;
            }
            (b'+', _, _) => out.push(b' '),
            (b, _, _) => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_is_total() {
        assert_eq!(decode("a%2Fb+c%zz%4"), "a/b c%zz%4");
        let q = Query::parse("command=ls&command=-l&stdin&tty=false&limit=x");
        assert_eq!(q.all("command"), ["ls", "-l"]);
        assert!(q.flag("stdin") && !q.flag("tty") && !q.flag("stdout"));
        assert!(q.int("limit").is_err());
    }
}
