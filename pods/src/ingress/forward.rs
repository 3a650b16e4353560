//! One request: where it goes, what is told to the endpoint, and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;

use super::pool::{Pool, Sender, connect};
use super::table::{Table, Target};

/// An endpoint that has not begun to answer by then does not.
const ANSWER: Duration = Duration::from_secs(60);
/// Endpoints that are tried for one request.
const TRIES: usize = 3;
/// Of a connection; RFC 9110, section 7.6.1.
const HOP: &[HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is sent back.
pub type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// What requests are led by.
#[derive(Clone)]
pub struct Front {
    /// The table of now.
    pub table: Arc<RwLock<Arc<Table>>>,
    /// Connections to endpoints.
    pub pool: Pool,
}

/// How a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Who sent it.
    pub client: IpAddr,
    /// By TLS.
    pub tls: bool,
    /// To which port of the node.
    pub port: u16,
}

fn say(code: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    let mut answer = Response::new(Either::Right(body));
    *answer.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

/// Answers a request.
pub async fn handle(front: Front, arrival: Arrival, request: Request<Incoming>) -> Answer {
    let Some(host) = host(&request) else {
        return say(
            StatusCode::BAD_REQUEST,
            "the request names no host, or more than one",
        );
    };
    let path = request.uri().path();
    if request.method() == Method::CONNECT || !path.starts_with('/') {
        return say(StatusCode::BAD_REQUEST, "the request names no path");
    }
    if has_dots(path) {
        return say(
            StatusCode::BAD_REQUEST,
            "a path must not have . or .. in it",
        );
    }
    let table = front
        .table
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match table.route(&host, path).cloned() {
        None => say(StatusCode::NOT_FOUND, "no Ingress leads anywhere from here"),
        Some(target) => relay(&front, arrival, &target, request).await,
    }
}

/// The host that is asked for, in lower case and without a port.
fn host(request: &Request<Incoming>) -> Option<String> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let first = named.next();
    // Two would mean one to us and another to the endpoint.
    if named.next().is_some() {
        return None;
    }
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => first?.to_str().ok()?.to_owned(),
    };
    let authority: http::uri::Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_end_matches('.').to_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Whether a path is another one to who resolves it. No client sends such a one but on purpose.
fn has_dots(path: &str) -> bool {
    path.split('/').any(|part| {
        let plain = part.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    })
}

async fn relay(
    front: &Front,
    arrival: Arrival,
    target: &Arc<Target>,
    mut request: Request<Incoming>,
) -> Answer {
    let upgrade = upgrade_of(&request);
    let ours = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    if let Err(answer) = prepare(&mut request, arrival, upgrade.as_ref()) {
        return *answer;
    }
    let (mut answer, mut sender, to) = match send(front, target, request).await {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = ours else {
            return say(
                StatusCode::BAD_GATEWAY,
                "the Service switched protocols unasked",
            );
        };
        let theirs = hyper::upgrade::on(&mut answer);
        tokio::spawn(splice(ours, theirs, sender));
        return answer.map(Either::Left);
    }
    strip(answer.headers_mut());
    *answer.version_mut() = Version::HTTP_11;
    let pool = front.pool.clone();
    tokio::spawn(async move {
        // Ready once the answer has been read to its end.
        if sender.ready().await.is_ok() {
            pool.keep(to, sender);
        }
    });
    answer.map(Either::Left)
}

type Sent = (Response<Incoming>, Sender, SocketAddr);

/// Sends a request to the first endpoint that takes it. What was not written to a connection that
/// waited, and broke meanwhile, is sent by a new one.
async fn send(
    front: &Front,
    target: &Target,
    mut request: Request<Incoming>,
) -> Result<Sent, Box<Answer>> {
    // Only what changes nothing may meet a connection that breaks while it is written.
    let safe = request.method().is_safe() && request.body().is_end_stream();
    let fail = |code, text| Err(Box::new(say(code, text)));
    for to in target.choose().take(TRIES) {
        let waiting = safe.then(|| front.pool.take(to)).flatten();
        let senders = [waiting.map(Ok), None];
        for sender in senders {
            let sender = match sender {
                Some(sender) => sender,
                None => connect(to).await,
            };
            let mut sender: Sender = match sender {
                Ok(sender) => sender,
                Err(error) => {
                    tracing::debug!("{} at {to}: {error}", target.name);
                    break;
                }
            };
            match tokio::time::timeout(ANSWER, sender.try_send_request(request)).await {
                Ok(Ok(answer)) => return Ok((answer, sender, to)),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => {
                        tracing::debug!("{} at {to}: {}", target.name, error.error());
                        let text = "the Service broke the connection off";
                        return fail(StatusCode::BAD_GATEWAY, text);
                    }
                },
                Err(_) => return fail(StatusCode::GATEWAY_TIMEOUT, "the Service does not answer"),
            }
        }
    }
    let text = "the Service has no endpoint that takes connections";
    fail(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// The protocol that a client wants to switch to.
fn upgrade_of(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let asked = request.headers().get_all(header::CONNECTION).iter();
    let asked = asked
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    let named = asked
        .map(str::trim)
        .any(|word| word.eq_ignore_ascii_case("upgrade"));
    named.then(|| request.headers().get(header::UPGRADE).cloned())?
}

/// Removes what is a connection's own, and what `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    let named: Vec<HeaderName> = named.filter_map(|n| n.trim().parse().ok()).collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// Makes the request one of HTTP/1.1 to the endpoint. What a client says of where it comes from is
/// not believed: the node is the first that everybody meets.
fn prepare(
    request: &mut Request<Incoming>,
    arrival: Arrival,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Box<Answer>> {
    let wrong = |()| {
        Box::new(say(
            StatusCode::BAD_REQUEST,
            "the request cannot be sent on",
        ))
    };
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let uri: Uri = path.parse().map_err(|_| wrong(()))?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    if let Some(authority) = authority {
        let value = HeaderValue::from_str(&authority).map_err(|_| wrong(()))?;
        headers.insert(header::HOST, value);
    }
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    headers.remove(header::FORWARDED);
    join_cookies(headers);
    let set = [
        ("x-forwarded-for", arrival.client.to_string()),
        ("x-real-ip", arrival.client.to_string()),
        (
            "x-forwarded-proto",
            if arrival.tls { "https" } else { "http" }.to_owned(),
        ),
        ("x-forwarded-port", arrival.port.to_string()),
    ];
    for (name, value) in set {
        let value = HeaderValue::from_str(&value).map_err(|_| wrong(()))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    Ok(())
}

/// HTTP/2 sends a cookie as several fields, HTTP/1.1 knows one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if all.len() > 1
        && let Ok(one) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, one);
    }
}

/// Copies bytes both ways until either side ends.
async fn splice(
    ours: hyper::upgrade::OnUpgrade,
    theirs: hyper::upgrade::OnUpgrade,
    sender: Sender,
) {
    if let (Ok(a), Ok(b)) = tokio::join!(ours, theirs) {
        let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
        let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
    }
    // The sender keeps the connection's task alive until the upgrade is taken.
    drop(sender);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_a_path_are_seen_in_all_their_forms() {
        for path in ["/..", "/a/../b", "/a/%2e%2e/b", "/a/.%2E", "/./a"] {
            assert!(has_dots(path), "{path}");
        }
        for path in [
            "/",
            "/a..b",
            "/...",
            "/.well-known/acme-challenge/x",
            "/a.b/c",
        ] {
            assert!(!has_dots(path), "{path}");
        }
    }

    #[test]
    fn what_is_a_connections_own_is_not_sent_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "9"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}
