//! `--help`: one text for the program, one per command, each with examples.

/// The program's own help, under the name it was called by.
pub fn program(name: &str) -> String {
    format!("NAME:\n   {name} - Open Container Initiative runtime\n{PROGRAM}")
}

/// The rest of it.
pub const PROGRAM: &str = "
USAGE:
    rrun [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]

COMMANDS:
    create    create a container; its program waits for `start`
    start     execute the program of a created container
    run       create and start a container, and wait for it
    exec      execute one more process in a container
    state     print the state of a container as JSON
    kill      send a signal to the first process of a container
    delete    remove a container
    list      list containers
    ps        list the processes of a container
    mounts    add mounts to a running container, or remove them
    checkpoint
              save a running container with CRIU
    restore   restore a container from a checkpoint
    pause     suspend all processes of a container
    resume    resume a paused container
    update    change the resource limits of a container
    events    print resource usage and events of a container
    spec      write a configuration to start from
    features  print what this runtime supports as JSON
    completion
              print a completion script for a shell
    man       print a manual page
    image, cri, pods
              hand over to rrun-image, rrun-cri, rrun-pods

GLOBAL OPTIONS:
    --root DIR               where the state of containers is kept
                             [/run/rrun, rootless: $XDG_RUNTIME_DIR/rrun]
    --log DESTINATION        write the log elsewhere than to standard error: FILE,
                             file:FILE, journald:IDENTIFIER or syslog:IDENTIFIER
    --log-format FORMAT      text or json [text]
    --log-level LEVEL        error, warn, info or debug [info]
    --debug                  the same as --log-level debug
    --systemd-cgroup         let systemd make cgroups; cgroupsPath is then
                             slice:prefix:name
    --cgroup-manager NAME    cgroupfs, systemd or disabled [cgroupfs]
    --rootless VALUE         true, false or auto: ignore permission errors of
                             cgroups [auto]
    -h, --help               print this help, or that of a command
    -v, --version            print the version

EXAMPLES:
    mkdir -p demo/rootfs && docker export $(docker create busybox) | tar -C demo/rootfs -x
    cd demo && rrun spec && rrun run first

    rrun create --bundle demo first && rrun start first
    rrun exec -t first sh
    rrun kill first KILL && rrun delete first
";

const CREATE: &str = "\
create a container; its program waits for `rrun start`

USAGE:
    rrun create [OPTIONS] CONTAINER-ID

OPTIONS:
    -b, --bundle DIR         directory of config.json and the root file system [.]
    -f, --config FILE        another configuration than config.json of the bundle
        --console-socket P   unix socket that the master of the terminal is sent to
        --pidfd-socket P     unix socket that a pidfd of the process is sent to
        --pid-file FILE      write the process id of the first process to FILE
        --no-pivot           move the root mount instead of pivot_root (for a root
                             file system in a ramfs)
        --no-new-keyring     keep the session keyring of the caller
        --preserve-fds N     pass N more descriptors than the standard three
        --explain[=json]     print each step, what it is for and the system calls,
                             and then the time that each took

EXAMPLES:
    rrun create --bundle /containers/web --pid-file /run/web.pid web
    rrun state web
";

const RUN: &str = "\
create and start a container, wait for it, and delete it

USAGE:
    rrun run [OPTIONS] CONTAINER-ID

OPTIONS:
    -b, --bundle DIR         directory of config.json and the root file system [.]
    -f, --config FILE        another configuration than config.json of the bundle
    -d, --detach             return as soon as the program runs
        --keep               do not delete the container when it has ended
        --console-socket P   unix socket that the master of the terminal is sent to
        --pidfd-socket P     unix socket that a pidfd of the process is sent to
        --pid-file FILE      write the process id of the first process to FILE
        --no-subreaper       do not adopt the container's orphans
        --no-pivot           move the root mount instead of pivot_root
        --no-new-keyring     keep the session keyring of the caller
        --preserve-fds N     pass N more descriptors than the standard three
        --explain[=json]     print each step, what it is for and the system calls,
                             and then the time that each took

The exit status is that of the program, or 128 + the signal that ended it.

EXAMPLES:
    cd /containers/web && rrun run web
    rrun run --explain web
    rrun run --detach --bundle /containers/web --pid-file /run/web.pid web
";

const EXEC: &str = "\
execute one more process in a container

USAGE:
    rrun exec [OPTIONS] CONTAINER-ID COMMAND [ARGUMENTS]
    rrun exec [OPTIONS] --process FILE CONTAINER-ID

OPTIONS:
    -p, --process FILE       the process as JSON, as in config.json
    -t, --tty                with a terminal
    -u, --user UID[:GID]     user and group
    -g, --additional-gids N  one more group; may be repeated
        --cwd DIR            working directory
    -e, --env NAME=VALUE     environment; may be repeated
    -c, --cap NAME           one more capability; may be repeated
        --no-new-privs       gain no privileges by executing programs
        --apparmor PROFILE   AppArmor profile
        --process-label L    SELinux label
        --cgroup [C,..:]PATH a cgroup below the container's; on v1 for the controllers
                             C, and repeated for others
    -d, --detach             return as soon as the program runs
        --pid-file FILE      write its process id to FILE
        --console-socket P   unix socket that the master of the terminal is sent to
        --pidfd-socket P     unix socket that a pidfd of the process is sent to
        --preserve-fds N     pass N more descriptors than the standard three
        --ignore-paused      also in a paused container
        --explain[=json]     print each step, what it is for and the system calls,
                             and then the time that each took

The exit status is that of the program; 255 when it could not be executed.

EXAMPLES:
    rrun exec -t web sh
    rrun exec --user 1000:1000 --cwd /srv web ls -l
";

const START: &str = "\
execute the program of a created container

USAGE:
    rrun start CONTAINER-ID

EXAMPLES:
    rrun create --bundle /containers/web web && rrun start web
";

const STATE: &str = "\
print the state of a container as JSON

USAGE:
    rrun state CONTAINER-ID

EXAMPLES:
    rrun state web | jq -r .status
";

const KILL: &str = "\
send a signal to the first process of a container

USAGE:
    rrun kill [OPTIONS] CONTAINER-ID [SIGNAL]

SIGNAL is a name or a number [SIGTERM].

OPTIONS:
    -a, --all                to all its processes
    -r, --regex              CONTAINER-ID is a regular expression: to each that
                             matches

EXAMPLES:
    rrun kill web
    rrun kill web KILL
";

const DELETE: &str = "\
remove a container that does not run

USAGE:
    rrun delete [OPTIONS] CONTAINER-ID

OPTIONS:
    -f, --force              kill it first if it runs; no error if it does not exist
    -r, --regex              CONTAINER-ID is a regular expression: each that matches

EXAMPLES:
    rrun delete web
    rrun delete --force web
";

const LIST: &str = "\
list containers

USAGE:
    rrun list [OPTIONS]

OPTIONS:
    -f, --format FORMAT      table or json [table]
    -q, --quiet              ids only

EXAMPLES:
    rrun list
    rrun list --format json | jq -r '.[].id'
";

/// Help of one command, after its name, if there is such a command here.
pub fn command(name: &str) -> Option<&'static str> {
    Some(match name {
        "create" => CREATE,
        "run" => RUN,
        "exec" => EXEC,
        "start" => START,
        "state" => STATE,
        "kill" => KILL,
        "delete" => DELETE,
        "list" => LIST,
        _ => return super::commands::help(name),
    })
}

/// Every command that has a help text, with it.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    super::commands::NAMES
        .into_iter()
        .filter_map(|name| Some((name, command(name)?)))
}

/// What a help text says of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionHelp {
    /// As `b`.
    pub short: Option<char>,
    /// As `bundle`.
    pub long: String,
    /// As `DIR`; a value in brackets need not be given.
    pub value: Option<String>,
    /// The first line of its description.
    pub text: String,
}

/// The options of a help text.
pub fn options(text: &str) -> Vec<OptionHelp> {
    text.lines().flat_map(option_line).collect()
}

/// `-b, --bundle DIR   description`, or several options that share one: `--a, --b VALUE   description`.
fn option_line(line: &str) -> Vec<OptionHelp> {
    let spelling = line.trim_start();
    if !line.starts_with("    ") || !spelling.starts_with('-') {
        return Vec::new();
    }
    let (spelling, text) = spelling.split_once("  ").unwrap_or((spelling, ""));
    let mut list: Vec<OptionHelp> = Vec::new();
    let mut short = None;
    for part in spelling.split(", ") {
        let mut words = part.splitn(2, ' ');
        let name = words.next().unwrap_or_default();
        let value = words.next().map(str::to_owned);
        match name.strip_prefix("--") {
            Some(name) => list.push(OptionHelp {
                short: short.take(),
                long: name.split('[').next().unwrap_or(name).to_owned(),
                value,
                text: text.trim().to_owned(),
            }),
            None => short = name.chars().nth(1),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_the_help() {
        let text = "OPTIONS:\n    -b, --bundle DIR   where [.]\n        --explain[=json]  print\n\
                    \x20   --a, --b N  two\n\nEXAMPLES:\n    rrun --x\n";
        let found: Vec<_> = options(text)
            .into_iter()
            .map(|o| (o.short, o.long, o.value))
            .collect();
        let option = |short, long: &str, value: Option<&str>| {
            (short, long.to_owned(), value.map(str::to_owned))
        };
        assert_eq!(
            found,
            [
                option(Some('b'), "bundle", Some("DIR")),
                option(None, "explain", None),
                option(None, "a", None),
                option(None, "b", Some("N")),
            ]
        );
    }

    #[test]
    fn every_command_has_help_with_a_usage() {
        for name in super::super::commands::NAMES {
            let text = command(name).unwrap_or_else(|| panic!("{name} has no help"));
            assert!(text.contains("USAGE:\n    rrun "), "{name}");
            assert!(
                PROGRAM.contains(&format!("    {name}")),
                "{name} is not listed"
            );
        }
    }
}
