//! `rrun completion`.

use crate::args;
use crate::globals::Global;
use crate::help::{self, OptionHelp};
use lexopt::{Arg, Parser};
use rrun_core::{Error, Result};
use std::fmt::Write;

/// Help text.
pub const HELP: &str = "\
print a completion script for a shell

USAGE:
    rrun completion SHELL

SHELL is bash, zsh or fish. What is completed is what the help says: commands,
options, and ids of containers.

EXAMPLES:
    rrun completion bash > /usr/share/bash-completion/completions/rrun
    rrun completion zsh > /usr/share/zsh/site-functions/_rrun
    rrun completion fish > /usr/share/fish/vendor_completions.d/rrun.fish
";

/// Prints the script.
pub fn run(_global: &Global, mut parser: Parser) -> Result<u8> {
    let mut shell = None;
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Value(value) if shell.is_none() => shell = Some(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let text = match shell.as_deref() {
        Some("bash") => bash(),
        Some("zsh") => format!(
            "#compdef rrun\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash()
        ),
        Some("fish") => fish(),
        _ => return Err(Error::Usage("name a shell: bash, zsh or fish".into())),
    };
    args::print(&text).map(|()| 0)
}

/// All spellings of options, separated by spaces.
fn words(options: &[OptionHelp]) -> String {
    let mut words: Vec<String> = Vec::new();
    for option in options {
        words.extend(option.short.map(|c| format!("-{c}")));
        words.push(format!("--{}", option.long));
    }
    words.join(" ")
}

/// Commands whose argument is a container that exists.
const TAKES_ID: [&str; 14] = [
    "start",
    "state",
    "kill",
    "delete",
    "exec",
    "ps",
    "pause",
    "resume",
    "update",
    "events",
    "checkpoint",
    "mounts",
    "run",
    "create",
];

fn takes_id(name: &str) -> bool {
    TAKES_ID.contains(&name) && !["run", "create"].contains(&name)
}

fn bash() -> String {
    let global = help::options(help::PROGRAM);
    let names = help::commands().map(|(name, _)| name).collect::<Vec<_>>();
    let mut text = String::from(
        "_rrun() {\n    local current=${COMP_WORDS[COMP_CWORD]} command= root= index words=\n",
    );
    text.push_str("    for ((index = 1; index < COMP_CWORD; index++)); do\n        case ${COMP_WORDS[index]} in\n");
    let with_value: Vec<String> = global
        .iter()
        .filter(|o| o.value.is_some() && o.long != "root")
        .map(|o| format!("--{}", o.long))
        .collect();
    let _ = writeln!(text, "            --root) root=${{COMP_WORDS[++index]}} ;;");
    let _ = writeln!(
        text,
        "            {}) ((index++)) ;;",
        with_value.join(" | ")
    );
    text.push_str("            -*) ;;\n            *) command=${COMP_WORDS[index]}; break ;;\n        esac\n    done\n    case $command in\n");
    let _ = writeln!(
        text,
        "        '') words='{} {}' ;;",
        names.join(" "),
        words(&global)
    );
    for (name, help_text) in help::commands() {
        let options = words(&help::options(help_text));
        let ids = if takes_id(name) {
            " $(rrun ${root:+--root \"$root\"} list --quiet 2> /dev/null)"
        } else {
            ""
        };
        let _ = writeln!(text, "        {name}) words=\"{options}{ids}\" ;;");
    }
    text.push_str("    esac\n    case $current in\n        */*) COMPREPLY=($(compgen -f -- \"$current\")) ;;\n        *) COMPREPLY=($(compgen -W \"$words\" -- \"$current\") $([ -z \"$command\" ] || compgen -f -- \"$current\")) ;;\n    esac\n}\ncomplete -o filenames -F _rrun rrun\n");
    text
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish() -> String {
    let mut text = String::new();
    let mut line = |condition: &str, option: &OptionHelp| {
        let short = option.short.map(|c| format!(" -s {c}")).unwrap_or_default();
        let value = if option.value.is_some() { " -r" } else { "" };
        let _ = writeln!(
            text,
            "complete -c rrun -n {condition}{short} -l {}{value} -d {}",
            option.long,
            quote(&option.text)
        );
    };
    for option in &help::options(help::PROGRAM) {
        line("__fish_use_subcommand", option);
    }
    for (name, help_text) in help::commands() {
        for option in &help::options(help_text) {
            line(&format!("'__fish_seen_subcommand_from {name}'"), option);
        }
    }
    for (name, help_text) in help::commands() {
        let what = help_text.lines().next().unwrap_or_default();
        let _ = writeln!(
            text,
            "complete -c rrun -n __fish_use_subcommand -a {name} -d {}",
            quote(what)
        );
        if takes_id(name) {
            let _ = writeln!(
                text,
                "complete -c rrun -n '__fish_seen_subcommand_from {name}' -a '(rrun list --quiet 2> /dev/null)'"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_completed() {
        for script in [bash(), fish()] {
            for word in [
                "checkpoint",
                "mounts",
                "systemd-cgroup",
                "console-socket",
                "explain",
            ] {
                assert!(script.contains(word), "{word}: {script}");
            }
        }
        assert!(bash().contains("run) words=\"-b --bundle"));
    }

    #[test]
    fn bash_reads_its_script() {
        let checked = std::process::Command::new("bash")
            .args(["-n", "-c", &bash()])
            .output()
            .expect("bash is everywhere");
        assert!(checked.status.success(), "{checked:?}");
    }
}
