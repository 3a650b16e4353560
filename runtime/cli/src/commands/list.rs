//! `rrun list`.

use crate::args;
use crate::globals::Global;
use lexopt::Arg;
use rrun_core::listing::{self, View};
use rrun_core::{Error, Result};

/// Lists the containers below the root.
pub fn run(global: &Global, mut parser: lexopt::Parser) -> Result<u8> {
    let (mut format, mut quiet) = ("table".to_owned(), false);
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('f') | Arg::Long("format") => format = args::text(&mut parser)?,
            Arg::Short('q') | Arg::Long("quiet") => quiet = args::switch(&mut parser)?,
            other => return Err(args::unexpected(other)),
        }
    }
    if global.root_given && !global.root.is_dir() {
        let not_found = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::file("open", &global.root, not_found));
    }
    if quiet {
        let mut ids = listing::ids(&global.root)?.join("\n");
        if !ids.is_empty() {
            ids.push('\n');
        }
        return args::print(&ids).map(|()| 0);
    }
    let views = listing::all(&global.root)?;
    match format.as_str() {
        "table" => args::print(&table(&views))?,
        "json" => {
            let text = serde_json::to_string(&views).expect("views are plain data");
            // As runc: no containers are "null".
            args::print(if views.is_empty() { "null" } else { &text })?;
        }
        _ => return Err(Error::Usage("invalid format option".into())),
    }
    Ok(0)
}

/// Columns padded to their widest cell and three spaces, as runc's.
fn table(views: &[View]) -> String {
    const HEADER: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let pids: Vec<String> = views.iter().map(|view| view.pid.to_string()).collect();
    let bundles: Vec<_> = views.iter().map(|v| v.bundle.to_string_lossy()).collect();
    let row = |index: usize| {
        let (view, pid, bundle) = (&views[index], &pids[index], &bundles[index]);
        [
            &view.id,
            pid,
            view.status.as_str(),
            bundle,
            &view.created,
            &view.owner,
        ]
    };
    let rows = || [HEADER].into_iter().chain((0..views.len()).map(row));
    let mut widths = [12; 6];
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (cell.chars().count() + 3).max(*width);
        }
    }
    let mut text = String::new();
    for [cells @ .., last] in rows() {
        for (cell, width) in cells.into_iter().zip(widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        text.push_str(last);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn no_container_leaves_the_header() {
        let line = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(table(&[]), line);
    }
}
