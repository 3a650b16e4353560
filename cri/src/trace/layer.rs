//! From `tracing`'s spans to OTLP's. A trace begins with the span of a call; spans below it are its
//! steps, warnings and errors on the way are events of theirs.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rrun_cri_api::otlp::any_value::Value;
use rrun_cri_api::otlp::{AnyValue, Event, KeyValue, Span, SpanKind, Status, StatusCode};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::context::{self, Ids, SpanContext};
use super::{Counts, MILLION};

/// Name of the span of a call; see `rpc::subject::span`.
const CALL: &str = "call";

const INTERNAL: i32 = SpanKind::Internal as i32;
const SERVER: i32 = SpanKind::Server as i32;
const ERROR: i32 = StatusCode::Error as i32;

/// Flags of a span that is kept, whose parent's place is known.
const SAMPLED: u32 = 1;

/// The layer.
pub struct Spans {
    sender: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    ids: Ids,
    per_million: u32,
}

/// A span that has not ended, with the registry's.
struct Open(Span);

impl Spans {
    pub(super) fn new(
        sender: mpsc::Sender<Span>,
        counts: Arc<Counts>,
        per_million: u32,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            sender,
            counts,
            ids: Ids::new()?,
            per_million,
        })
    }

    /// What it is to see, whatever the log's filter says.
    pub fn filter() -> FilterFn {
        filter_fn(of_interest)
    }

    /// Where a new span stands: below another, in a caller's trace, or at the beginning of one; `None`
    /// where the trace is not kept.
    fn place(&self, call: bool, above: Option<SpanContext>, caller: &str) -> Option<SpanContext> {
        if !call {
            return above;
        }
        let trace = match context::parse(caller) {
            Some(parent) => return parent.sampled.then_some(parent),
            None => self.ids.trace(),
        };
        // The last bytes are random; of 2^32 equally likely values, so many are kept.
        let [.., a, b, c, d] = trace;
        let draw = u64::from(u32::from_be_bytes([a, b, c, d]));
        let kept = draw * u64::from(MILLION) < u64::from(self.per_million) << 32;
        kept.then_some(SpanContext {
            trace,
            span: [0; 8],
            sampled: true,
        })
    }
}

fn of_interest(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().starts_with("rrun_cri");
    own && (metadata.is_span() || *metadata.level() <= Level::WARN)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(here) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let above = here.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Open>().map(|open| position(&open.0))
        });
        let call = here.name() == CALL;
        let Some(place) = self.place(call, above, &fields.caller) else {
            return;
        };
        let parent = Some(place.span).filter(|span| *span != [0; 8]);
        let mut span = Span {
            trace_id: place.trace.to_vec(),
            span_id: self.ids.span().to_vec(),
            parent_span_id: parent.map(Vec::from).unwrap_or_default(),
            name: here.name().to_owned(),
            kind: INTERNAL,
            start_time_unix_nano: now(),
            flags: SAMPLED,
            ..Default::default()
        };
        if call {
            name_call(&mut span, &mut fields);
        }
        span.attributes.extend(fields.pairs);
        here.extensions_mut().insert(Open(span));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(here) = context.span(id) else { return };
        if let Some(open) = here.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            values.record(&mut fields);
            let known = |pair: &KeyValue| fields.pairs.iter().any(|new| new.key == pair.key);
            open.0.attributes.retain(|pair| !known(pair));
            open.0.attributes.extend(fields.pairs);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let Some(here) = context.event_span(event) else {
            return;
        };
        if let Some(open) = here.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            event.record(&mut fields);
            tell(&mut open.0, fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(here) = context.span(&id) else {
            return;
        };
        let Some(Open(mut span)) = here.extensions_mut().remove::<Open>() else {
            return;
        };
        // The clock may have been set back meanwhile.
        span.end_time_unix_nano = now().max(span.start_time_unix_nano);
        if self.sender.try_send(span).is_err() {
            self.counts.dropped(1);
        }
    }
}

/// gRPC's names: `runtime.v1.RuntimeService/RunPodSandbox`. Every method of the image service, and no
/// other, has the word in its name.
fn name_call(span: &mut Span, fields: &mut Fields) {
    let method: String = fields
        .rpc
        .split('_')
        .flat_map(|word| {
            let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect();
    let service = if fields.rpc.contains("image") {
        "runtime.v1.ImageService"
    } else {
        "runtime.v1.RuntimeService"
    };
    span.name = format!("{service}/{method}");
    span.kind = SERVER;
    let text = |key, value: &str| pair(key, Value::StringValue(value.to_owned()));
    span.attributes.extend([
        text("rpc.system", "grpc"),
        text("rpc.service", service),
        text("rpc.method", &method),
    ]);
}

/// A warning or an error. That which ends a call has its code, and is the span's own end.
fn tell(span: &mut Span, fields: Fields) {
    let code = |pair: &KeyValue| pair.key == "rpc.response.status_code";
    if let Some(code) = fields.pairs.iter().find(|pair| code(pair)) {
        span.attributes.push(code.clone());
        span.status = Some(Status {
            message: fields.message,
            code: ERROR,
        });
        return;
    }
    span.events.push(Event {
        time_unix_nano: now(),
        name: fields.message,
        attributes: fields.pairs,
    });
}

fn position(span: &Span) -> SpanContext {
    SpanContext {
        trace: span.trace_id.as_slice().try_into().unwrap_or_default(),
        span: span.span_id.as_slice().try_into().unwrap_or_default(),
        sampled: true,
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

/// The fields of a span or an event, under OpenTelemetry's names where it has some.
#[derive(Default)]
struct Fields {
    rpc: String,
    caller: String,
    message: String,
    pairs: Vec<KeyValue>,
}

impl Fields {
    fn text(&mut self, field: &Field, value: String) {
        match field.name() {
            "rpc" => self.rpc = value,
            "traceparent" => self.caller = value,
            "message" => self.message = value,
            name => self
                .pairs
                .push(pair(known(name), Value::StringValue(value))),
        }
    }
}

/// Semantic conventions 1.x.
fn known(field: &str) -> &str {
    match field {
        "container" => "container.id",
        "image" => "container.image.name",
        "pod" => "cri.pod_sandbox.id",
        "code" => "rpc.response.status_code",
        other => other,
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.pairs
            .push(pair(known(field.name()), Value::IntValue(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.pairs
            .push(pair(known(field.name()), Value::DoubleValue(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.pairs
            .push(pair(known(field.name()), Value::BoolValue(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// The spans that come of some code, in the order of their ends.
    fn spans_of(per_million: u32, work: impl FnOnce()) -> Vec<Span> {
        let (sender, mut receiver) = mpsc::channel(64);
        let spans = Spans::new(sender, Arc::default(), per_million).unwrap();
        let layers = tracing_subscriber::registry().with(spans.with_filter(Spans::filter()));
        tracing::subscriber::with_default(layers, work);
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    fn call(traceparent: &'static str) {
        let span = tracing::info_span!(
            "call",
            rpc = "run_pod_sandbox",
            traceparent,
            pod = tracing::field::Empty
        );
        let _in = span.enter();
        span.record("pod", "p1");
        tracing::debug_span!("network").in_scope(|| tracing::warn!(port = 3, "slow"));
        tracing::warn!(ms = 1.5, code = "NotFound", "no image");
    }

    fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
        let found = span.attributes.iter().find(|pair| pair.key == key);
        found?.value.as_ref()?.value.as_ref()
    }

    #[test]
    fn a_call_and_its_steps_are_one_trace() {
        let spans = spans_of(MILLION, || call(""));
        let [step, call] = &spans[..] else {
            panic!("{spans:?}")
        };
        assert_eq!(call.name, "runtime.v1.RuntimeService/RunPodSandbox");
        assert_eq!((call.kind, step.kind), (SERVER, INTERNAL));
        assert_eq!(step.trace_id, call.trace_id);
        assert_eq!(step.parent_span_id, call.span_id);
        assert!(call.parent_span_id.is_empty());
        assert_eq!(step.events[0].name, "slow");
        assert!(step.status.is_none());
        assert!(call.end_time_unix_nano >= step.end_time_unix_nano);
        let pod = Value::StringValue("p1".into());
        assert_eq!(attribute(call, "cri.pod_sandbox.id"), Some(&pod));
        let status = call.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (ERROR, "no image"));
    }

    #[test]
    fn a_callers_trace_goes_on_and_one_that_is_not_kept_does_not() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let spans = spans_of(0, || call(parent));
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[1].trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(spans[1].parent_span_id[7], 0xb7);
        let other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert!(spans_of(MILLION, || call(other)).is_empty());
        assert!(spans_of(0, || call("")).is_empty());
    }

    #[test]
    fn work_that_belongs_to_no_call_begins_no_trace() {
        let spans = spans_of(MILLION, || drop(tracing::info_span!("sweep").enter()));
        assert!(spans.is_empty(), "{spans:?}");
    }
}
