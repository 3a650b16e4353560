//! `rrun list`.

use super::state::View;
use crate::args::{self, Global};
use lexopt::Arg;
use rrun_core::container::Container;
use rrun_core::{Error, Result};
use std::fmt::Write;

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
    let containers = Container::list(&global.root)?;
    if quiet {
        let ids = containers.iter().flat_map(|c| [c.record.id.as_str(), "\n"]);
        return args::print(&ids.collect::<String>()).map(|()| 0);
    }
    let views = containers
        .iter()
        .map(View::new)
        .collect::<Result<Vec<_>>>()?;
    match format.as_str() {
        "table" => args::print(&table(&containers, &views))?,
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
fn table(containers: &[Container], views: &[View<'_>]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
    let mut rows = vec![header];
    for (container, view) in containers.iter().zip(views) {
        let record = &container.record;
        rows.push([
            record.id.clone(),
            view.pid.to_string(),
            view.status.to_owned(),
            record.bundle.display().to_string(),
            record.created.clone(),
            view.owner.clone(),
        ]);
    }
    let mut widths = [12; 6];
    for (column, width) in widths.iter_mut().enumerate() {
        let longest = rows
            .iter()
            .map(|r| r[column].chars().count())
            .max()
            .unwrap_or(0);
        *width = (longest + 3).max(*width);
    }
    let mut text = String::new();
    for row in rows {
        let (last, cells) = row.split_last().expect("six columns");
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}");
        }
        text.push_str(last);
        text.push('\n');
    }
    text
}
