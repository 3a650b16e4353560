//! What probes and hooks do: run a command in the container, ask over HTTP, open a connection, wait.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rrun_cri_api::probe::UntilFailureRequest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::cri::Cri;
use super::exec_grpc::grpc;
use super::exec_http::{http, url};

/// Of an answer's body, the part that goes into messages.
pub(super) const LONGEST_BODY: usize = 10 << 10;

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
    /// Ask `grpc.health.v1.Health/Check`; success is SERVING.
    Grpc {
        /// Number of the port, on the pod's address.
        port: u16,
        /// Name of the service; empty for the server as a whole.
        service: String,
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
        if let Some(grpc) = &probe.grpc {
            return Some(Self::Grpc {
                port: u16::try_from(grpc.port).unwrap_or(0),
                service: grpc.service.clone().unwrap_or_default(),
            });
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
            Self::Grpc { port, service } => grpc(&place.ip, *port, service, limit).await,
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
    Err(said(answer.stdout, &answer.stderr))
}

/// The answer of a command that failed: what it wrote.
fn said(mut output: Vec<u8>, stderr: &[u8]) -> Failed {
    output.extend(stderr);
    output.truncate(LONGEST_BODY);
    let text = String::from_utf8_lossy(&output);
    Failed::Answer(text.trim_end().to_owned())
}

/// A command that runs again and again near its container, and is silent until it fails.
pub struct Repeated<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// When it first runs.
    pub at: Instant,
    /// From one run to the next.
    pub period: Duration,
    /// How long a run may take.
    pub limit: Duration,
}

impl Repeated<'_> {
    /// Waits for the first run to fail: why, and when it began. `None` where the runtime cannot do so.
    pub async fn failure(&self, place: &Place) -> Option<(Failed, Instant)> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let request = UntilFailureRequest {
            container_id: place.id.clone(),
            cmd: self.command.to_vec(),
            timeout: nanos(self.limit),
            period: nanos(self.period),
            delay: nanos(self.at.saturating_duration_since(Instant::now())),
        };
        let answer = match place.cri.exec_until_failure(request).await {
            Ok(answer) => answer,
            Err(status) if status.code() == tonic::Code::Unimplemented => return None,
            Err(status) => {
                let why = Failed::Unknown(status.message().to_owned());
                return Some((why, Instant::now()));
            }
        };
        let age = Duration::from_nanos(answer.age);
        let now = Instant::now();
        let begun = now.checked_sub(age).unwrap_or(now);
        if answer.timed_out {
            let (command, limit) = (self.command.join(" "), self.limit.as_secs());
            let why = format!(
                "command timed out: {command:?} did not end within {limit} s and was killed"
            );
            return Some((Failed::Answer(why), begun));
        }
        Some((said(answer.stdout, &answer.stderr), begun))
    }
}

pub(super) fn port(container: &Container, port: &IntOrString) -> Result<u16, Failed> {
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

pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, Failed> {
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
