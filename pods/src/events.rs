//! Events: what happened to an object, for people. The same event again counts up.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::{Client, Patch, kinds};

/// Events that wait to be written; more are dropped rather than anything made to wait.
const WAITING: usize = 1024;
/// Events that are remembered to be counted up.
const REMEMBERED: usize = 1024;

/// Takes events of one component; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Item>,
    component: &'static str,
}

struct Item {
    component: &'static str,
    object: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
}

impl Recorder {
    /// Starts a task that writes events, which ends with the last recorder.
    pub fn start(client: Client, component: &'static str, host: &str) -> Self {
        let (queue, items) = mpsc::channel(WAITING);
        tokio::spawn(write_all(client, host.to_owned(), items));
        Self { queue, component }
    }

    /// The same queue for another component.
    #[must_use]
    pub fn of(&self, component: &'static str) -> Self {
        Self {
            queue: self.queue.clone(),
            component,
        }
    }

    /// Something went as it should.
    pub fn normal(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(object, "Normal", reason, message.into());
    }

    /// Something did not.
    pub fn warning(&self, object: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.send(object, "Warning", reason, message.into());
    }

    fn send(&self, object: &ObjectReference, kind: &'static str, reason: &str, message: String) {
        let item = Item {
            component: self.component,
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message,
        };
        // Events are a service to people; losing one under a flood is better than waiting.
        let _ = self.queue.try_send(item);
    }
}

/// A reference to an object given as JSON.
pub fn reference(object: &Value) -> ObjectReference {
    let text = |pointer: &str| {
        let value = object.pointer(pointer).and_then(Value::as_str);
        value.map(str::to_owned)
    };
    ObjectReference {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        resource_version: text("/metadata/resourceVersion"),
        field_path: None,
    }
}

async fn write_all(client: Client, host: String, mut items: mpsc::Receiver<Item>) {
    // What makes two events the same, to the name and count of the first.
    let mut known: HashMap<(String, String, String), (String, i64)> = HashMap::new();
    while let Some(item) = items.recv().await {
        let object = &item.object;
        let who = format!(
            "{}/{}/{}",
            object.uid.as_deref().unwrap_or_default(),
            object.field_path.as_deref().unwrap_or_default(),
            item.component
        );
        let key = (who, item.reason.clone(), item.message.clone());
        let namespace = object.namespace.clone().filter(|ns| !ns.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let now = crate::node::now().to_string();
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": now});
            let patched = client
                .patch(&kinds::EVENT, &namespace, name, Patch::Merge(patch))
                .await;
            if patched.is_ok() {
                continue;
            }
        }
        let event = body(&item, &host, &namespace, &now);
        let name = event["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        match client.create(&kinds::EVENT, &namespace, event).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(key, (name, 1));
            }
            Err(status) => tracing::debug!(
                reason = item.reason,
                "event not written: {}",
                status.message
            ),
        }
    }
}

fn body(item: &Item, host: &str, namespace: &str, now: &str) -> Value {
    let object = &item.object;
    let name = object.name.as_deref().unwrap_or_default();
    let stamp = jiff::Timestamp::now().as_nanosecond();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{stamp:x}"), "namespace": namespace},
        "involvedObject": object,
        "type": item.kind,
        "reason": item.reason,
        "message": item.message,
        "source": {"component": item.component, "host": host},
        "reportingComponent": item.component,
        "reportingInstance": host,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
