//! Keeps what containers that failed left, before it goes with them.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rrun_cri_api::v1::{ContainerState, ContainerStatus};

use super::super::capsule::{Failed, collect, layer_of};
use super::super::run::Shared;
use super::super::runtime::{Runtime, name_of, restarts};
use super::Worker;

fn failed(status: &ContainerStatus) -> bool {
    status.state() == ContainerState::ContainerExited && status.exit_code != 0
}

impl Worker {
    /// Makes a capsule of each run that failed and has none yet.
    pub(super) fn keep_capsules(&mut self, runtime: &Runtime) {
        self.kept.retain(|id| runtime.all().any(|c| c.id == *id));
        // Who is told to go may go with any code.
        if self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        for status in runtime.all().filter(|c| failed(c)) {
            if !self.kept.insert(status.id.clone()) {
                continue;
            }
            let capsules = &self.shared.capsules;
            let file = capsules.file(&self.key.uid, name_of(status), restarts(status), &status.id);
            if !file.exists() {
                let (shared, pod) = (self.shared.clone(), self.pod.clone());
                self.keeping.retain(|kept| !kept.is_finished());
                let keeping = tokio::spawn(keep(shared, pod, status.clone(), file));
                self.keeping.push(keeping);
            }
        }
    }
}

async fn keep(shared: Arc<Shared>, pod: Arc<Pod>, status: ContainerStatus, file: PathBuf) {
    let info = shared.cri.container_info(&status.id).await;
    let layer = info.ok().and_then(|info| layer_of(&info));
    let work = move || {
        let usage = shared.history.of(&status.id);
        let capsule = collect(&Failed {
            pod: &pod,
            status: &status,
            usage: &usage,
            layer,
        });
        shared.capsules.keep(&file, &capsule)
    };
    let kept = tokio::task::spawn_blocking(work).await;
    let kept = kept.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    if let Err(error) = kept {
        tracing::warn!("what a container left is not kept: {error}");
    }
}
