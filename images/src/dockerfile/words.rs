//! Quotes and variables, as Docker reads them.

use std::collections::BTreeMap;

/// Variables that are known where a line is reached.
pub(super) struct Words<'a>(pub &'a BTreeMap<String, String>);

/// Splits at white space outside of quotes, and takes quotes and backslashes off.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().unwrap_or('\\');
                let word = word.get_or_insert_default();
                // A variable's escape is for the substitution to see.
                if next == '$' || (quote.is_some() && !matches!(next, '"' | '\\')) {
                    word.push('\\');
                }
                word.push(next);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            // Nothing is substituted between single quotes.
            ('$', Some('\'')) => word.get_or_insert_default().push_str("\\$"),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// One value without its quotes, as it was where they do not match.
pub(super) fn unquote(text: &str) -> String {
    match split(text) {
        Ok(words) if words.len() == 1 => words.into_iter().next().unwrap_or_default(),
        Ok(words) if words.is_empty() => String::new(),
        _ => text.to_owned(),
    }
}

/// The start of a here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heredoc {
    /// The line that ends it.
    pub end: String,
    /// The word is in quotes: variables in the document are not replaced.
    pub quoted: bool,
    /// `<<-`: tabs at the start of its lines are left out.
    pub tabs: bool,
    /// Nothing but this is on the line.
    pub alone: bool,
}

/// The here-documents that a command line announces, in order.
pub(super) fn heredocs(text: &str) -> Vec<Heredoc> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("<<") {
        let after = &rest[at + 2..];
        let word = after.strip_prefix('-').unwrap_or(after);
        let tabs = word.len() < after.len();
        let quote = word.chars().next().filter(|c| matches!(c, '"' | '\''));
        let inner = &word[usize::from(quote.is_some())..];
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = inner.find(|c| !good(c)).unwrap_or(inner.len());
        let closed = quote.is_none_or(|quote| inner[end..].starts_with(quote));
        let starts = inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if starts && closed {
            let behind = &inner[end + usize::from(quote.is_some())..];
            found.push(Heredoc {
                end: inner[..end].to_owned(),
                quoted: quote.is_some(),
                tabs,
                alone: text[..text.len() - rest.len() + at].is_empty() && behind.trim().is_empty(),
            });
        }
        rest = inner.get(end..).unwrap_or_default();
    }
    found
}

impl Words<'_> {
    /// Replaces `$name`, `${name}`, `${name:-word}` and `${name:+word}`; `\$` is a dollar.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '\\']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("\\$") {
                out.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('\\') {
                out.push('\\');
                rest = after;
            } else {
                let (value, after) = self.variable(&rest[1..])?;
                out.push_str(&value);
                rest = after;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable<'t>(&self, text: &'t str) -> Result<(String, &'t str), String> {
        let get = |name: &str| self.0.get(name).cloned();
        let name_end = |text: &str| {
            text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(text.len())
        };
        let Some(inner) = text.strip_prefix('{') else {
            let end = name_end(text);
            let value = if end == 0 {
                "$".to_owned()
            } else {
                get(&text[..end]).unwrap_or_default()
            };
            return Ok((value, &text[end..]));
        };
        let end = name_end(inner);
        let (name, after) = inner.split_at(end);
        let close = after.find('}').ok_or("a ${ is not closed")?;
        let (operation, after) = (&after[..close], &after[close + 1..]);
        let value = get(name).filter(|value| !value.is_empty());
        let value = match (operation.get(..2), operation) {
            _ if name.is_empty() => return Err("${} has no name".to_owned()),
            (_, "") => get(name).unwrap_or_default(),
            (Some(":-"), word) => value.unwrap_or_else(|| word[2..].to_owned()),
            (Some(":+"), word) => value.map_or(String::new(), |_| word[2..].to_owned()),
            _ => return Err(format!("${{{name}{operation}}} is not supported")),
        };
        Ok((value, after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced() {
        let known = BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            ("E".to_owned(), String::new()),
        ]);
        let words = Words(&known);
        let cases = [
            ("$A-${A}", "1-1"),
            ("${B:-x}${E:-y}${A:+z}${B:+w}", "xyz"),
            ("\\$A $ $B.", "$A $ ."),
            ("a\\b", "a\\b"),
        ];
        for (text, want) in cases {
            assert_eq!(words.expand(text).unwrap(), want, "{text}");
        }
        assert!(
            words.expand("${A").is_err()
                && words.expand("${A#x}").is_err()
                && words.expand("${}").is_err()
        );
    }

    #[test]
    fn quotes_group_and_single_ones_protect() {
        assert_eq!(
            split(r#"a 'b $c' "d e"f g\ h"#).unwrap(),
            ["a", "b \\$c", "d ef", "g h"]
        );
        assert!(split("'a").is_err());
    }

    #[test]
    fn here_documents_are_found() {
        let one = |text: &str| heredocs(text).pop().unwrap();
        let want = |end: &str, quoted, tabs, alone| Heredoc {
            end: end.to_owned(),
            quoted,
            tabs,
            alone,
        };
        assert_eq!(one("<<EOF"), want("EOF", false, false, true));
        assert_eq!(one("<<-'E_1' "), want("E_1", true, true, true));
        assert_eq!(one("cat <<\"A\" > f"), want("A", true, false, false));
        assert_eq!(heredocs("cat <<A - <<B").len(), 2);
        assert!(heredocs("echo $((1 << 2)) <<'A").is_empty());
    }
}
