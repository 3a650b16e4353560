//! A server in front of another streaming server: passes an upgrade request on unchanged and ties
//! the two connections together, so that every protocol works that the server behind speaks.

use http::{HeaderName, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Error, Limits};

/// Longest answer to a refused upgrade that is passed on, in bytes.
const LONGEST_REFUSAL: usize = 64 << 10;

/// Headers that are meant for the server in front alone.
const NOT_PASSED_ON: [HeaderName; 3] = [
    header::HOST,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
];

/// Passes `request` on to the server behind, which is connected at `upstream` and asked for
/// `path` (path and query) with the `Host` `authority`. Gives the answer of the server behind; if
/// that is a switch of protocols, a task copies bytes both ways until both sides are done, or
/// until nothing has moved for [`Limits::idle`].
pub async fn forward<B, IO>(
    mut request: Request<B>,
    upstream: IO,
    authority: &str,
    path: &str,
    limits: &Limits,
) -> Result<Response<Full<Bytes>>, Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let asked = outgoing(&request, authority, path)?;
    let broken = |error| Error::io("the streaming server", std::io::Error::other(error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream))
        .await
        .map_err(broken)?;
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(asked).await.map_err(broken)?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return refusal(answer).await;
    }
    let (front, behind) = (
        hyper::upgrade::on(&mut request),
        hyper::upgrade::on(&mut answer),
    );
    let idle = limits.idle;
    tokio::spawn(async move {
        // A side that fails to switch has closed its connection, which drops the other one too.
        if let (Ok(front), Ok(behind)) = tokio::join!(front, behind) {
            crate::copy::both_ways(TokioIo::new(front), TokioIo::new(behind), idle).await;
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Full::default()))
}

fn outgoing<B>(
    request: &Request<B>,
    authority: &str,
    path: &str,
) -> Result<Request<Empty<Bytes>>, Error> {
    let mut asked = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .header(header::HOST, authority)
        .body(Empty::new())
        .map_err(|error| {
            Error::refused(
                http::StatusCode::BAD_GATEWAY,
                format!("streaming address {authority}{path}: {error}"),
            )
        })?;
    for (name, value) in request.headers() {
        if !NOT_PASSED_ON.contains(name) {
            asked.headers_mut().append(name, value.clone());
        }
    }
    Ok(asked)
}

async fn refusal(answer: Response<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let (mut parts, body) = answer.into_parts();
    let body = Limited::new(body, LONGEST_REFUSAL).collect().await;
    let body = body.map_err(|error| {
        Error::io(
            "the streaming server's refusal",
            std::io::Error::other(error),
        )
    })?;
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
}
