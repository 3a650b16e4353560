//! Probes over gRPC: `grpc.health.v1.Health/Check`.
//!
//! Its two messages have one field each, so they are written and read here: a request's field 1 is
//! the service's name, an answer's field 1 the state, of which 1 is SERVING.

use std::time::Duration;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

use super::exec::{Failed, bracketed};

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Names of the states, by number.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks for the state of a service within `limit`.
pub(super) async fn grpc(
    ip: &str,
    port: u16,
    service: &str,
    limit: Duration,
) -> Result<(), Failed> {
    let address = format!("{}:{port}", bracketed(ip));
    let unknown = |e: &dyn std::fmt::Display| Failed::Unknown(format!("{address}: {e}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| unknown(&e))?;
    let endpoint = endpoint
        .user_agent("kube-probe/1.36")
        .map_err(|e| unknown(&e))?;
    match tokio::time::timeout(limit, check(endpoint, service)).await {
        Ok(Ok(1)) => Ok(()),
        Ok(Ok(state)) => {
            let name = usize::try_from(state).ok().and_then(|n| STATES.get(n));
            let name = name.map_or_else(|| state.to_string(), |n| (*n).to_owned());
            Err(Failed::Answer(format!(
                "service unhealthy (responded with \"{name}\")"
            )))
        }
        Ok(Err(Fault::Connect)) => Err(Failed::Answer(format!(
            "failed to connect service \"{address}\": connection refused or reset"
        ))),
        Ok(Err(Fault::Call(status))) => Err(Failed::Answer(match status.code() {
            tonic::Code::Unimplemented => format!(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            code => format!("health rpc probe failed: {code:?}: {}", status.message()),
        })),
        Err(_) => Err(Failed::Answer(format!(
            "timeout: failed to connect service \"{address}\" within {limit:?}: context deadline exceeded"
        ))),
    }
}

enum Fault {
    Connect,
    Call(Status),
}

async fn check(endpoint: Endpoint, service: &str) -> Result<u64, Fault> {
    let channel = endpoint.connect().await.map_err(|_| Fault::Connect)?;
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|_| Fault::Connect)?;
    let request = tonic::Request::new(service.to_owned());
    let answer = client
        .unary(request, PathAndQuery::from_static(CHECK), Health)
        .await;
    answer.map(tonic::Response::into_inner).map_err(Fault::Call)
}

/// The codec of the two messages.
#[derive(Clone, Copy, Debug, Default)]
struct Health;

impl Codec for Health {
    type Encode = String;
    type Decode = u64;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Health {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, service: String, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        write_request(&service, out);
        Ok(())
    }
}

impl Decoder for Health {
    type Item = u64;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        match read_state(&bytes) {
            Some(state) => Ok(Some(state)),
            None => Err(Status::internal("the answer is not a HealthCheckResponse")),
        }
    }
}

fn write_request(service: &str, out: &mut impl BufMut) {
    if service.is_empty() {
        return;
    }
    out.put_u8(0x0a);
    let mut length = service.len();
    while length > 0x7f {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(service.as_bytes());
}

/// The state; 0 where the field is absent. `None` where this is no such message.
fn read_state(mut bytes: &[u8]) -> Option<u64> {
    let mut state = 0;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut bytes)?;
                if tag >> 3 == 1 {
                    state = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                bytes = bytes.get(length..)?;
            }
            1 => bytes = bytes.get(8..)?,
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(state)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_grpc_health_v1() {
        let mut out = Vec::new();
        write_request("db", &mut out);
        assert_eq!(out, b"\x0a\x02db");
        let mut long = Vec::new();
        write_request(&"x".repeat(300), &mut long);
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(read_state(b""), Some(0));
        assert_eq!(read_state(b"\x08\x01"), Some(1));
        assert_eq!(read_state(b"\x12\x01z\x08\x02"), Some(2));
    }

    #[test]
    fn an_answer_that_is_cut_off_or_no_message_is_refused() {
        for bad in [
            &b"\x08"[..],
            b"\x12\x05a",
            b"\x0b",
            b"\x09\x01",
            &[0xff; 11],
        ] {
            assert_eq!(read_state(bad), None, "{bad:?}");
        }
    }

    /// A server of one connection that says `state`, or refuses the method.
    async fn server(state: Option<u8>) -> u16 {
        use http_body_util::StreamBody;
        use hyper::body::{Bytes, Frame};
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (io, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(move |request: http::Request<_>| async move {
                assert_eq!(request.uri().path(), CHECK);
                let _: hyper::body::Incoming = request.into_body();
                let mut trailers = http::HeaderMap::new();
                let code = if state.is_some() { "0" } else { "12" };
                trailers.insert("grpc-status", code.parse().unwrap());
                let data = state.map(|s| Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, s])));
                let frames = data.into_iter().chain([Frame::trailers(trailers)]);
                let frames = frames.map(Ok::<_, std::convert::Infallible>);
                let body = StreamBody::new(futures_util::stream::iter(frames));
                http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(body)
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), answer).await;
        });
        port
    }

    #[tokio::test]
    async fn a_grpc_probe_is_asked_and_believed() {
        let ask = async |state| {
            let port = server(state).await;
            grpc("127.0.0.1", port, "db", Duration::from_secs(5)).await
        };
        assert_eq!(ask(Some(1)).await, Ok(()));
        let Err(Failed::Answer(why)) = ask(Some(2)).await else {
            panic!("NOT_SERVING is a failure");
        };
        assert_eq!(why, "service unhealthy (responded with \"NOT_SERVING\")");
        let Err(Failed::Answer(why)) = ask(None).await else {
            panic!("a server without the service fails");
        };
        assert!(why.contains("does not implement"), "{why}");
    }
}
