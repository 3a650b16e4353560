//! `port-forward`.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;
use rrun_streaming::Limits;
use rrun_streaming::client::{PortForward, Target, port_forward};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http::Api;
use super::kinds;
use super::logs::pod_of;
use super::output::print;

/// `rrun-pods port-forward service/web 8080:80`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods port-forward web 8080:80
  rrun-pods port-forward service/web 8080:http
  rrun-pods port-forward deployment/web :80     (a free local port)")]
pub struct Options {
    /// A pod, `service/web` or `deployment/web`.
    what: String,
    /// `LOCAL:REMOTE`, `PORT`, or `:REMOTE` for a free local port.
    #[arg(required = true)]
    ports: Vec<String>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
}

/// Runs it until interrupted.
pub async fn run(api: &Api, namespace: &str, options: &Options) -> anyhow::Result<()> {
    let pod = pod_of(api, namespace, &options.what).await?;
    let service = service(api, namespace, &options.what).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let target = Target {
        host: api.authority(),
        path: format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward"),
        ..Target::default()
    };
    let io = api.connect().await?;
    let session = Arc::new(port_forward(io, &target, &Limits::default()).await?);
    let mut tasks = tokio::task::JoinSet::new();
    for pair in &options.ports {
        let (local, remote) = ports(pair, service.as_ref(), &pod)?;
        let listener = TcpListener::bind((options.address.as_str(), local))
            .await
            .with_context(|| format!("listening on {}:{local}", options.address))?;
        print(&format!(
            "Forwarding from {} -> {remote}\n",
            listener.local_addr()?
        ));
        tasks.spawn(serve(listener, session.clone(), remote));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn service(api: &Api, namespace: &str, what: &str) -> anyhow::Result<Option<Value>> {
    let (res, name) = kinds::one(api, what, "pod").await?;
    if res.plural != "services" {
        return Ok(None);
    }
    api.find(&kinds::path(res, namespace, Some(&name))).await
}

/// The local port and the pod's.
fn ports(pair: &str, service: Option<&Value>, pod: &Value) -> anyhow::Result<(u16, u16)> {
    let (local, remote) = pair.split_once(':').unwrap_or((pair, pair));
    let remote = resolve(remote, service, pod)?;
    let local = match local {
        "" => 0,
        text => match text.parse() {
            Ok(port) => port,
            // A name alone stands for the same port on both sides.
            Err(_) if !pair.contains(':') => remote,
            Err(_) => return Err(anyhow!("{pair}: the local port must be a number")),
        },
    };
    Ok((local, remote))
}

fn resolve(remote: &str, service: Option<&Value>, pod: &Value) -> anyhow::Result<u16> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let target = match service {
        Some(service) => {
            let mut all = service["spec"]["ports"].as_array().into_iter().flatten();
            let port = all.find(|p| p["name"] == remote || p["port"] == remote);
            let port = port.ok_or_else(|| anyhow!("the service has no port {remote}"))?;
            match &port["targetPort"] {
                Value::Null => port["port"].clone(),
                target => target.clone(),
            }
        }
        None => remote
            .parse::<u16>()
            .map_or_else(|_| remote.into(), Value::from),
    };
    if let Some(port) = number(&target) {
        return Ok(port);
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let named = ports.find(|p| p["name"] == target);
    named
        .and_then(|p| number(&p["containerPort"]))
        .ok_or_else(|| anyhow!("the pod has no port named {target}"))
}

async fn serve(listener: TcpListener, session: Arc<PortForward>, port: u16) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        print(&format!(
            "Handling connection for {}\n",
            listener.local_addr()?.port()
        ));
        let session = session.clone();
        tokio::spawn(async move {
            if let Err(error) = carry(stream, &session, port).await {
                eprintln!("rrun-pods: forwarding to port {port}: {error:#}");
            }
        });
    }
}

async fn carry(stream: TcpStream, session: &PortForward, port: u16) -> anyhow::Result<()> {
    let mut pod = session.connect(port).await?;
    let (mut from, mut to) = stream.into_split();
    let up = async {
        tokio::io::copy(&mut from, &mut pod.writer).await?;
        pod.writer.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut pod.reader, &mut to).await?;
        to.shutdown().await
    };
    // A side that breaks off ends its direction; what went wrong is on the error stream.
    let _ = tokio::join!(up, down);
    let mut why = String::new();
    pod.error.read_to_string(&mut why).await?;
    anyhow::ensure!(why.is_empty(), "{}", why.trim());
    Ok(())
}
