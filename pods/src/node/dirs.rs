//! Where the node agent keeps the files of pods, under its root directory.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::capsule::Capsules;
use super::names;

/// The node agent's directories.
#[derive(Clone, Debug)]
pub struct Dirs {
    root: PathBuf,
    logs: PathBuf,
}

impl Dirs {
    /// Below `root`, an absolute path, with logs below `logs` or in `logs` under the root.
    pub fn new(root: &Path, logs: Option<&Path>) -> Self {
        Self {
            root: root.to_owned(),
            logs: logs.map_or_else(|| root.join("logs"), Path::to_owned),
        }
    }

    /// All pods' directories.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// What belongs to one pod but its logs.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// A volume, in the kubelet's layout.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        let plugin = format!("kubernetes.io~{plugin}");
        self.pod(uid).join("volumes").join(plugin).join(name)
    }

    /// The pod's `/etc/hosts`.
    pub fn hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// The termination message file of one run of a container.
    pub fn message(&self, uid: &str, container: &str, restarts: u32) -> PathBuf {
        let dir = self.pod(uid).join("containers").join(container);
        dir.join(restarts.to_string())
    }

    /// What containers that failed left.
    pub fn capsules(&self) -> Capsules {
        Capsules::new(&self.root)
    }

    /// All logs.
    pub fn all_logs(&self) -> PathBuf {
        self.logs.clone()
    }

    /// The pod's logs, which the CRI is told.
    pub fn logs(&self, pod: &Pod) -> PathBuf {
        let key = names::pod_key(pod).replace('/', "_");
        self.all_logs().join(format!("{key}_{}", names::uid(pod)))
    }

    /// The log of one run of a container, below [`logs`](Self::logs).
    pub fn log_file(container: &str, restarts: u32) -> String {
        format!("{container}/{restarts}.log")
    }
}
