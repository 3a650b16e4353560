//! Sending spans to a collector: batches, a time limit, a few tries. What it cannot take is dropped
//! and counted; a daemon never waits for it.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use rrun_cri_api::otlp::any_value::Value;
use rrun_cri_api::otlp::trace_service_client::TraceServiceClient;
use rrun_cri_api::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span,
};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::codegen::http::Uri;
use tonic::transport::Channel;

use super::Counts;

/// Spans in one message, as OpenTelemetry's own exporters have it.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// For one try.
const LIMIT: Duration = Duration::from_secs(10);
/// Before each further try.
const AGAIN: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// Where the collector is.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`
    Http(String),
    /// `unix:///path`
    Unix(PathBuf),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(uri) => f.write_str(uri),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Endpoint {
    /// From the configuration.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix://").filter(|p| p.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https://") {
            bail!(
                "no TLS is spoken to a collector: give one of this machine, http://… or unix://…"
            );
        }
        let uri: Uri = text.parse().context("no URI")?;
        let plain = uri.path().trim_start_matches('/').is_empty() && uri.query().is_none();
        if uri.scheme_str() != Some("http") || uri.host().is_none() || !plain {
            bail!("give http://host:port or unix:///path, where OTLP is taken by gRPC");
        }
        Ok(Self::Http(text.trim_end_matches('/').to_owned()))
    }

    /// A connection, made when it is first used.
    pub fn channel(&self) -> Result<Channel> {
        let endpoint = |uri: &str| {
            let endpoint = Channel::from_shared(uri.to_owned()).context("the collector's URI")?;
            anyhow::Ok(endpoint.connect_timeout(LIMIT))
        };
        match self {
            Self::Http(uri) => Ok(endpoint(uri)?.connect_lazy()),
            Self::Unix(path) => {
                let connector = Connector(path.clone());
                Ok(endpoint(rrun_cri_api::UNIX_AUTHORITY)?.connect_with_connector_lazy(connector))
            }
        }
    }
}

/// Connects to a unix socket.
struct Connector(PathBuf);

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}

/// The task that sends.
pub struct Exporter {
    endpoint: Endpoint,
    receiver: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
}

/// The way to end it.
pub struct Running {
    end: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    /// What came of the spans so far.
    pub counts: Arc<Counts>,
}

impl Running {
    /// Sends what is there, within a time.
    pub async fn finish(self, within: Duration) {
        self.end.send_replace(true);
        // A collector that is away does not hold the daemon up.
        let _ = tokio::time::timeout(within, self.task).await;
    }
}

impl Exporter {
    pub(super) fn new(
        endpoint: Endpoint,
        receiver: mpsc::Receiver<Span>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            endpoint,
            receiver,
            counts,
        }
    }

    /// Begins, in a task of its own.
    pub fn start(mut self) -> Result<Running> {
        let client = TraceServiceClient::new(self.endpoint.channel()?);
        tracing::info!(endpoint = ?self.endpoint, "sending traces");
        let (end, mut ended) = watch::channel(false);
        let counts = self.counts.clone();
        let task = tokio::spawn(async move {
            let mut quiet = false;
            while let Some(batch) = self.gather(&mut ended).await {
                let count = batch.len();
                let sent = send(&client, batch, &mut ended).await;
                match &sent {
                    Ok(taken) => self.taken(count, *taken),
                    Err(_) => self.counts.dropped(count),
                }
                // Said once, until it works again.
                if let Err(error) = sent.as_ref()
                    && !quiet
                {
                    tracing::warn!(endpoint = ?self.endpoint, count, "traces were lost: {error:#}");
                }
                quiet = sent.is_err();
            }
        });
        Ok(Running { end, task, counts })
    }

    fn taken(&self, count: usize, taken: usize) {
        let sent = &self.counts.sent;
        sent.fetch_add(taken as u64, std::sync::atomic::Ordering::Relaxed);
        self.counts.dropped(count.saturating_sub(taken));
    }

    /// The next spans; `None` once there are none and there will be none.
    async fn gather(&mut self, ended: &mut watch::Receiver<bool>) -> Option<Vec<Span>> {
        let mut batch = Vec::new();
        let some = async {
            batch.push(self.receiver.recv().await?);
            let full = tokio::time::sleep(GATHER);
            tokio::pin!(full);
            while batch.len() < BATCH {
                tokio::select! {
                    () = &mut full => break,
                    more = self.receiver.recv() => batch.push(more?),
                }
            }
            Some(())
        };
        tokio::select! {
            biased;
            _ = ended.wait_for(|end| *end) => {}
            _ = some => {}
        }
        while batch.len() < BATCH
            && let Ok(span) = self.receiver.try_recv()
        {
            batch.push(span);
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// Sends a batch, and gives how many spans the collector took.
async fn send(
    client: &TraceServiceClient<Channel>,
    spans: Vec<Span>,
    ended: &mut watch::Receiver<bool>,
) -> Result<usize> {
    let count = spans.len();
    let request = request(spans);
    let mut again = AGAIN.iter();
    loop {
        let mut client = client.clone();
        let sent = tokio::time::timeout(LIMIT, client.export(request.clone())).await;
        let error = match sent {
            Ok(Ok(answer)) => {
                let rejected = answer.into_inner().partial_success.unwrap_or_default();
                let rejected = usize::try_from(rejected.rejected_spans).unwrap_or(0);
                return Ok(count.saturating_sub(rejected));
            }
            Ok(Err(status)) if !may_try_again(status.code()) => {
                bail!("the collector refuses them: {}", status.message())
            }
            Ok(Err(status)) => anyhow::anyhow!("{}: {}", status.code(), status.message()),
            Err(_) => anyhow::anyhow!("no answer within {LIMIT:?}"),
        };
        let Some(wait) = again.next() else {
            return Err(error);
        };
        tokio::select! {
            biased;
            // A daemon that ends does not wait for a collector that is away.
            _ = ended.wait_for(|end| *end) => return Err(error),
            () = tokio::time::sleep(*wait) => {}
        }
    }
}

/// The codes of OTLP's specification after which a client tries again.
fn may_try_again(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
    };
    let host = nix::unistd::gethostname().unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            text("service.name", "rrun-cri"),
            text("service.version", version),
            text("host.name", &host.to_string_lossy()),
        ],
    };
    let scope = InstrumentationScope {
        name: "rrun-cri".to_owned(),
        version: version.to_owned(),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
            }],
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_address_or_a_socket() {
        let good = Endpoint::parse("http://127.0.0.1:4317/").unwrap();
        assert_eq!(good, Endpoint::Http("http://127.0.0.1:4317".into()));
        let socket = Endpoint::parse("unix:///run/otel.sock").unwrap();
        assert_eq!(socket, Endpoint::Unix("/run/otel.sock".into()));
        let error = Endpoint::parse("https://x:4317").unwrap_err().to_string();
        assert!(error.contains("TLS"), "{error}");
        for bad in [
            "127.0.0.1:4317",
            "unix://here",
            "http://x/v1/traces",
            "http:",
            "x y",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
