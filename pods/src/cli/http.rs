//! Requests to the API, each over a connection of its own.

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Global;

/// A byte stream to the API.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the API is.
#[derive(Clone, Debug)]
pub struct Api {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Unix(std::path::PathBuf),
    Tcp { host: String, port: u16 },
}

/// A refusal by the API.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `Conflict`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As kubectl prints it.
        if self.reason.is_empty() {
            write!(f, "Error from server: {}", self.message)
        } else {
            write!(f, "Error from server ({}): {}", self.reason, self.message)
        }
    }
}

impl std::error::Error for Refused {}

/// A request body and its type.
pub type Payload<'a> = Option<(&'a str, Vec<u8>)>;

/// A JSON body.
#[allow(
    clippy::unnecessary_wraps,
    reason = "it is a payload as the calls take it"
)]
pub fn json(value: &Value) -> Payload<'static> {
    Some(("application/json", value.to_string().into_bytes()))
}

/// A patch: `merge`, `strategic` or `apply`.
#[allow(
    clippy::unnecessary_wraps,
    reason = "it is a payload as the calls take it"
)]
pub fn patch(kind: &'static str, value: &Value) -> Payload<'static> {
    let kind = match kind {
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        _ => "application/merge-patch+json",
    };
    Some((kind, value.to_string().into_bytes()))
}

impl Api {
    /// The API that the flags name.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        let Some(server) = &global.server else {
            let place = Place::Unix(global.socket.clone());
            return Ok(Self { place });
        };
        let rest = server.strip_prefix("http://").ok_or_else(|| {
            anyhow!("--server {server}: must begin with http://; use --socket or kubectl for TLS")
        })?;
        let uri: http::Uri = format!("http://{}", rest.trim_end_matches('/'))
            .parse()
            .with_context(|| format!("--server {server}"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self {
            place: Place::Tcp { host, port },
        })
    }

    /// What to put into a Host header.
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Unix(_) => "localhost".to_owned(),
            Place::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// Opens a connection.
    pub async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.with_context(|| {
                    format!(
                        "connecting to {} (is rrun-pods serve running?)",
                        path.display()
                    )
                })?;
                Ok(Box::new(stream))
            }
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .with_context(|| format!("connecting to {host}:{port}"))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Sends a request and gives the answer's body as it comes; a refusal is [`Refused`].
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        payload: Payload<'_>,
    ) -> anyhow::Result<Incoming> {
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Host", self.authority())
            .header(
                "User-Agent",
                concat!("rrun-pods/", env!("CARGO_PKG_VERSION")),
            )
            .header("Accept", accept);
        let body = match payload {
            Some((kind, bytes)) => {
                request = request.header("Content-Type", kind);
                bytes
            }
            None => Vec::new(),
        };
        let answer = sender
            .send_request(request.body(Full::new(Bytes::from(body)))?)
            .await?;
        for warning in answer.headers().get_all("warning") {
            warn(warning.to_str().unwrap_or_default());
        }
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        Err(refusal(code, &bytes).into())
    }

    /// Sends a request and gives the answer as JSON.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        payload: Payload<'_>,
    ) -> anyhow::Result<Value> {
        self.call_for(method, path, "application/json", payload)
            .await
    }

    /// Like [`call`](Self::call), asking for a certain form of the answer.
    pub async fn call_for(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        payload: Payload<'_>,
    ) -> anyhow::Result<Value> {
        let body = self.open(method, path, accept, payload).await?;
        let bytes = body.collect().await?.to_bytes();
        serde_json::from_slice(&bytes).with_context(|| format!("the answer to {method} {path}"))
    }

    /// GET as JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, None).await
    }

    /// GET as text.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let body = self.open("GET", path, "*/*", None).await?;
        let bytes = body.collect().await?.to_bytes();
        String::from_utf8(bytes.to_vec()).with_context(|| format!("the answer to GET {path}"))
    }

    /// GET as JSON; `None` where there is no such object.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the error is the API's "not found".
pub fn is_missing(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|r| r.code == 404)
}

fn refusal(code: u16, body: &[u8]) -> Refused {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match status["message"].as_str() {
        Some(message) => message.to_owned(),
        None => format!("{code}: {}", String::from_utf8_lossy(body).trim()),
    };
    Refused {
        code,
        reason: status["reason"].as_str().unwrap_or_default().to_owned(),
        message,
    }
}

/// `299 - "text"` as a line for people.
fn warn(header: &str) {
    let text = header.splitn(3, ' ').nth(2).unwrap_or(header);
    eprintln!("Warning: {}", text.trim_matches('"').replace("\\\"", "\""));
}

/// One line of a watch after the other.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// Lines of this body.
    pub fn new(body: Incoming) -> Self {
        let buffer = Vec::new();
        Self { body, buffer }
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Percent-encodes a query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
