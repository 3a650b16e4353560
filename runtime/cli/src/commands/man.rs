//! `rrun man`.

use crate::args;
use crate::globals::Global;
use crate::help;
use lexopt::{Arg, Parser};
use rrun_core::{Error, Result};
use std::fmt::Write;

/// Help text.
pub const HELP: &str = "\
print a manual page

USAGE:
    rrun man [COMMAND]

The page is in roff, for man(1). Without a command it is that of rrun itself.

EXAMPLES:
    rrun man run | man -l -
    rrun man > /usr/share/man/man8/rrun.8
    rrun man exec > /usr/share/man/man8/rrun-exec.8
";

/// Prints the page.
pub fn run(_global: &Global, mut parser: Parser) -> Result<u8> {
    let mut name = None;
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Value(value) if name.is_none() => name = Some(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let page = match name.as_deref() {
        None => page("rrun", "Open Container Initiative runtime", help::PROGRAM),
        Some(name) => {
            let text = help::command(name)
                .ok_or_else(|| Error::Usage(format!("no such command {name:?}")))?;
            let (what, rest) = text.split_once('\n').unwrap_or((text, ""));
            page(&format!("rrun-{name}"), what, rest)
        }
    };
    args::print(&page).map(|()| 0)
}

/// A line as roff text.
fn escape(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    // A leading dot or quote would be a request.
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}

/// The page of help text `body`: its headings become sections, options and commands stay as they are
/// laid out.
fn page(name: &str, what: &str, body: &str) -> String {
    let mut text = format!(
        ".TH {} 8\n.SH NAME\n{} \\- {}\n",
        name.to_uppercase(),
        escape(name),
        escape(what)
    );
    let mut verbatim = false;
    for line in body.lines() {
        let heading = line
            .strip_suffix(':')
            .filter(|h| !h.is_empty() && h.chars().all(|c| c.is_ascii_uppercase() || c == ' '));
        if verbatim && (heading.is_some() || line.is_empty() || !line.starts_with(' ')) {
            text.push_str(".fi\n");
            verbatim = false;
        }
        if let Some(heading) = heading {
            let heading = if heading == "USAGE" {
                "SYNOPSIS"
            } else {
                heading
            };
            let _ = writeln!(text, ".SH {heading}");
        } else if line.is_empty() {
            text.push_str(".PP\n");
        } else {
            if line.starts_with(' ') && !verbatim {
                text.push_str(".nf\n");
                verbatim = true;
            }
            let line = line.strip_prefix("    ").unwrap_or(line);
            let _ = writeln!(text, "{}", escape(line));
        }
    }
    if verbatim {
        text.push_str(".fi\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_without_stray_requests() {
        let known = [".TH", ".SH", ".PP", ".nf", ".fi"];
        for (name, help_text) in help::commands() {
            let page = page(name, "x", help_text);
            for line in page.lines().filter(|l| l.starts_with(['.', '\''])) {
                assert!(known.iter().any(|k| line.starts_with(k)), "{name}: {line}");
            }
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
            let count = |request| page.lines().filter(|l| *l == request).count();
            assert_eq!(count(".nf"), count(".fi"), "{name}");
        }
    }
}
