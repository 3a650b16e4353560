//! OpenTelemetry traces, as a collector gets them.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{Client, Cri, create, remove_pod, script};
use rrun_cri_api::otlp::any_value::Value;
use rrun_cri_api::otlp::trace_service_server::{TraceService, TraceServiceServer};
use rrun_cri_api::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Span, SpanKind,
};
use rrun_cri_api::v1;
use rrun_tests::{Need, require};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The trace and span of whoever calls.
const TRACE: [u8; 2] = [0x4b, 0xf9];
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Takes spans, but refuses the first time, as one that is starting does.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    refused: Arc<Mutex<bool>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if !std::mem::replace(&mut *self.refused.lock().unwrap(), true) {
            return Err(Status::unavailable("not yet"));
        }
        self.requests.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn serve(&self, path: &std::path::Path) {
        let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let service = TraceServiceServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(listener));
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans);
        let spans = scopes.flat_map(|resource| &resource.scope_spans);
        spans.flat_map(|scope| scope.spans.clone()).collect()
    }

    async fn wait_for(&self, name: &str) -> Span {
        let end = tokio::time::Instant::now() + kit::patience();
        loop {
            if let Some(span) = self.spans().into_iter().find(|span| span.name == name) {
                return span;
            }
            assert!(tokio::time::Instant::now() < end, "no span {name}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((pair.key.clone(), text.clone())),
        _ => None,
    };
    pairs.iter().filter_map(text).collect()
}

async fn run_pod(client: &mut Client, config: v1::PodSandboxConfig) -> String {
    let mut request = Request::new(v1::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    });
    let parent = PARENT.parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let answer = Box::pin(client.run_pod_sandbox(request)).await.unwrap();
    answer.into_inner().pod_sandbox_id
}

fn start_cri(rate: u32) -> (Cri, Collector, std::path::PathBuf) {
    let collector = Collector::default();
    let dir = std::env::temp_dir().join(format!("rrun-otlp-{}-{rate}", std::process::id()));
    let _ = std::fs::remove_file(&dir);
    collector.serve(&dir);
    // Even where the log says next to nothing.
    let config = format!(
        "log = \"error\"\n[tracing]\nendpoint = \"unix://{}\"\nsampling_rate_per_million = {rate}\n",
        dir.display()
    );
    (Cri::start_with(&config), collector, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelets_trace_goes_on_through_the_call_and_its_steps() {
    require!(Need::Root);
    let (cri, collector, socket) = start_cri(0);
    let mut client = cri.client().await;
    client.version(v1::VersionRequest::default()).await.unwrap();
    let config = cri.pod("traced", false);
    let pod = run_pod(&mut client, config).await;
    let call = collector
        .wait_for("runtime.v1.RuntimeService/RunPodSandbox")
        .await;
    assert_eq!(call.trace_id[..2], TRACE);
    assert_eq!(call.parent_span_id[..2], [0x00, 0xf0]);
    assert_eq!(call.kind(), SpanKind::Server);
    assert!(call.end_time_unix_nano > call.start_time_unix_nano);
    let about = attributes(&call.attributes);
    assert_eq!(about["rpc.method"], "RunPodSandbox");
    assert_eq!(about["cri.pod_sandbox.id"], pod);
    let step = collector.wait_for("make namespaces").await;
    assert_eq!(step.parent_span_id, call.span_id);
    let requests = collector.requests.lock().unwrap().clone();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "rrun-cri");
    // Nobody asked for the others to be traced.
    remove_pod(&mut client, &pod).await;
    let strangers = collector.spans().into_iter();
    let strangers: Vec<_> = strangers.filter(|s| s.trace_id[..2] != TRACE).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    std::fs::remove_file(socket).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_begins_a_trace_where_that_is_wanted_and_the_last_ones_are_sent_at_the_end() {
    require!(Need::Root);
    let (mut cri, collector, socket) = start_cri(1_000_000);
    let mut client = cri.client().await;
    let (id, config) = cri.run_pod(&mut client, "all").await;
    let pod = (id, config);
    let container = create(&mut client, &pod, script("main", "sleep 1000"))
        .await
        .unwrap();
    kit::start(&mut client, &container).await.unwrap();
    let start = collector
        .wait_for("runtime.v1.RuntimeService/StartContainer")
        .await;
    assert!(start.parent_span_id.is_empty());
    let steps = collector.spans().into_iter();
    let steps: Vec<_> = steps
        .filter(|span| span.parent_span_id == start.span_id)
        .map(|span| span.name)
        .collect();
    assert_eq!(steps, ["start shim", "create task", "start task"]);
    remove_pod(&mut client, &pod.0).await;
    let refused = client
        .start_container(v1::StartContainerRequest {
            container_id: "none".into(),
        })
        .await;
    assert!(refused.is_err());
    cri.terminate();
    rrun_tests::wait_until("the daemon's end", kit::patience(), || cri.has_ended());
    let removed = collector
        .wait_for("runtime.v1.RuntimeService/RemovePodSandbox")
        .await;
    assert_ne!(removed.trace_id, start.trace_id);
    let spans = collector.spans();
    let failed = spans.iter().find_map(|span| span.status.as_ref());
    assert!(failed.unwrap().message.contains("none"), "{failed:?}");
    std::fs::remove_file(socket).unwrap();
}
