//! Load for a CRI socket, any runtime's: what `integration/bench cri` and `integration/soak`
//! measure with. Times are taken in here, so that no program's start is in them.
//!
//! ```text
//! cri-load SOCKET IMAGE CGROUP NETWORK start          ms of Run, Create and Start; ms of the end
//! cri-load SOCKET IMAGE CGROUP NETWORK exec N         ms of each of N ExecSync of /bin/true
//! cri-load SOCKET IMAGE CGROUP NETWORK probe N        N ExecSync of /bin/true each second, until end of input
//! cri-load SOCKET IMAGE CGROUP NETWORK parallel N     pods a second, N at once
//! cri-load SOCKET IMAGE CGROUP NETWORK hold N         makes N pods, then waits for end of input
//! cri-load SOCKET IMAGE CGROUP NETWORK loop N         makes and removes N pods, one by one
//! cri-load SOCKET IMAGE CGROUP NETWORK list N         ms until N containers are listed as running
//! cri-load SOCKET IMAGE CGROUP NETWORK clear          removes every pod
//! ```
//!
//! CGROUP is the pods' parent, NETWORK `host` or `pod`.

use std::io::Read as _;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::{BoxFuture, try_join_all};
use hyper_util::rt::TokioIo;
use rrun_cri_api::v1;
use rrun_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

#[derive(Clone)]
struct Load {
    client: RuntimeServiceClient<Channel>,
    image: String,
    cgroup: String,
    host: bool,
}

struct Pod {
    id: String,
    container: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, image, cgroup, network, mode, rest @ ..] = &args[..] else {
        bail!("usage: cri-load SOCKET IMAGE CGROUP NETWORK MODE [N]");
    };
    let count = rest.first().map_or(Ok(1), |n| n.parse::<usize>());
    let count = count.context("N is not a number")?;
    let began = Instant::now();
    let load = Load {
        client: connect(socket.clone()).await?,
        image: image.clone(),
        cgroup: cgroup.clone(),
        host: network == "host",
    };
    match mode.as_str() {
        "start" => load.start().await,
        "exec" => load.exec(count).await,
        "probe" => load.probe(count).await,
        "parallel" => load.parallel(count).await,
        "hold" => load.hold(count).await,
        "loop" => load.rounds(count).await,
        "list" => load.list(count, began).await,
        "clear" => load.clear().await,
        _ => bail!("unknown mode {mode}"),
    }
}

/// Connects, as soon as somebody listens.
async fn connect(socket: String) -> Result<RuntimeServiceClient<Channel>> {
    let limit = Instant::now() + Duration::from_secs(60);
    while UnixStream::connect(&socket).await.is_err() {
        if Instant::now() > limit {
            bail!("nobody listens on {socket}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let channel = Endpoint::from_static(rrun_cri_api::UNIX_AUTHORITY)
        .connect_with_connector(Connect(socket))
        .await?;
    Ok(RuntimeServiceClient::new(channel))
}

/// Connects to a unix socket, whatever the address says.
struct Connect(String);

impl tonic::codegen::Service<Uri> for Connect {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<TokioIo<UnixStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.0.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    }
}

impl Load {
    fn namespaces(&self) -> v1::NamespaceOption {
        let network = if self.host {
            v1::NamespaceMode::Node
        } else {
            v1::NamespaceMode::Pod
        };
        v1::NamespaceOption {
            network: network as i32,
            pid: v1::NamespaceMode::Container as i32,
            ..Default::default()
        }
    }

    fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        let unique = format!("{name}-{}-{}", std::process::id(), nanos());
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: unique.clone(),
                uid: unique,
                namespace: "load".into(),
                attempt: 0,
            }),
            // As a kubelet: a pod in the machine's network has the machine's name.
            hostname: if self.host {
                String::new()
            } else {
                name.into()
            },
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(&self) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "load".into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: vec!["/bin/sleep".into(), "100000".into()],
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn up(&self, name: &str) -> Result<Pod> {
        let mut client = self.client.clone();
        let config = self.pod(name);
        let run = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let run = Box::pin(client.run_pod_sandbox(run)).await;
        let id = run.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(self.container()),
            sandbox_config: Some(config),
        };
        let create = Box::pin(client.create_container(create)).await;
        let container = create.context("CreateContainer")?.into_inner().container_id;
        let start = v1::StartContainerRequest {
            container_id: container.clone(),
        };
        client
            .start_container(start)
            .await
            .context("StartContainer")?;
        Ok(Pod { id, container })
    }

    async fn down(&self, pod: &str) -> Result<()> {
        let mut client = self.client.clone();
        let stop = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        client
            .stop_pod_sandbox(stop)
            .await
            .context("StopPodSandbox")?;
        let remove = v1::RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        client
            .remove_pod_sandbox(remove)
            .await
            .context("RemovePodSandbox")?;
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        let began = Instant::now();
        let pod = self.up("one").await?;
        let up = ms(began);
        let began = Instant::now();
        self.down(&pod.id).await?;
        println!("{up:.2} {:.2}", ms(began));
        Ok(())
    }

    async fn exec(&self, count: usize) -> Result<()> {
        let pod = self.up("exec").await?;
        let mut client = self.client.clone();
        for _ in 0..count {
            let request = v1::ExecSyncRequest {
                container_id: pod.container.clone(),
                cmd: vec!["/bin/true".into()],
                timeout: 60,
            };
            let began = Instant::now();
            let answer = client.exec_sync(request).await.context("ExecSync")?;
            println!("{:.2}", ms(began));
            if answer.get_ref().exit_code != 0 {
                bail!("/bin/true exited with {}", answer.get_ref().exit_code);
            }
        }
        self.down(&pod.id).await
    }

    /// In one pod for each, as a kubelet probes: evenly over the second, and the next one only after the
    /// one before.
    async fn probe(&self, count: usize) -> Result<()> {
        let mut pods = Vec::new();
        for n in 0..count {
            pods.push(self.up(&format!("pod{n}")).await?);
        }
        println!("ready");
        let total = u32::try_from(count).context("N is too large")?;
        let every = |(number, pod): (u32, &Pod)| {
            let (mut client, container) = (self.client.clone(), pod.container.clone());
            let share = Duration::from_secs(1) * number / total;
            async move {
                tokio::time::sleep(share).await;
                let mut ticks = tokio::time::interval(Duration::from_secs(1));
                loop {
                    ticks.tick().await;
                    let request = v1::ExecSyncRequest {
                        container_id: container.clone(),
                        cmd: vec!["/bin/true".into()],
                        timeout: 60,
                    };
                    client.exec_sync(request).await.context("ExecSync")?;
                }
            }
        };
        let probes = try_join_all((0..total).zip(&pods).map(every));
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            ended = probes => ended.map(|_: Vec<()>| ()),
            read = end => Ok(read.map(|_| ())?),
        }
    }

    async fn parallel(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        let pods = self.many(count).await?;
        println!(
            "{:.2}",
            f32::from(u16::try_from(count)?) / began.elapsed().as_secs_f32()
        );
        try_join_all(pods.iter().map(|pod| self.down(&pod.id))).await?;
        Ok(())
    }

    async fn many(&self, count: usize) -> Result<Vec<Pod>> {
        let names: Vec<_> = (0..count).map(|n| format!("pod{n}")).collect();
        try_join_all(names.iter().map(|name| self.up(name))).await
    }

    async fn hold(&self, count: usize) -> Result<()> {
        for n in 0..count {
            self.up(&format!("pod{n}")).await?;
        }
        println!("ready");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    }

    async fn rounds(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let pod = self.up("round").await?;
            self.down(&pod.id).await?;
        }
        Ok(())
    }

    async fn list(&self, count: usize, began: Instant) -> Result<()> {
        let answer = self
            .client
            .clone()
            .list_containers(v1::ListContainersRequest::default())
            .await?
            .into_inner();
        let elapsed = ms(began);
        let running = v1::ContainerState::ContainerRunning;
        let running = answer
            .containers
            .iter()
            .filter(|c| c.state() == running)
            .count();
        if running != count {
            bail!("{running} of {count} containers are listed as running");
        }
        println!("{elapsed:.1}");
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        let request = v1::ListPodSandboxRequest::default();
        let pods = self
            .client
            .clone()
            .list_pod_sandbox(request)
            .await?
            .into_inner()
            .items;
        for pod in pods {
            self.down(&pod.id).await?;
        }
        Ok(())
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn nanos() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_nanos()
}
