//! `rrun-pods serve`: puts the parts together and runs them until told to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::allocate::Cidr;
use crate::api::auth::Tokens;
use crate::api::http::tls::Authority;
use crate::api::node::NodeAgent;
use crate::api::{Client, Config, bootstrap, http};
use crate::events::Recorder;
use crate::proxy::mark::mark;
use crate::proxy::policy::{Gate, Guard};
use crate::proxy::{NameServer, Own, Proxy};
use crate::store::Store;
use crate::{clock, controllers, dns, ingress, node, rest, scheduler};

/// Options of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Directory of the durable state.
    #[arg(long, default_value = "/var/lib/rrun/pods")]
    pub root: PathBuf,
    /// Unix socket of the API, for root: the flag `--socket` of every command.
    #[arg(skip)]
    pub socket: PathBuf,
    /// Address and port of the API with TLS, or none.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: Listen,
    /// Where the administrator's kubeconfig is written; <root>/kubeconfig when absent.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of Services.
    #[arg(long, default_value_t)]
    pub service_cidr: Cidr,
    /// Table of nftables that leads to Services' endpoints; another name for a second
    /// instance, `none` for no Services.
    #[arg(long, default_value = "rrun-pods")]
    pub service_table: String,
    /// Socket of the container runtime, as a path or unix:///path.
    #[arg(
        long = "cri",
        alias = "cri-socket",
        default_value = "/run/rrun-cri/cri.sock"
    )]
    pub cri_socket: String,
    /// Directory of containers' logs; `node/logs` under the root when absent.
    #[arg(long)]
    pub log_dir: Option<PathBuf>,
    /// Name of this node; the host's name when absent.
    #[arg(long)]
    pub node_name: Option<String>,
    /// How many pods this node takes.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// When less than this is left, pods are evicted; `none` for never.
    #[arg(
        long,
        default_value = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%"
    )]
    pub eviction_hard: node::Thresholds,
    /// For how many seconds a pressure is told after it was seen last.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub eviction_pressure_transition_period: u64,
    /// Directory of manifests of static pods, with the ConfigMaps and Secrets that they use.
    #[arg(long)]
    pub static_pods: Option<PathBuf>,
    /// Name server of pods, may be repeated; without one, the built-in server answers at the tenth
    /// address of the Services.
    #[arg(long)]
    pub cluster_dns: Vec<String>,
    /// Domain of Services.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where Ingresses are served over HTTP, while there is one: a port, an address and a port, or
    /// none.
    #[arg(long, default_value = "80")]
    pub ingress_http: ingress::Port,
    /// The same over HTTPS.
    #[arg(long, default_value = "443")]
    pub ingress_https: ingress::Port,
    /// Say what is done: error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    pub log_level: tracing::Level,
}

/// Where the TLS listener is.
#[derive(Debug, Clone, Copy)]
pub struct Listen(Option<SocketAddr>);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            format!("{text}: want an address and a port such as 127.0.0.1:6443, or none")
        })?;
        Ok(Self(Some(address)))
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(options: &Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(options.log_level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    rrun_sys::mem::limit_heaps(2);
    // One thread: the work is short, and a thread's arena costs more memory than it saves time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&options.root)?;
    let authority = Arc::new(Authority::open(&options.root.join("tls"))?);
    let tokens = Tokens::open(&options.root.join("tls"), &options.cluster_domain)?;
    let config = Config {
        service_cidr: options.service_cidr,
        tokens: Some(Arc::new(tokens)),
        authority: authority.pem().to_owned(),
        tls: Some(options.root.join("tls")),
    };
    let client = Client::with(store.clone(), config);
    bootstrap::objects(&client)
        .await
        .context("creating the objects that always exist")?;
    let node_name = node_name(options);
    let events = Recorder::start(client.clone(), "rrun-pods", &node_name);
    let dns = name_server(options, &client).await?;
    let (guard, gate) = guard(options, &client);
    let agent = node::Agent::new(client.clone(), agent_config(options, &node_name, dns))?;
    let agent = agent.guarded(gate);
    let answers: Arc<dyn NodeAgent> = Arc::new(agent.answers());
    let context = http::Context::new(client.clone(), Some(answers.clone()));
    let _unix = http::unix(context.clone(), &options.socket)
        .with_context(|| format!("listening on {}", options.socket.display()))?;
    tracing::info!("serving on unix://{}", options.socket.display());
    let api = listen_tls(options, &authority, context).await?;
    if let Some(api) = api {
        let made = bootstrap::service(&client, api.address).await;
        made.context("creating the Service of the API")?;
    }
    let place = controllers::Place {
        root: std::path::absolute(&options.root)?.join("volumes"),
        node: node_name.clone(),
        reserved: reserved(options),
    };
    let mut tasks = controllers::start(&client, &events, &place, answers, &authority);
    tasks.extend(watch_machine());
    tasks.push(tokio::spawn(scheduler::run(client.clone(), events.clone())));
    let linger = Duration::from_secs(options.eviction_pressure_transition_period);
    let evictor = agent.evictor(options.eviction_hard, linger);
    tasks.push(tokio::spawn(evictor.run()));
    tasks.push(tokio::spawn(agent.run()));
    tasks.extend(guard.map(|g| tokio::spawn(g.run())));
    let own = dns.map(Own::from).into_iter().chain(api).collect();
    let table = &options.service_table;
    let proxy = (table != "none").then(|| Proxy::new(&client, table, own, &node_name));
    tasks.extend(proxy.clone().map(|p| tokio::spawn(p.run())));
    tasks.extend(static_pods(options, &client, &node_name));
    tasks.extend(ingresses(options, &client, &events));
    stop_signal().await?;
    tracing::info!("stopping");
    for task in tasks {
        task.abort();
    }
    if let Some(proxy) = proxy {
        proxy.shut_down().await;
    }
    let _ = std::fs::remove_file(&options.socket);
    store.close();
    Ok(())
}

type Task = tokio::task::JoinHandle<()>;

/// Tasks that notice what befalls the whole process: a clock that is set, a time without work.
fn watch_machine() -> [Task; 2] {
    let clock = async {
        if let Err(error) = clock::watch().await {
            tracing::warn!("it will not be noticed when the clock is set: {error}");
        }
    };
    [tokio::spawn(clock), tokio::spawn(rest::watch())]
}

/// What keeps the pods of a directory, where there is one.
fn static_pods(options: &Options, client: &Client, node: &str) -> Option<Task> {
    let dir = options.static_pods.as_deref()?;
    Some(tokio::spawn(node::Statics::new(client, dir, node).run()))
}

/// What serves Ingresses, where there is a port for them.
fn ingresses(options: &Options, client: &Client, events: &Recorder) -> Option<Task> {
    let ports = ingress::Ports {
        plain: options.ingress_http,
        tls: options.ingress_https,
    };
    let ingresses = ingress::Ingresses::new(client, events, ports)?;
    Some(tokio::spawn(ingresses.run()))
}

/// Ports of the node that are this process's.
fn reserved(options: &Options) -> Vec<u16> {
    let Listen(api) = options.listen;
    let ingress = [options.ingress_http, options.ingress_https];
    let all = ingress.iter().filter_map(|port| port.0).chain(api);
    all.map(|address| address.port()).collect()
}

/// What keeps network policies, where there are tables.
fn guard(options: &Options, client: &Client) -> (Option<Guard>, Option<Gate>) {
    if options.service_table == "none" {
        return (None, None);
    }
    let table = format!("{}-policy", options.service_table);
    let (guard, gate) = Guard::new(client, &table);
    (Some(guard), Some(gate))
}

/// Starts the built-in name server, unless pods are told of others.
async fn name_server(options: &Options, client: &Client) -> anyhow::Result<Option<NameServer>> {
    // Without a table nothing would lead there.
    if !options.cluster_dns.is_empty() || options.service_table == "none" {
        return Ok(None);
    }
    let config = dns::Config {
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        domain: options.cluster_domain.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let server = dns::Server::bind(&config, client.clone()).await?;
    let port = server.address().context("DNS")?.port();
    let marked = server.mark();
    tokio::spawn(server.serve());
    let address = options.service_cidr.at(10);
    Ok(Some(NameServer {
        address,
        port,
        marked,
    }))
}

/// Serves with TLS and writes the kubeconfig that fits. Where there are Services, pods get a
/// listener of their own: what is given is that of the Service `kubernetes`.
async fn listen_tls(
    options: &Options,
    authority: &Authority,
    context: Arc<http::Context>,
) -> anyhow::Result<Option<Own>> {
    let Listen(Some(address)) = options.listen else {
        return Ok(None);
    };
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let addresses = [local, options.service_cidr.at(1).into(), address.ip()];
    let config = authority.server(&addresses, &options.cluster_domain)?;
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("listening on {address}: choose another by --listen"))?;
    http::listen_tls(context.clone(), listener, config.clone());
    let reach = if address.ip().is_unspecified() {
        local
    } else {
        address.ip()
    };
    let server = format!("https://{}", SocketAddr::new(reach, address.port()));
    let path = options.kubeconfig.clone();
    let path = path.unwrap_or_else(|| options.root.join("kubeconfig"));
    authority.kubeconfig(&path, &server)?;
    tracing::info!("serving on {server}: KUBECONFIG={}", path.display());
    if options.service_table == "none" {
        return Ok(None);
    }
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let pods = TcpListener::bind(any).await.context("listening for pods")?;
    let own = Own {
        name: "api",
        address: options.service_cidr.at(1),
        asked: 443,
        port: pods.local_addr()?.port(),
        marked: mark(&pods),
    };
    http::listen_tls(context, pods, config);
    Ok(Some(own))
}

/// A node's name is a DNS subdomain: lower case.
fn node_name(options: &Options) -> String {
    let host = || {
        let uname = rustix::system::uname();
        uname.nodename().to_string_lossy().to_lowercase()
    };
    options.node_name.clone().unwrap_or_else(host)
}

fn agent_config(options: &Options, node_name: &str, dns: Option<NameServer>) -> node::Config {
    let built_in = dns.map(|dns| dns.address.to_string());
    node::Config {
        node_name: node_name.to_owned(),
        root: options.root.join("node"),
        log_dir: options.log_dir.clone(),
        cri_socket: options.cri_socket.clone(),
        cluster_dns: built_in.map_or_else(|| options.cluster_dns.clone(), |address| vec![address]),
        cluster_domain: options.cluster_domain.clone(),
        max_pods: options.max_pods,
    }
}

async fn stop_signal() -> std::io::Result<()> {
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
