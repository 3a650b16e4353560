//! A container runtime without containers, behind a real CRI socket: the node agent's protocol edge.

mod image;
mod probe;
mod runtime;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rrun_cri_api::probe::probe_server::ProbeServer;
use rrun_cri_api::v1 as cri;
use rrun_cri_api::v1::image_service_server::ImageServiceServer;
use rrun_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use tokio::sync::broadcast;

/// What the runtime holds; it outlives the server, as containers outlive rrun-cri.
pub struct World {
    pub sandboxes: HashMap<String, cri::PodSandboxStatus>,
    pub containers: HashMap<String, cri::ContainerStatus>,
    pub configs: HashMap<String, cri::ContainerConfig>,
    /// Why pulls fail, by image.
    pub broken_images: HashMap<String, String>,
    pub images: Vec<String>,
    /// The next sandbox that a container is made in is lost just before.
    pub lose_next: bool,
    /// Exit code of every command that is run in a container, by its first word.
    pub commands: HashMap<String, i32>,
    /// Runs them until they fail, too, as rrun-cri does and no other runtime.
    pub repeats: bool,
    /// Names of containers that are never made, but by a server that is killed meanwhile, and first words
    /// of commands that do not end while they are here.
    pub held: HashSet<String>,
    /// Names of containers that end by SIGKILL alone.
    pub deaf: HashSet<String>,
    /// Names of calls that change something, with their subject.
    pub calls: Vec<String>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    next: u32,
}

/// The fake runtime.
#[derive(Clone)]
pub struct Fake {
    pub world: Arc<Mutex<World>>,
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

impl Fake {
    pub fn new() -> Self {
        let world = World {
            sandboxes: HashMap::new(),
            containers: HashMap::new(),
            configs: HashMap::new(),
            broken_images: HashMap::new(),
            images: Vec::new(),
            lose_next: false,
            commands: HashMap::new(),
            repeats: true,
            held: HashSet::new(),
            deaf: HashSet::new(),
            calls: Vec::new(),
            events: broadcast::channel(256).0,
            next: 0,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// Serves on a socket in `dir` until the server is killed.
    pub fn serve(&self, dir: &Path) -> Server {
        let path = dir.join("cri.sock");
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()))
            .add_service(ProbeServer::new(self.clone()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        // A runtime of its own, so that its end is that of every connection.
        let thread = std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                tokio::select! {
                    served = service.serve_with_incoming(incoming) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let running = Some((stop, thread));
        Server { path, running }
    }

    /// Ends a container as a signal would, or as itself.
    pub fn exit(&self, name: &str, code: i32) {
        let mut world = self.world.lock().unwrap();
        let id = world.running(name).expect("the container runs");
        world.end(&id, code);
    }

    /// CRI id of the running container of this name.
    pub fn running(&self, name: &str) -> Option<String> {
        self.world.lock().unwrap().running(name)
    }

    /// The config that the newest container of this name was made with.
    pub fn config(&self, name: &str) -> cri::ContainerConfig {
        let world = self.world.lock().unwrap();
        let newest = world
            .containers
            .values()
            .filter(|c| c.metadata.as_ref().is_some_and(|m| m.name == name))
            .max_by_key(|c| c.created_at);
        world.configs[&newest.unwrap().id].clone()
    }

    pub fn calls(&self) -> Vec<String> {
        self.world.lock().unwrap().calls.clone()
    }
}

/// A running server.
pub struct Server {
    path: PathBuf,
    running: Option<(
        tokio::sync::oneshot::Sender<()>,
        std::thread::JoinHandle<()>,
    )>,
}

/// As kill -9 does: the socket goes away, with every connection and all that was under way.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl World {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{:04}", self.next)
    }

    /// Refuses what only a sandbox that is ready can do, as every runtime does.
    fn ready(&mut self, sandbox: &str) -> Result<(), tonic::Status> {
        let found = self.sandboxes.get_mut(sandbox);
        let state = found.map(|found| {
            if std::mem::take(&mut self.lose_next) {
                found.set_state(cri::PodSandboxState::SandboxNotready);
            }
            found.state()
        });
        if state == Some(cri::PodSandboxState::SandboxReady) {
            return Ok(());
        }
        let why = format!("pod sandbox {sandbox} is not ready");
        Err(tonic::Status::failed_precondition(why))
    }

    fn running(&self, name: &str) -> Option<String> {
        let found = self.containers.values().find(|c| {
            c.state() == cri::ContainerState::ContainerRunning
                && c.metadata.as_ref().is_some_and(|m| m.name == name)
        });
        found.map(|c| c.id.clone())
    }

    fn end(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.state() != cri::ContainerState::ContainerRunning {
            return;
        }
        container.set_state(cri::ContainerState::ContainerExited);
        container.exit_code = code;
        container.finished_at = now();
        self.tell(id, cri::ContainerEventType::ContainerStoppedEvent);
    }

    /// Whether the container runs and heeds no signal that it can.
    fn resists(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|c| {
            let name = c.metadata.as_ref().map(|m| &m.name);
            c.state() == cri::ContainerState::ContainerRunning
                && name.is_some_and(|name| self.deaf.contains(name))
        })
    }

    fn tell(&self, id: &str, kind: cri::ContainerEventType) {
        let container = self.containers.get(id);
        let sandbox = container
            .and_then(|c| {
                self.sandboxes.values().find(|s| {
                    s.labels.get("io.kubernetes.pod.uid") == c.labels.get("io.kubernetes.pod.uid")
                })
            })
            .or_else(|| self.sandboxes.get(id));
        let _ = self.events.send(cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: sandbox.cloned(),
            containers_statuses: vec![],
        });
    }
}
