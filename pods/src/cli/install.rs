//! `install`: units of systemd, so that a machine runs its pods from its start on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::output::print;

/// `rrun-pods install`.
#[derive(Debug, Args)]
#[command(
    after_help = "Does nothing that is done already; a unit that changed is written anew and its service
started again. Containers run on meanwhile.

Examples:
  rrun-pods install
  rrun-pods install -- --static-pods /etc/rrun/static --listen 0.0.0.0:6443
  rrun-pods install --uninstall"
)]
pub struct Options {
    /// Stop the services and remove the units; the state stays.
    #[arg(long)]
    uninstall: bool,
    /// Write the units and leave systemd alone.
    #[arg(long)]
    no_start: bool,
    /// Directory of the units.
    #[arg(long, default_value = "/etc/systemd/system")]
    unit_dir: PathBuf,
    /// Options of `rrun-pods serve`.
    #[arg(last = true)]
    serve: Vec<String>,
}

/// The units, in the order of their start.
const UNITS: [&str; 2] = ["rrun-cri.service", "rrun-pods.service"];

/// A word of a command line of systemd (systemd.service(5), systemd.unit(5)).
fn word(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The text of both units.
fn units(programs: &Path, serve: &[String]) -> [(&'static str, String); 2] {
    let program = |name: &str| word(&programs.join(name).display().to_string());
    let mut arguments = String::new();
    for argument in serve {
        arguments.push(' ');
        arguments.push_str(&word(argument));
    }
    // Only the daemon itself is stopped with its service: containers outlive it.
    let service = "KillMode=process\nDelegate=yes\nRestart=always\nRestartSec=1\nOOMScoreAdjust=-900\n\
         LimitNOFILE=1048576\nTasksMax=infinity\n";
    let (cri, pods) = (program("rrun-cri"), program("rrun-pods"));
    [
        (
            UNITS[0],
            format!(
                "[Unit]\nDescription=rrun-cri, containers and images\nAfter=network.target\n\n\
                 [Service]\nType=notify\nNotifyAccess=main\nExecStart={cri} serve\n{service}\n[Install]\nWantedBy=multi-user.target\n"
            ),
        ),
        (
            UNITS[1],
            format!(
                "[Unit]\nDescription=rrun-pods, the Kubernetes API and its pods\nAfter=rrun-cri.service network-online.target\n\
                 Wants=rrun-cri.service network-online.target\n\n\
                 [Service]\nExecStart={pods} serve{arguments}\n{service}\n[Install]\nWantedBy=multi-user.target\n"
            ),
        ),
    ]
}

/// Runs it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.uninstall {
        return uninstall(options);
    }
    words_are_known(&options.serve)?;
    let own = std::env::current_exe().context("the path of rrun-pods")?;
    let programs = own.parent().context("the directory of rrun-pods")?;
    let cri = programs.join("rrun-cri");
    ensure!(
        cri.is_file(),
        "{}: is not there: install rrun-cri beside rrun-pods",
        cri.display()
    );
    let mut changed = Vec::new();
    for (name, text) in units(programs, &options.serve) {
        let path = options.unit_dir.join(name);
        if std::fs::read_to_string(&path).ok().as_deref() == Some(&text) {
            print(&format!("{} is as it should be\n", path.display()));
            continue;
        }
        write(&path, &text).with_context(|| path.display().to_string())?;
        print(&format!("{} written\n", path.display()));
        changed.push(name);
    }
    if options.no_start {
        return Ok(());
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&[&["enable", "--quiet"], UNITS.as_slice()].concat())?;
    if !changed.is_empty() {
        systemctl(&[&["restart"], changed.as_slice()].concat())?;
    }
    systemctl(&[&["start"], UNITS.as_slice()].concat())
}

/// A service that does not start for a wrong option would be started again for ever.
fn words_are_known(serve: &[String]) -> anyhow::Result<()> {
    use clap::Parser as _;
    let line = ["rrun-pods", "serve"].into_iter().map(str::to_owned);
    match super::Program::try_parse_from(line.chain(serve.iter().cloned())) {
        Ok(_) => Ok(()),
        Err(error) => bail!("after --: {}", error.to_string().trim_end()),
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let temp = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temp, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn uninstall(options: &Options) -> anyhow::Result<()> {
    let there: Vec<&str> = UNITS
        .into_iter()
        .filter(|name| options.unit_dir.join(name).exists())
        .collect();
    if there.is_empty() {
        print("nothing is installed\n");
        return Ok(());
    }
    if !options.no_start {
        systemctl(&[&["disable", "--quiet", "--now"], there.as_slice()].concat())?;
    }
    for name in there {
        let path = options.unit_dir.join(name);
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        print(&format!("{} removed\n", path.display()));
    }
    if options.no_start {
        return Ok(());
    }
    systemctl(&["daemon-reload"])
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("systemctl").args(arguments).status();
    let status = status
        .context("systemctl: does this machine run systemd? --no-start writes the units alone")?;
    ensure!(
        status.success(),
        "systemctl {}: {status}",
        arguments.join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_quote_what_systemd_would_read() {
        let serve = ["--node-name".to_owned(), "a %n $HOME \"x\"".to_owned()];
        let [cri, pods] = units(Path::new("/opt/my rrun"), &serve);
        assert!(
            cri.1
                .contains("ExecStart=\"/opt/my rrun/rrun-cri\" serve\n")
        );
        assert!(
            pods.1
                .contains(r#"serve "--node-name" "a %%n $$HOME \"x\"""#),
            "{}",
            pods.1
        );
        assert!(pods.1.contains("After=rrun-cri.service"));
    }

    #[test]
    fn it_writes_once_and_removes_again() {
        let dir = tempfile::tempdir().unwrap();
        let options = |uninstall| Options {
            uninstall,
            no_start: true,
            unit_dir: dir.path().to_owned(),
            serve: Vec::new(),
        };
        for name in UNITS {
            write(&dir.path().join(name), "x").unwrap();
        }
        run(&options(true)).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        run(&options(true)).unwrap();
        assert!(words_are_known(&["--nonsense".to_owned()]).is_err());
        assert!(words_are_known(&["--listen".to_owned(), "none".to_owned()]).is_ok());
    }
}
