//! HTTP/1.1 connections, with and without TLS, kept for the next request.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::proxy::{self, Proxies, Proxy};
use super::warnings::Warnings;
use crate::error::FileContext;
use crate::{Error, Result};

const CONNECT: Duration = Duration::from_secs(10);
/// From the request to the head of the answer. A registry that commits a large blob takes long.
const ANSWER: Duration = Duration::from_mins(2);
/// Bytes read at once. More of them is not faster, and every layer in flight holds several.
const READ_BUFFER: usize = 128 << 10;
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The body of a request.
pub(super) type RequestBody = BoxBody<Bytes, io::Error>;

/// An empty body.
pub(super) fn empty() -> RequestBody {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed()
}

/// A body that is in memory.
pub(super) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// `host[:port]`, with brackets where needed.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// From an absolute URL.
    pub fn of(url: &http::Uri) -> Option<Self> {
        let tls = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host()?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host, port })
    }

    /// True for 127.0.0.0/8, ::1 and localhost.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

type Idle = Arc<Mutex<HashMap<Origin, Vec<SendRequest<RequestBody>>>>>;

/// Connections to any number of origins.
pub(super) struct Transport {
    tls: Arc<rustls::ClientConfig>,
    idle: Idle,
    proxies: Proxies,
    warnings: Warnings,
}

/// How a server proves itself, and we to it.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsSettings {
    /// PEM files, or directories of them, trusted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Certificate and key of ours.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Take any certificate, as hosts.toml may ask for.
    pub skip_verify: bool,
}

impl Transport {
    /// Reads the certificates. No connection is made yet.
    pub fn new(settings: &TlsSettings) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Worker(format!("set up TLS: {error}")))?;
        let builder = if settings.skip_verify {
            let verifier = Arc::new(super::no_verify::NoVerify(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(roots(&settings.ca_files)?)
        };
        let tls = match &settings.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let bad = |error: String| Error::document(certificate.display().to_string(), error);
                let pem = std::fs::read(certificate).at("read", certificate)?;
                let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| bad(error.to_string()))?;
                let key =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| bad(error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad(error.to_string()))?
            }
        };
        Ok(Self {
            tls: Arc::new(tls),
            idle: Idle::default(),
            proxies: Proxies::from_env(),
            warnings: Warnings::default(),
        })
    }

    /// Sends a request whose URI is a path. The error is worth another attempt.
    pub async fn send(
        &self,
        origin: &Origin,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Answer>, String> {
        let authority = origin.authority();
        let host = authority
            .parse()
            .map_err(|_| format!("{authority} is not a host"))?;
        request.headers_mut().insert(http::header::HOST, host);
        let proxy = self.proxies.choose(origin)?;
        if let Some(proxy) = proxy.as_ref().filter(|_| !origin.tls) {
            address_proxy(&mut request, proxy, &authority)?;
        }
        let mut sender = match self.idle_connection(origin) {
            Some(sender) => sender,
            None => self.connect(origin, proxy.as_ref()).await?,
        };
        let answer = timeout(ANSWER, sender.send_request(request))
            .await
            .map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?
            .map_err(|error| chain(&error))?;
        self.warnings.tell(&authority, answer.headers());
        Ok(answer.map(|incoming| Answer {
            incoming,
            first: None,
            connection: Some((origin.clone(), sender, Arc::clone(&self.idle))),
        }))
    }

    fn idle_connection(&self, origin: &Origin) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.idle.lock().ok()?;
        let connections = idle.get_mut(origin)?;
        while let Some(sender) = connections.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(
        &self,
        origin: &Origin,
        proxy: Option<&Proxy>,
    ) -> Result<SendRequest<RequestBody>, String> {
        let direct = (origin.host.as_str(), origin.port);
        let address = proxy.map_or(direct, |proxy| (proxy.host.as_str(), proxy.port));
        let mut stream = timeout(CONNECT, TcpStream::connect(address))
            .await
            .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))?
            .map_err(|error| format!("connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        if !origin.tls {
            return handshake(stream).await;
        }
        if let Some(proxy) = proxy {
            timeout(CONNECT, proxy::tunnel(&mut stream, proxy, origin))
                .await
                .map_err(|_| format!("proxy: no answer within {} s", CONNECT.as_secs()))??;
        }
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| format!("{} is not a name for TLS", origin.host))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let stream = timeout(CONNECT, connector.connect(name, stream))
            .await
            .map_err(|_| format!("no TLS handshake within {} s", CONNECT.as_secs()))?
            .map_err(|error| format!("TLS: {error}"))?;
        handshake(stream).await
    }
}

/// Without TLS the proxy reads the request itself and wants the whole URL (RFC 9112, 3.2.2).
fn address_proxy(
    request: &mut Request<RequestBody>,
    proxy: &Proxy,
    authority: &str,
) -> Result<(), String> {
    let bad = || format!("{authority} is not a host");
    let uri = format!("http://{authority}{}", request.uri());
    *request.uri_mut() = uri.parse().map_err(|_| bad())?;
    if let Some(login) = &proxy.authorization {
        let login = login.parse().map_err(|_| bad())?;
        let headers = request.headers_mut();
        headers.insert(http::header::PROXY_AUTHORIZATION, login);
    }
    Ok(())
}

async fn handshake<S>(stream: S) -> Result<SendRequest<RequestBody>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("connection to a registry ended: {error}");
        }
    });
    Ok(sender)
}

fn roots(ca_files: &[PathBuf]) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(system) = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
    {
        add_roots(&mut roots, system)?;
    }
    for path in ca_files {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).at("list", path)? {
                add_roots(&mut roots, &entry.at("list", path)?.path())?;
            }
        } else {
            add_roots(&mut roots, path)?;
        }
    }
    Ok(roots)
}

fn add_roots(roots: &mut rustls::RootCertStore, path: &Path) -> Result<()> {
    let pem = std::fs::read(path).at("read", path)?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| Error::document(path.display().to_string(), error))?;
        // One that is not understood is not trusted; the others are.
        let _ = roots.add(certificate);
    }
    Ok(())
}

/// An error with its causes, since hyper's own text says little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The body of an answer. Read to its end, it gives the connection back.
pub(super) struct Answer {
    incoming: Incoming,
    /// Bytes that were read too far.
    first: Option<Bytes>,
    connection: Option<(Origin, SendRequest<RequestBody>, Idle)>,
}

impl Answer {
    /// Bytes that the next frame is to have.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.first = Some(bytes);
    }

    fn give_back(&mut self) {
        if let Some((origin, sender, idle)) = self.connection.take()
            && !sender.is_closed()
            && let Ok(mut idle) = idle.lock()
        {
            idle.entry(origin).or_default().push(sender);
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        if frame.is_none() {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
