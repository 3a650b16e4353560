//! The lines of a Dockerfile as instructions have them: continued ones in one piece, and what
//! here-documents hold.

use super::mounts;
use super::parse::Mistake;
use super::words::{self, Heredoc};

/// An instruction's whole line.
pub(super) struct Logical {
    pub number: usize,
    pub text: String,
    pub documents: Vec<Document>,
}

/// A here-document that was read.
pub(super) struct Document {
    pub start: Heredoc,
    /// Its lines, without the tabs that `<<-` takes away.
    pub text: String,
    /// All of it with its end, as a shell reads it.
    pub whole: String,
}

/// Joins what a backslash continues; takes comments and empty lines out; reads here-documents.
pub(super) fn logical_lines(text: &str) -> Result<Vec<Logical>, Mistake> {
    let mut lines: Vec<Logical> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut raw_lines = text.lines().enumerate();
    while let Some((i, raw)) = raw_lines.next() {
        let number = i + 1;
        let trimmed = raw.trim();
        let directive = trimmed.strip_prefix('#').map(|rest| rest.replace(' ', ""));
        if lines.is_empty()
            && directive.is_some_and(|d| d.starts_with("escape=") && d != "escape=\\")
        {
            return Err(Mistake {
                line: number,
                why: "another escape than \\ is not supported".into(),
            });
        }
        if trimmed.starts_with('#') || (trimmed.is_empty() && open.is_none()) {
            continue;
        }
        let (part, goes_on) = match raw.trim_end().strip_suffix('\\') {
            Some(part) => (part, true),
            None => (raw.trim_end(), false),
        };
        let (start, mut whole) = open.take().unwrap_or((number, String::new()));
        whole.push_str(if whole.is_empty() {
            part.trim_start()
        } else {
            part
        });
        if goes_on {
            open = Some((start, whole));
        } else {
            let mut rest = raw_lines.by_ref().map(|(_, line)| line);
            let documents =
                documents(&whole, &mut rest).map_err(|why| Mistake { line: start, why })?;
            lines.push(logical(start, &whole, documents));
        }
    }
    lines.extend(open.map(|(start, whole)| logical(start, &whole, Vec::new())));
    lines.retain(|line| !line.text.is_empty());
    Ok(lines)
}

fn logical(number: usize, whole: &str, documents: Vec<Document>) -> Logical {
    Logical {
        number,
        text: whole.trim().to_owned(),
        documents,
    }
}

/// Reads the here-documents that an instruction announces.
fn documents(line: &str, rest: &mut dyn Iterator<Item = &str>) -> Result<Vec<Document>, String> {
    let (keyword, after) = line
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or((line, ""));
    let command = match keyword.to_ascii_uppercase().as_str() {
        "RUN" => mounts::flags(after.trim())?.1,
        "COPY" | "ADD" => after.trim(),
        _ => return Ok(Vec::new()),
    };
    let read = |start: Heredoc| {
        let (mut text, mut whole) = (String::new(), String::new());
        loop {
            let Some(line) = rest.next() else {
                let why = "its here-document has no end:";
                return Err(format!("{why} {} is missing", start.end));
            };
            whole.push_str(line);
            whole.push('\n');
            let inner = if start.tabs {
                line.trim_start_matches('\t')
            } else {
                line
            };
            if inner == start.end {
                return Ok(Document { start, text, whole });
            }
            text.push_str(inner);
            text.push('\n');
        }
    };
    words::heredocs(command).into_iter().map(read).collect()
}
