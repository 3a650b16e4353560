//! Shims: starting one, finding it again, and the connections to them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rrun_task_api::any;
use rrun_task_api::client::Client;
use rrun_task_api::pb::{Any, runc, runtime_options, shim};
use tokio::process::Command;

use crate::config::{Behind, CgroupDriver, Config, Runtime};
use crate::{id, notify};

/// The namespace that shims of this daemon are in.
pub const NAMESPACE: &str = "rrun-cri";

/// A shim that does not start within this time never will.
const START: Duration = Duration::from_mins(3);

/// Connections by container id. A connection that broke is made anew when it is next asked for.
pub struct Shims {
    clients: Mutex<HashMap<String, Client>>,
    /// Containers that exist, whose shim this process has ended with everything that it had. Another
    /// daemon does not know, and lets the shim program clean up once more.
    ended: Mutex<HashSet<String>>,
    /// Number of the next command.
    execs: AtomicU64,
}

impl Default for Shims {
    fn default() -> Self {
        Self {
            clients: Mutex::default(),
            ended: Mutex::default(),
            // Those of a daemon before this one may not be gone yet.
            execs: AtomicU64::new(id::now().unsigned_abs()),
        }
    }
}

impl Shims {
    /// The connection to a container's shim.
    pub async fn get(&self, id: &str, address: &str) -> Result<Client> {
        let known = self.lock().get(id).cloned();
        if let Some(client) = known.filter(Client::is_connected) {
            return Ok(client);
        }
        if address.is_empty() {
            bail!("container {id} has no shim");
        }
        let client = Client::connect(address).await?;
        self.lock().insert(id.to_owned(), client.clone());
        Ok(client)
    }

    /// A name for a command that no other has, not even one of a daemon before this.
    pub fn exec_id(&self) -> String {
        format!("sync-{:x}", self.execs.fetch_add(1, Ordering::Relaxed))
    }

    /// Closes the connection.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Nothing is left of a container's shim.
    pub fn set_ended(&self, id: &str) {
        self.ended().insert(id.to_owned());
    }

    /// Whether there is nothing to end any more.
    pub fn has_ended(&self, id: &str) -> bool {
        self.ended().contains(id)
    }

    /// What is known of a container's shim is of one before: the container is gone, or gets another.
    pub fn remove(&self, id: &str) {
        self.forget(id);
        self.ended().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a shim in a bundle and gives its address.
pub async fn start(config: &Config, runtime: &Runtime, id: &str) -> Result<String> {
    let stdout = run(config, runtime, id, "start").await?;
    address(&stdout).with_context(|| format!("shim of container {id}"))
}

/// Lets the shim program clean up after a shim that died: its container is killed and deleted.
pub async fn delete(config: &Config, runtime: &Runtime, id: &str) -> Result<()> {
    run(config, runtime, id, "delete").await.map(drop)
}

async fn run(config: &Config, runtime: &Runtime, id: &str, action: &str) -> Result<String> {
    let bundle = config.bundle_dir(id);
    let mut command = Command::new(&runtime.shim);
    for variable in notify::VARIABLES {
        command.env_remove(variable);
    }
    command
        .args([
            "-namespace",
            NAMESPACE,
            "-id",
            id,
            "-address",
            "",
            "-bundle",
        ])
        .arg(&bundle)
        .arg("-socket-dir")
        .arg(config.state.join("s"))
        .arg(action)
        .current_dir(&bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(START, command.output())
        .await
        .with_context(|| format!("shim {action} of container {id}: no end within {START:?}"))?
        .with_context(|| format!("run {}", runtime.shim.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.trim().lines().last().unwrap_or("no message");
        bail!("shim {action} of container {id}: {}: {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bootstrap JSON of version 3, or a bare address.
fn address(stdout: &str) -> Result<String> {
    let text = stdout.trim();
    if text.starts_with("unix://") {
        return Ok(text.to_owned());
    }
    let json: serde_json::Value =
        serde_json::from_str(text).with_context(|| format!("bootstrap {text:?}"))?;
    if json["protocol"] != "ttrpc" {
        bail!("bootstrap {text:?}: the protocol is not ttrpc");
    }
    let address = json["address"].as_str();
    Ok(address
        .with_context(|| format!("bootstrap {text:?}: no address"))?
        .to_owned())
}

/// What the shim has to know to run our runtime.
pub fn options(config: &Config, runtime: &Runtime) -> Any {
    let options = runc::Options {
        binary_name: path(&runtime.path),
        root: path(&runtime.root),
        systemd_cgroup: config.cgroup_driver == CgroupDriver::Systemd,
        ..Default::default()
    };
    match &runtime.behind {
        None => any::pack(any::RUNC_OPTIONS, &options),
        Some(behind) => any::pack(any::PEER_OPTIONS, &peer(behind, &options)),
    }
}

/// The shim that is to run the container, and its own options.
fn peer(behind: &Behind, runc: &runc::Options) -> shim::PeerOptions {
    let options = match &behind.config {
        None => any::pack(any::RUNC_OPTIONS, runc),
        Some(file) => {
            let generic = runtime_options::Options {
                config_path: path(file),
                ..Default::default()
            };
            any::pack(any::RUNTIME_OPTIONS, &generic)
        }
    };
    shim::PeerOptions {
        program: path(&behind.program),
        options: Some(options),
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bootstraps_are_understood() {
        let json = r#"{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}"#;
        assert_eq!(address(json).unwrap(), "unix:///run/s");
        assert_eq!(address("unix:///run/s\n").unwrap(), "unix:///run/s");
        assert!(address(r#"{"address":"unix:///s","protocol":"grpc"}"#).is_err());
        assert!(address("").is_err());
    }
}
