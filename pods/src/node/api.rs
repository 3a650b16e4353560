//! What the API asks of the node agent: logs, and the streaming URLs of exec, attach, port-forward.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use rrun_cri_api::v1 as cri;
use tokio::sync::mpsc;

use super::agent::Agent;
use super::capsule::Capsules;
use super::cri::Cri;
use super::dirs::Dirs;
use super::logs::{self, Reader};
use super::memory::every_container;
use super::names::{CONTAINER_NAME, POD_UID, uid};
use super::observe::{self, Ended};
use super::runtime::{self, Runtime};
use super::usage;
use super::watch_file::Watched;
use crate::api::node::{ExecOptions, LogOptions, NodeAgent, Pending};
use crate::api::{Client, Status};

/// Pieces of a log that wait for a slow reader.
const WAITING: usize = 16;

/// Answers the API out of the agent's runtime and directories.
#[derive(Clone)]
pub struct Answers {
    client: Client,
    cri: Cri,
    dirs: Dirs,
    reading: Arc<Mutex<Option<usage::Reading>>>,
    capsules: Capsules,
}

impl Agent {
    /// What the API needs of this agent.
    pub fn answers(&self) -> Answers {
        let (client, cri, dirs) = self.parts();
        Answers {
            capsules: dirs.capsules(),
            client,
            cri,
            dirs,
            reading: Arc::default(),
        }
    }
}

fn unavailable(status: &tonic::Status) -> Status {
    Status::new(
        500,
        "InternalError",
        format!("the container runtime: {}", status.message()),
    )
}

impl Answers {
    fn pod(&self, namespace: &str, name: &str) -> Result<Pod, Status> {
        self.client.get_as(namespace, name)
    }

    async fn runtime(&self, pod: &Pod) -> Result<Runtime, Status> {
        let mut ended = Ended::default();
        let found = observe::observe(&self.cri, uid(pod), &mut ended).await;
        found.map_err(|s| unavailable(&s))
    }

    /// CRI id of a running container of the pod.
    async fn running(&self, pod: &Pod, name: &str) -> Result<String, Status> {
        let labels = [(POD_UID, uid(pod)), (CONTAINER_NAME, name)];
        let filter = cri::ContainerFilter {
            label_selector: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            state: Some(cri::ContainerStateValue {
                state: cri::ContainerState::ContainerRunning.into(),
            }),
            ..cri::ContainerFilter::default()
        };
        let request = cri::ListContainersRequest {
            filter: Some(filter),
        };
        let answer = self.cri.runtime().list_containers(request).await;
        let list = answer.map_err(|s| unavailable(&s))?.into_inner().containers;
        let newest = list.into_iter().max_by_key(|c| c.created_at);
        newest.map(|c| c.id).ok_or_else(|| {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Status::new(
                500,
                "InternalError",
                format!("unable to upgrade connection: container not found (\"{name}\" of pod \"{pod}\" does not run)"),
            )
        })
    }

    async fn log(
        &self,
        namespace: &str,
        name: &str,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Bytes>, Status> {
        let pod = self.pod(namespace, name)?;
        let container = choose(&pod, &options.container)?;
        let runtime = self.runtime(&pod).await?;
        let status = if options.previous {
            runtime.previous(&container).ok_or_else(|| {
                Status::new(
                    400,
                    "BadRequest",
                    format!(
                        "previous terminated container \"{container}\" in pod \"{name}\" not found"
                    ),
                )
            })?
        } else {
            runtime
                .newest(&container)
                .ok_or_else(|| waiting(&pod, &container))?
        };
        let restarts = runtime::restarts(status);
        let path = logs::path(&self.dirs, &pod, &container, restarts);
        let wanted = wanted(&options)?;
        let mut reader = Reader::open(&path, wanted).await.map_err(|error| {
            Status::new(500, "InternalError", format!("{}: {error}", path.display()))
        })?;
        let watched = options.follow.then(|| Watched::new(&path)).transpose();
        let watched = watched.map_err(|e| Status::internal(format!("{}: {e}", path.display())))?;
        let (out, pieces) = mpsc::channel(WAITING);
        let (this, id) = (self.clone(), status.id.clone());
        tokio::spawn(async move {
            if let Err(error) = this.copy(&mut reader, watched, &id, out).await {
                tracing::debug!(path = %path.display(), "log: {error}");
            }
        });
        Ok(pieces)
    }

    /// Copies the log until its end, or, when it is followed, until the container has ended.
    async fn copy(
        &self,
        reader: &mut Reader,
        watched: Option<Watched>,
        id: &str,
        out: mpsc::Sender<Bytes>,
    ) -> std::io::Result<()> {
        let Some(mut watched) = watched else {
            return drain(reader, &out).await.map(drop);
        };
        let mut ends = self.ends(id.to_owned());
        loop {
            if !drain(reader, &out).await? {
                return Ok(());
            }
            tokio::select! {
                changed = watched.changed() => changed?,
                _ = &mut ends => {
                    // What it wrote last is there by now.
                    return drain(reader, &out).await.map(drop);
                }
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Ends once the container has.
    fn ends(&self, id: String) -> tokio::task::JoinHandle<()> {
        let cri = self.cri.clone();
        tokio::spawn(async move {
            loop {
                let request = cri::GetEventsRequest::default();
                let stream = cri.runtime().get_container_events(request).await;
                if let Ok(Some(status)) = cri.container(&id).await
                    && status.state() == cri::ContainerState::ContainerRunning
                {
                    match stream {
                        Ok(stream) => wait_for(stream.into_inner(), &id).await,
                        Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                    }
                    continue;
                } else if let Err(status) = cri.container(&id).await {
                    tracing::debug!("log: {}", status.message());
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
                return;
            }
        })
    }
}

/// Reads events until one is of the container.
async fn wait_for(mut events: tonic::Streaming<cri::ContainerEventResponse>, id: &str) {
    while let Ok(Some(event)) = events.message().await {
        if event.container_id == id {
            return;
        }
    }
}

/// Copies what there is. False where nobody listens any more, or all that was asked for was given.
async fn drain(reader: &mut Reader, out: &mpsc::Sender<Bytes>) -> std::io::Result<bool> {
    while let Some(piece) = reader.next().await? {
        if out.send(Bytes::from(piece)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(!reader.is_over())
}

fn wanted(options: &LogOptions) -> Result<logs::Options, Status> {
    let bad = |what: String| Status::new(400, "BadRequest", what);
    let now = Timestamp::now();
    let since = match (&options.since_time, options.since_seconds) {
        (Some(text), _) => Some(
            text.parse::<Timestamp>()
                .map_err(|e| bad(format!("sinceTime: Invalid value: \"{text}\": {e}")))?,
        ),
        (None, Some(seconds)) => {
            let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH))
        }
        (None, None) => None,
    };
    Ok(logs::Options {
        tail: options.tail_lines.and_then(|n| usize::try_from(n).ok()),
        since,
        follow: options.follow,
        timestamps: options.timestamps,
        limit_bytes: options.limit_bytes,
        stream: match options.stream.as_str() {
            "" | "All" => None,
            other => Some(other.to_lowercase()),
        },
    })
}

fn waiting(pod: &Pod, container: &str) -> Status {
    let status = super::memory::stored_status(pod, container);
    let state = status
        .and_then(|s| s.state.as_ref())
        .and_then(|s| s.waiting.as_ref());
    let reason = state
        .and_then(|w| w.reason.as_deref())
        .unwrap_or("ContainerCreating");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Status::new(
        400,
        "BadRequest",
        format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"),
    )
}

/// The container that is meant: the named one, the one of the annotation, or the only one.
fn choose(pod: &Pod, asked: &str) -> Result<String, Status> {
    let all = every_container(pod);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let names = |list: Option<&Vec<k8s_openapi::api::core::v1::Container>>| {
        let names: Vec<&str> = list
            .into_iter()
            .flatten()
            .map(|c| c.name.as_str())
            .collect();
        names.join(" ")
    };
    let bad = |message: String| Status::new(400, "BadRequest", message);
    if !asked.is_empty() {
        let known = all.iter().any(|c| c.name == asked);
        return known
            .then(|| asked.to_owned())
            .ok_or_else(|| bad(format!("container {asked} is not valid for pod {name}")));
    }
    let annotations = pod.metadata.annotations.as_ref();
    let default = annotations.and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    if let Some(default) = default.filter(|d| all.iter().any(|c| c.name == **d)) {
        return Ok(default.clone());
    }
    let spec = pod.spec.as_ref();
    let main = spec.map(|s| &s.containers);
    match main.map(Vec::as_slice) {
        Some([only]) => Ok(only.name.clone()),
        _ => {
            let init = spec.and_then(|s| s.init_containers.as_ref());
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names(main)
            );
            if init.is_some_and(|list| !list.is_empty()) {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    names(init)
                ));
            }
            Err(bad(message))
        }
    }
}

impl NodeAgent for Answers {
    fn logs(&self, ns: &str, pod: &str, options: LogOptions) -> Pending<'_, mpsc::Receiver<Bytes>> {
        let (ns, pod) = (ns.to_owned(), pod.to_owned());
        Box::pin(async move { self.log(&ns, &pod, options).await })
    }

    fn exec(&self, ns: &str, pod: &str, options: ExecOptions) -> Pending<'_, String> {
        let pod = self.pod(ns, pod);
        Box::pin(async move {
            let pod = pod?;
            let container_id = self
                .running(&pod, &choose(&pod, &options.container)?)
                .await?;
            let request = cri::ExecRequest {
                container_id,
                cmd: options.command,
                tty: options.tty,
                stdin: options.stdin,
                stdout: options.stdout,
                stderr: options.stderr && !options.tty,
            };
            let answer = self.cri.runtime().exec(request).await;
            Ok(answer.map_err(|s| unavailable(&s))?.into_inner().url)
        })
    }

    fn attach(&self, ns: &str, pod: &str, options: ExecOptions) -> Pending<'_, String> {
        let pod = self.pod(ns, pod);
        Box::pin(async move {
            let pod = pod?;
            let container_id = self
                .running(&pod, &choose(&pod, &options.container)?)
                .await?;
            let request = cri::AttachRequest {
                container_id,
                tty: options.tty,
                stdin: options.stdin,
                stdout: options.stdout,
                stderr: options.stderr && !options.tty,
            };
            let answer = self.cri.runtime().attach(request).await;
            Ok(answer.map_err(|s| unavailable(&s))?.into_inner().url)
        })
    }

    fn port_forward(&self, ns: &str, pod: &str, ports: Vec<u16>) -> Pending<'_, String> {
        let pod = self.pod(ns, pod);
        Box::pin(async move {
            let pod = pod?;
            let runtime = self.runtime(&pod).await?;
            let sandbox = runtime.ready_sandbox().ok_or_else(|| {
                Status::new(500, "InternalError", "the pod has no sandbox that runs")
            })?;
            let request = cri::PortForwardRequest {
                pod_sandbox_id: sandbox.id.clone(),
                port: ports.into_iter().map(i32::from).collect(),
            };
            let answer = self.cri.runtime().port_forward(request).await;
            Ok(answer.map_err(|s| unavailable(&s))?.into_inner().url)
        })
    }

    fn usage(&self) -> Pending<'_, crate::api::node::Usage> {
        Box::pin(async move {
            let measured = usage::usage(&self.cri, &self.reading).await;
            measured.map_err(|s| unavailable(&s))
        })
    }

    fn capsules(&self) -> Pending<'_, Vec<serde_json::Value>> {
        let capsules = self.capsules.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || capsules.all()).await;
            read.map_err(Status::internal)
        })
    }
}
