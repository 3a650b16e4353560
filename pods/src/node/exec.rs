//! What probes and hooks do: run a command in the container, ask over HTTP, open a connection, wait.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cri::Cri;

/// Of an answer's body, the part that goes into messages.
const LONGEST_BODY: usize = 10 << 10;

/// Something to do to a container.
#[derive(Clone, Debug)]
pub enum Act {
    /// Run a command; success is exit code 0.
    Exec(Vec<String>),
    /// GET over HTTP; success is a code from 200 to 399.
    Http(Box<HTTPGetAction>),
    /// Open a TCP connection.
    Tcp {
        /// Host, or the pod's address.
        host: Option<String>,
        /// Number or name of the port.
        port: IntOrString,
    },
    /// Let time pass.
    Sleep(Duration),
}

/// Where to do it.
#[derive(Clone)]
pub struct Place {
    /// The connection to the runtime.
    pub cri: Cri,
    /// CRI id of the container.
    pub id: String,
    /// The container's spec, for its named ports.
    pub container: Container,
    /// The pod's address.
    pub ip: String,
}

/// Why an act failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It was done, and the answer was no.
    Answer(String),
    /// It could not be done, which says nothing about the container.
    Unknown(String),
}

impl Act {
    /// The act of a probe.
    pub fn of_probe(probe: &Probe) -> Option<Self> {
        if let Some(exec) = &probe.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &probe.http_get {
            return Some(Self::Http(Box::new(get.clone())));
        }
        let tcp = probe.tcp_socket.as_ref()?;
        Some(Self::Tcp {
            host: tcp.host.clone(),
            port: tcp.port.clone(),
        })
    }

    /// The act of a hook.
    pub fn of_hook(hook: &LifecycleHandler) -> Option<Self> {
        if let Some(exec) = &hook.exec {
            return Some(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &hook.http_get {
            return Some(Self::Http(Box::new(get.clone())));
        }
        if let Some(sleep) = &hook.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            return Some(Self::Sleep(Duration::from_secs(seconds)));
        }
        let tcp = hook.tcp_socket.as_ref()?;
        Some(Self::Tcp {
            host: tcp.host.clone(),
            port: tcp.port.clone(),
        })
    }

    /// Does it, within `limit`.
    pub async fn run(&self, place: &Place, limit: Duration) -> Result<(), Failed> {
        match self {
            Self::Exec(command) => exec(place, command, limit).await,
            Self::Http(get) => match timeout(limit, http(place, get)).await {
                Ok(result) => result,
                Err(_) => Err(Failed::Answer(format!(
                    "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                    url(place, get).unwrap_or_default()
                ))),
            },
            Self::Tcp { host, port } => {
                match timeout(limit, tcp(place, host.as_deref(), port)).await {
                    Ok(result) => result,
                    Err(_) => Err(Failed::Answer("dial tcp: i/o timeout".to_owned())),
                }
            }
            Self::Sleep(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
        }
    }
}

async fn exec(place: &Place, command: &[String], limit: Duration) -> Result<(), Failed> {
    let answer = match place.cri.exec(&place.id, command, limit).await {
        Ok(answer) => answer,
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
            return Err(Failed::Answer(format!(
                "command timed out: {}",
                status.message()
            )));
        }
        Err(status) => return Err(Failed::Unknown(status.message().to_owned())),
    };
    if answer.exit_code == 0 {
        return Ok(());
    }
    let mut output = answer.stdout;
    output.extend(answer.stderr);
    output.truncate(LONGEST_BODY);
    Err(Failed::Answer(
        String::from_utf8_lossy(&output).trim_end().to_owned(),
    ))
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, Failed> {
    let unknown = |what: String| Failed::Unknown(what);
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_err(|_| unknown(format!("invalid port number: {number}")))
        }
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_deref() == Some(name));
            let number = named
                .map(|p| p.container_port)
                .or_else(|| name.parse().ok());
            number
                .and_then(|n| u16::try_from(n).ok())
                .ok_or_else(|| unknown(format!("couldn't find port: \"{name}\"")))
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Failed> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            _ => error.to_string(),
        };
        Failed::Answer(format!("dial tcp {}:{port}: {why}", bracketed(host)))
    })
}

async fn tcp(place: &Place, host: Option<&str>, to: &IntOrString) -> Result<(), Failed> {
    let port = port(&place.container, to)?;
    let host = host.filter(|h| !h.is_empty()).unwrap_or(&place.ip);
    connect(host, port).await.map(drop)
}

fn url(place: &Place, get: &HTTPGetAction) -> Result<String, Failed> {
    let port = port(&place.container, &get.port)?;
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&place.ip);
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!(
        "{scheme}://{}:{port}{slash}{path}",
        bracketed(host)
    ))
}

async fn http(place: &Place, get: &HTTPGetAction) -> Result<(), Failed> {
    if get.scheme.as_deref() == Some("HTTPS") {
        return Err(Failed::Unknown(
            "HTTPS probes are not supported yet".to_owned(),
        ));
    }
    let number = port(&place.container, &get.port)?;
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&place.ip);
    let url = url(place, get)?;
    let failed = |error: &dyn std::fmt::Display| Failed::Answer(format!("Get \"{url}\": {error}"));
    let stream = connect(host, number).await.map_err(|error| match error {
        Failed::Answer(why) => failed(&why),
        Failed::Unknown(_) => error,
    })?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let request =
        request(get, &bracketed(host), number).map_err(|e| Failed::Unknown(e.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LONGEST_BODY)
        .collect()
        .await;
    if (200..400).contains(&code) {
        return Ok(());
    }
    drop(body);
    Err(Failed::Answer(format!(
        "HTTP probe failed with statuscode: {code}"
    )))
}

fn request(
    get: &HTTPGetAction,
    host: &str,
    port: u16,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut builder = http::Request::get(format!("{slash}{path}"));
    let mut named = false;
    for header in get.http_headers.iter().flatten() {
        named |= header.name.eq_ignore_ascii_case("host");
        builder = builder.header(&header.name, &header.value);
    }
    if !named {
        builder = builder.header("Host", format!("{host}:{port}"));
    }
    builder
        .header("User-Agent", "kube-probe/1.36")
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Empty::new())
}
