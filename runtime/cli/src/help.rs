//! `--help`: one text for the program, one per command, each with examples.

/// The program's own help, under the name it was called by.
pub fn program(name: &str) -> String {
    format!("NAME:\n   {name} - Open Container Initiative runtime\n{PROGRAM}")
}

const PROGRAM: &str = "
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
    image, cri, pods
              hand over to rrun-image, rrun-cri, rrun-pods

GLOBAL OPTIONS:
    --root DIR               where the state of containers is kept
                             [/run/rrun, rootless: $XDG_RUNTIME_DIR/rrun]
    --log FILE               write the log to FILE instead of standard error
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
