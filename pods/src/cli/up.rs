//! `up` and `down`: the whole machine by one command.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::http::Api;
use super::{delete, kinds};
use crate::serve;

/// How long rrun-cri and the API get to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// `rrun-pods up -f web.yaml`: rrun-cri, unless it runs already, and everything of `serve`.
#[derive(Debug, Args)]
#[group(id = "up")]
#[command(after_help = "Examples:
  rrun-pods up
  rrun-pods up -f web.yaml -f service.yaml")]
pub struct Options {
    /// Apply these manifests once the API is up.
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    /// Give this to rrun-cri as well, may be repeated: --cri-arg=--root=/srv/cri
    #[arg(long, allow_hyphen_values = true)]
    cri_arg: Vec<String>,
    #[command(flatten)]
    serve: serve::Options,
}

/// `rrun-pods down`: removes every workload and Service, and waits until nothing of them is left.
#[derive(Debug, Args)]
pub struct DownOptions {
    /// How long to wait in seconds; 0 is for ever.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// Runs until told to stop. Containers run on then, as after a crash.
pub fn run(options: Options, socket: &Path) -> anyhow::Result<()> {
    let mut cri = start_cri(&options.serve.cri_socket, &options.cri_arg)?;
    let apply = (!options.filename.is_empty()).then(|| {
        let (files, socket) = (options.filename.clone(), socket.to_owned());
        std::thread::spawn(move || apply(&files, &socket))
    });
    let mut serve_options = options.serve;
    socket.clone_into(&mut serve_options.socket);
    let served = serve::run(&serve_options);
    if let Some(child) = &mut cri {
        stop(child);
    }
    if let Some(apply) = apply.filter(std::thread::JoinHandle::is_finished)
        && apply.join().is_err()
    {
        tracing::debug!("the manifests were not applied");
    }
    served
}

/// Starts rrun-cri where nobody answers on its socket.
fn start_cri(socket: &str, more: &[String]) -> anyhow::Result<Option<Child>> {
    let path = Path::new(socket.strip_prefix("unix://").unwrap_or(socket));
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Ok(None);
    }
    let own = std::env::current_exe().context("the path of rrun-pods")?;
    let beside = own.with_file_name("rrun-cri");
    let program = if beside.exists() {
        beside
    } else {
        PathBuf::from("rrun-cri")
    };
    let child = Command::new(&program)
        .arg("serve")
        .arg("--listen")
        .arg(format!("unix://{}", path.display()))
        .args(more)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| {
            format!(
                "{}: not beside rrun-pods and not on PATH",
                program.display()
            )
        })?;
    let mut child = child;
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{} ended at once: {status}", program.display());
        }
        if begun.elapsed() > PATIENCE {
            stop(&mut child);
            bail!(
                "{} does not answer on {}",
                program.display(),
                path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(child))
}

fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Our own child, which has not been waited for: the number is still its.
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = child.wait();
}

fn apply(files: &[PathBuf], socket: &Path) {
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        if begun.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Ok(own) = std::env::current_exe() else {
        return;
    };
    let mut command = Command::new(own);
    command.arg("--socket").arg(socket).arg("apply");
    for file in files {
        command.arg("-f").arg(file);
    }
    if let Err(error) = command.status() {
        eprintln!("rrun-pods: apply: {error}");
    }
}

/// Removes what runs, in every namespace.
pub async fn down(api: &Api, options: &DownOptions) -> anyhow::Result<()> {
    // Who makes pods goes before the pods that it made.
    let kinds = [
        "cronjobs",
        "jobs",
        "deployments",
        "statefulsets",
        "daemonsets",
        "replicasets",
        "replicationcontrollers",
        "services",
        "pods",
    ];
    for kind in kinds {
        let res = kinds::find(api, kind).await?;
        let list = api.get(&kinds::path(res, "", None)).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default();
            if (text("namespace"), text("name")) == ("default", "kubernetes") {
                continue;
            }
            let path = kinds::path(res, text("namespace"), Some(text("name")));
            delete::one(api, res, &path, text("name")).await?;
        }
    }
    let gone = async {
        loop {
            let pods = api.get("/api/v1/pods").await?;
            if pods["items"].as_array().is_none_or(Vec::is_empty) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if options.timeout == 0 {
        return gone.await;
    }
    match tokio::time::timeout(Duration::from_secs(options.timeout), gone).await {
        Ok(done) => done,
        Err(_) => bail!(
            "pods are left after {} s; `get pods -A` shows them",
            options.timeout
        ),
    }
}
