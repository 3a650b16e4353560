//! One file per command. Each has
//! `pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8>`, which
//! returns the exit status.

mod checkpoint;
mod completion;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod hand_over;
mod kill;
mod list;
mod man;
mod matching;
mod mounts;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use crate::args::Command;
use crate::globals::Global;
use rrun_core::{Error, Result};

/// The commands of this program.
pub const NAMES: [&str; 20] = [
    "create",
    "start",
    "run",
    "exec",
    "state",
    "kill",
    "delete",
    "list",
    "ps",
    "mounts",
    "checkpoint",
    "restore",
    "pause",
    "resume",
    "update",
    "events",
    "spec",
    "features",
    "completion",
    "man",
];

/// Runs `command`.
pub fn run(global: &Global, command: Command) -> Result<u8> {
    let parser = command.parser;
    match command.name.as_str() {
        "checkpoint" => checkpoint::run(global, parser),
        "create" => create::run(global, parser),
        "completion" => completion::run(global, parser),
        "delete" => delete::run(global, parser),
        "events" => events::run(global, parser),
        "exec" => exec::run(global, parser),
        "features" => features::run(global, parser),
        "kill" => kill::run(global, parser),
        "list" => list::run(global, parser),
        "man" => man::run(global, parser),
        "mounts" => mounts::run(global, parser),
        "pause" => pause::run(global, parser),
        "ps" => ps::run(global, parser),
        "restore" => restore::run(global, parser),
        "resume" => resume::run(global, parser),
        "run" => run::run(global, parser),
        "spec" => spec::run(global, parser),
        "start" => start::run(global, parser),
        "state" => state::run(global, parser),
        "update" => update::run(global, parser),
        "image" | "cri" | "pods" => hand_over::run(&command.name, parser),
        other => {
            let error = Error::Usage(format!("No help topic for '{other}'; see 'rrun --help'"));
            rrun_core::log::fatal(&error);
            // runc's status for it.
            Ok(3)
        }
    }
}

/// Whether a process of this program will be visible in a container.
pub fn enters_container(name: &str) -> bool {
    matches!(name, "create" | "run" | "exec" | "restore")
}

/// Help of the commands that are not in `help.rs`.
pub fn help(name: &str) -> Option<&'static str> {
    Some(match name {
        "checkpoint" => checkpoint::HELP,
        "completion" => completion::HELP,
        "events" => events::HELP,
        "features" => features::HELP,
        "man" => man::HELP,
        "mounts" => mounts::HELP,
        "pause" => pause::HELP,
        "ps" => ps::HELP,
        "restore" => restore::HELP,
        "resume" => resume::HELP,
        "spec" => spec::HELP,
        "update" => update::HELP,
        _ => return None,
    })
}
