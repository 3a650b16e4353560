//! Bodies of answers and requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use super::super::schema::protobuf;
use super::super::status::{Result, Status};

/// Largest request body: Kubernetes' limit for resource requests.
const MAX_REQUEST: usize = 3 << 20;

/// Body of an answer.
pub(crate) enum Body {
    /// Known in full.
    Full(Bytes),
    /// Sent as it comes (watches, logs).
    Stream(mpsc::Receiver<Bytes>),
}

pub(crate) type Answer = Response<Body>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(b) if b.is_empty() => Poll::Ready(None),
            Self::Full(b) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(b))))),
            Self::Stream(rx) => rx.poll_recv(cx).map(|b| b.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(b) if b.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(b) => SizeHint::with_exact(b.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with a content type.
pub(crate) fn answer(code: u16, content_type: &str, body: Body) -> Answer {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let builder = Response::builder()
        .status(code)
        .header("content-type", content_type);
    builder
        .header("cache-control", "no-cache, private")
        .body(body)
        .expect("content types are constants without control characters")
}

/// JSON text that is already made.
pub(crate) fn json_text(code: u16, text: impl Into<Bytes>) -> Answer {
    let text = text.into();
    crate::rest::answered(text.len());
    answer(code, "application/json", Body::Full(text))
}

/// A JSON tree.
pub(crate) fn json(code: u16, value: &Value) -> Answer {
    json_text(code, value.to_string())
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    answer(code, "text/plain; charset=utf-8", Body::Full(text.into()))
}

/// A failure.
pub(crate) fn failure(status: &Status) -> Answer {
    json(status.code, &status.to_value())
}

/// The body of a request, whole.
pub(crate) async fn read(mut body: Incoming) -> Result<Bytes> {
    let mut out = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| Status::bad_request(format!("reading the request: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > MAX_REQUEST {
                return Err(Status::new(
                    413,
                    "RequestEntityTooLarge",
                    format!("Request entity too large: limit is {MAX_REQUEST}"),
                ));
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
}

/// A request's object: JSON, or YAML where the content type says so.
pub(crate) fn object(content_type: &str, body: &[u8]) -> Result<Value> {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|e| Status::bad_request(format!("the object provided is not JSON: {e}"))),
        "application/yaml" | "application/apply-patch+yaml" | "application/x-yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body)
            .map_err(|e| Status::bad_request(format!("the object provided is not protobuf: {e}"))),
        m if m.ends_with("+json") => serde_json::from_slice(body)
            .map_err(|e| Status::bad_request(format!("the patch is not JSON: {e}"))),
        other => Err(Status::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, application/vnd.kubernetes.protobuf (found {other})"
            ),
        )),
    }
}

/// One YAML document as a JSON tree.
fn yaml(body: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(body)
        .map_err(|e| Status::bad_request(format!("the object provided is not UTF-8: {e}")))?;
    let mut options = serde_saphyr::Options::default();
    // 0777 is octal in YAML 1.1, which every Kubernetes manifest is written in.
    options.legacy_octal_numbers = true;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| Status::bad_request(format!("the object provided is not YAML: {e}")))
}
