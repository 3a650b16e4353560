//! Container events, for GetContainerEvents.

use rrun_cri_api::v1;
use tokio::sync::broadcast;

use crate::daemon::Daemon;
use crate::id;
use crate::rpc::{container_status, pod_sandbox_status};
use crate::store::ContainerPhase;

/// A subscriber that is this many events behind loses the oldest; a kubelet lists again then.
const BACKLOG: usize = 256;

/// The subscribers.
pub struct Events(broadcast::Sender<v1::ContainerEventResponse>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Events {
    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<v1::ContainerEventResponse> {
        self.0.subscribe()
    }
}

impl Daemon {
    /// Tells the subscribers what happened to a container, with the state of its whole pod. For a
    /// sandbox itself the id is the sandbox's, as a kubelet expects it.
    pub fn publish(&self, kind: v1::ContainerEventType, id: &str, sandbox_id: &str) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let sandbox = self.store.sandboxes.get(sandbox_id);
        let statuses = self.containers_of(sandbox_id);
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: id::now(),
            pod_sandbox_status: sandbox.map(|s| pod_sandbox_status::status(&s.get())),
            containers_statuses: statuses
                .iter()
                .map(|c| c.get())
                // As in PodSandboxStatus: nobody knows of it before it is there.
                .filter(|c| c.phase() != ContainerPhase::Creating)
                .map(|c| container_status::status(&c))
                .collect(),
        };
        // Without receivers there is nobody to tell.
        let _ = self.events.0.send(event);
    }
}
