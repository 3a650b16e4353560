//! A rrun-cri of its own directories, and a client to it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rrun_cri_api::v1;
use rrun_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use rrun_tests::{busybox_rootfs, program, wait_until};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub type Client = RuntimeServiceClient<Channel>;

pub const IMAGE: &str = "localhost/busybox:test";
pub const LIMIT: Duration = Duration::from_secs(20);

/// [`LIMIT`] on a machine of this one's speed (see `rrun_tests::wait_until`).
pub fn patience() -> Duration {
    let scale = std::env::var("RRUN_TIME_SCALE").ok();
    LIMIT * scale.and_then(|s| s.parse().ok()).unwrap_or(1)
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What the configuration keeps layers as.
fn snapshotter(config: &str) -> &str {
    let after = config.split("snapshotter = \"").nth(1);
    after
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("overlayfs")
}

/// The daemon and everything it may write.
pub struct Cri {
    pub dir: TempDir,
    daemon: Child,
    bridge: String,
    pub cgroup: String,
}

impl Cri {
    /// Makes the image and starts the daemon.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with a configuration file.
    pub fn start_with(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Whoever is root in a user namespace is nobody here, and has to reach the root it is given.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let layer = dir.path().join("layer");
        busybox_rootfs(&layer);
        fs::write(dir.path().join("cri.toml"), config).unwrap();
        let mut group = fs::read_to_string(layer.join("etc/group")).unwrap();
        group.push_str("extra:x:50000:root\n");
        fs::write(layer.join("etc/group"), group).unwrap();
        let built = Command::new(program("rrun-image"))
            .arg("--store")
            .arg(dir.path().join("images"))
            .args(["--snapshotter", snapshotter(config)])
            .args(["build-layers", "-t", IMAGE, "--cmd", r#"["sleep","1000"]"#])
            .arg(&layer)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(built.success());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        // An interface name has at most 15 characters.
        let bridge = format!("rrt{name}");
        let cgroup = format!("/rrun-cri-test-{name}");
        let daemon = spawn(dir.path(), &bridge, None);
        let cri = Self {
            dir,
            daemon,
            bridge,
            cgroup,
        };
        cri.wait_until_up();
        cri
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wait_until_up(&self) {
        let socket = self.path("cri.sock");
        wait_until("the CRI socket", LIMIT, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = self.daemon.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
    }

    pub fn has_ended(&mut self) -> bool {
        self.daemon.try_wait().unwrap().is_some()
    }

    /// Starts the daemon again.
    pub fn restart(&mut self) {
        self.daemon = spawn(self.dir.path(), &self.bridge, None);
        self.wait_until_up();
    }

    /// The same, to die by SIGKILL at a point of its durable writes: two for each, before and after.
    pub fn restart_to_die_at(&mut self, point: u32) {
        self.daemon = spawn(self.dir.path(), &self.bridge, Some(point));
        self.wait_until_up();
    }

    /// Of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Name of the built-in bridge.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    pub async fn client(&self) -> Client {
        // A kubelet takes 16 MiB; tonic's own limit is 4 MiB.
        RuntimeServiceClient::new(self.channel().await).max_decoding_message_size(16 << 20)
    }

    pub async fn channel(&self) -> Channel {
        channel(self.path("cri.sock")).await
    }

    /// A pod that is in the machine's network unless `own_network`, since most cases need none.
    pub fn pod(&self, name: &str, own_network: bool) -> v1::PodSandboxConfig {
        let network = if own_network {
            v1::NamespaceMode::Pod
        } else {
            v1::NamespaceMode::Node
        };
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "test".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.path("logs").display().to_string(),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(network)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn run_pod(&self, client: &mut Client, name: &str) -> (String, v1::PodSandboxConfig) {
        let config = self.pod(name, false);
        (run_pod(client, &config).await, config)
    }

    /// What of the daemon's is left on the machine: mounts, cgroups, interfaces, processes.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let dir = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&dir))
                .map(str::to_owned),
        );
        let name = self.cgroup.trim_start_matches('/');
        let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
        hierarchies.extend(entries(Path::new("/sys/fs/cgroup")));
        let cgroups = hierarchies.iter().map(|h| h.join(name));
        left.extend(
            cgroups
                .filter(|c| c.exists())
                .map(|c| c.display().to_string()),
        );
        for process in entries(Path::new("/proc")) {
            let args = fs::read(process.join("cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ");
            if args.contains(&dir) && !args.contains("rrun-cri --config") {
                left.push(args);
            }
        }
        for sub in ["state/sandboxes", "state/containers", "root/containers"] {
            let paths = entries(&self.path(sub));
            left.extend(paths.iter().map(|p| p.display().to_string()));
        }
        left
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("--- log of rrun-cri ---\n{log}");
        }
        let _ = Command::new("ip")
            .args(["link", "delete", &self.bridge])
            .stderr(Stdio::null())
            .status();
    }
}

/// A client to any CRI socket.
pub async fn connect(socket: PathBuf) -> Client {
    RuntimeServiceClient::new(channel(socket).await)
}

async fn channel(socket: PathBuf) -> Channel {
    let connect = move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    Endpoint::from_static(rrun_cri_api::UNIX_AUTHORITY)
        .connect_with_connector(connector(connect))
        .await
        .unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.flatten().map(|e| e.path()).collect()
}

fn spawn(dir: &Path, bridge: &str, die_at: Option<u32>) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let flag = |name: &str, sub: &str| [format!("--{name}"), dir.join(sub).display().to_string()];
    Command::new(env!("CARGO_BIN_EXE_rrun-cri"))
        .args(flag("config", "cri.toml"))
        .args(flag("nri-plugin-dir", "nri-plugins"))
        .args(flag("root", "root"))
        .args(flag("state", "state"))
        .args(flag("store", "images"))
        .args(flag("runtime-root", "rrun"))
        .args(flag("cni-conf-dir", "no-cni"))
        .arg("--listen")
        .arg(format!("unix://{}", dir.join("cri.sock").display()))
        .arg("--runtime")
        .arg(program("rrun"))
        .arg("--shim")
        .arg(program("containerd-shim-rrun-v2"))
        .args(["--bridge", bridge, "--log", "debug"])
        .envs(die_at.map(|point| ("RRUN_CRI_DIE_AT", point.to_string())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn connector<F, R>(
    connect: F,
) -> impl tonic::codegen::Service<
    tonic::codegen::http::Uri,
    Response = TokioIo<UnixStream>,
    Error = std::io::Error,
    Future = R,
> + Send
+ 'static
where
    F: Fn(tonic::codegen::http::Uri) -> R + Send + 'static,
    R: Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send + 'static,
{
    struct Connect<F>(F);
    impl<F, R> tonic::codegen::Service<tonic::codegen::http::Uri> for Connect<F>
    where
        F: Fn(tonic::codegen::http::Uri) -> R,
        R: Future<Output = std::io::Result<TokioIo<UnixStream>>>,
    {
        type Response = TokioIo<UnixStream>;
        type Error = std::io::Error;
        type Future = R;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, uri: tonic::codegen::http::Uri) -> R {
            (self.0)(uri)
        }
    }
    Connect(connect)
}

fn namespaces(network: v1::NamespaceMode) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: network as i32,
        pid: v1::NamespaceMode::Container as i32,
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(v1::NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub async fn run_pod(client: &mut Client, config: &v1::PodSandboxConfig) -> String {
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let response = Box::pin(client.run_pod_sandbox(request)).await.unwrap();
    response.into_inner().pod_sandbox_id
}

pub async fn create(
    client: &mut Client,
    pod: &(String, v1::PodSandboxConfig),
    config: v1::ContainerConfig,
) -> Result<String, tonic::Status> {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.0.clone(),
        config: Some(config),
        sandbox_config: Some(pod.1.clone()),
    };
    let response = Box::pin(client.create_container(request)).await?;
    Ok(response.into_inner().container_id)
}

pub async fn start(client: &mut Client, id: &str) -> Result<(), tonic::Status> {
    let request = v1::StartContainerRequest {
        container_id: id.into(),
    };
    client.start_container(request).await.map(drop)
}

pub async fn run(
    client: &mut Client,
    pod: &(String, v1::PodSandboxConfig),
    config: v1::ContainerConfig,
) -> String {
    let id = create(client, pod, config).await.unwrap();
    start(client, &id).await.unwrap();
    id
}

pub async fn stop(client: &mut Client, id: &str, timeout: i64) {
    let request = v1::StopContainerRequest {
        container_id: id.into(),
        timeout,
    };
    client.stop_container(request).await.unwrap();
}

pub async fn remove_pod(client: &mut Client, id: &str) {
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: id.into(),
    };
    client.remove_pod_sandbox(request).await.unwrap();
}

pub async fn status(client: &mut Client, id: &str) -> v1::ContainerStatus {
    let request = v1::ContainerStatusRequest {
        container_id: id.into(),
        verbose: false,
    };
    let response = client.container_status(request).await.unwrap();
    response.into_inner().status.unwrap()
}

/// The pid of the first process, from the verbose status.
pub async fn pid(client: &mut Client, id: &str) -> u64 {
    let request = v1::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let response = client.container_status(request).await.unwrap();
    let info: serde_json::Value =
        serde_json::from_str(&response.into_inner().info["info"]).unwrap();
    info["pid"].as_u64().unwrap()
}

pub async fn wait_exited(client: &mut Client, id: &str) -> v1::ContainerStatus {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        let status = status(client, id).await;
        if status.state() == v1::ContainerState::ContainerExited {
            return status;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "still {:?}",
            status.state()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn exec(client: &mut Client, id: &str, script: &str) -> v1::ExecSyncResponse {
    let request = v1::ExecSyncRequest {
        container_id: id.into(),
        cmd: vec!["sh".into(), "-c".into(), script.into()],
        timeout: 20,
    };
    client.exec_sync(request).await.unwrap().into_inner()
}
