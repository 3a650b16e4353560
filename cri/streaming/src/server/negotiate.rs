//! Which protocol an upgrade request is answered with.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Error;
use crate::spdy::SPDY_3_1;

/// Protocol versions of a session over SPDY, in request and response.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// In a refusal: what would have been accepted.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// SPDY/3.1 on the connection itself.
    Spdy,
    /// A WebSocket.
    WebSocket,
}

/// What was agreed.
#[derive(Debug)]
pub struct Agreed {
    /// What carries the streams.
    pub carrier: Carrier,
    /// The protocol of the session; empty where the client named none.
    pub protocol: &'static str,
    /// The answer.
    pub response: Response<()>,
}

/// The protocols that a request may ask for.
pub struct Offer {
    /// Over SPDY, the best first.
    pub spdy: &'static [&'static str],
    /// Over a WebSocket.
    pub websocket: &'static [&'static str],
}

/// Answers an upgrade request.
pub fn agree<B>(request: &Request<B>, offer: &Offer) -> Result<Agreed, Error> {
    let headers = request.headers();
    let upgrade = tokens(headers, &header::UPGRADE);
    if !tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Error::refused(
            StatusCode::BAD_REQUEST,
            format!("the request must be an upgrade to {SPDY_3_1} or websocket"),
        ));
    }
    for token in upgrade {
        if token.eq_ignore_ascii_case(SPDY_3_1) {
            return spdy(headers, offer.spdy);
        }
        if token.eq_ignore_ascii_case("websocket") {
            return websocket(headers, offer.websocket);
        }
    }
    Err(Error::refused(
        StatusCode::BAD_REQUEST,
        format!("the request must be an upgrade to {SPDY_3_1} or websocket"),
    ))
}

fn spdy(headers: &HeaderMap, offered: &[&'static str]) -> Result<Agreed, Error> {
    let asked: Vec<_> = tokens(headers, &STREAM_PROTOCOL).collect();
    // Clients before v2 named none.
    let protocol = match offered.iter().find(|known| asked.contains(*known)) {
        Some(protocol) => protocol,
        None if asked.is_empty() => "",
        None => {
            return Err(Error::refused(
                StatusCode::FORBIDDEN,
                format!("none of the protocols {asked:?} is known: {ACCEPTED} is {offered:?}"),
            ));
        }
    };
    let mut response = switching(SPDY_3_1);
    if !protocol.is_empty() {
        let value = HeaderValue::from_static(protocol);
        response.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    Ok(Agreed {
        carrier: Carrier::Spdy,
        protocol,
        response,
    })
}

fn websocket(headers: &HeaderMap, offered: &[&'static str]) -> Result<Agreed, Error> {
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let message = "the WebSocket version must be 13";
        return Err(Error::refused(StatusCode::UPGRADE_REQUIRED, message));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| {
        Error::refused(StatusCode::BAD_REQUEST, "the WebSocket request has no key")
    })?;
    let asked: Vec<_> = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    // The client names its favourite first.
    let found = asked
        .iter()
        .find_map(|asked| offered.iter().find(|known| *known == asked));
    let protocol = match found {
        Some(protocol) => protocol,
        None if asked.is_empty() => "",
        None => {
            let message = format!("none of the protocols {asked:?} is known, but {offered:?}");
            return Err(Error::refused(StatusCode::BAD_REQUEST, message));
        }
    };
    let mut response = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::from_str(&accept).expect("base64 is a header value");
    response
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        let value = HeaderValue::from_static(protocol);
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(Agreed {
        carrier: Carrier::WebSocket,
        protocol,
        response,
    })
}

fn switching(protocol: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The comma-separated words of all lines of a header.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io"],
        websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    };

    fn ask(headers: &[(&str, &str)]) -> Result<Agreed, Error> {
        let mut request = Request::builder().uri("/exec/token");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        agree(&request.body(()).unwrap(), &OFFER)
    }

    fn refusal(headers: &[(&str, &str)]) -> StatusCode {
        match ask(headers) {
            Err(Error::Refused { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn spdy_takes_the_best_that_both_know() {
        let agreed = ask(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ])
        .unwrap();
        assert_eq!(
            (agreed.carrier, agreed.protocol),
            (Carrier::Spdy, "v4.channel.k8s.io")
        );
        assert_eq!(agreed.response.status(), 101);
    }

    /// RFC 6455, section 1.3.
    #[test]
    fn the_websocket_key_is_answered_as_the_rfc_shows() {
        let agreed = ask(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            (
                "sec-websocket-protocol",
                "v9.channel.k8s.io, v4.channel.k8s.io",
            ),
        ])
        .unwrap();
        let accept = &agreed.response.headers()[header::SEC_WEBSOCKET_ACCEPT];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed.protocol, "v4.channel.k8s.io");
    }

    #[test]
    fn other_requests_are_refused() {
        assert_eq!(refusal(&[]), StatusCode::BAD_REQUEST);
        assert_eq!(
            refusal(&[("connection", "Upgrade"), ("upgrade", "h2c")]),
            400
        );
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let unknown = ("x-stream-protocol-version", "v9.channel.k8s.io");
        assert_eq!(refusal(&[spdy[0], spdy[1], unknown]), StatusCode::FORBIDDEN);
        let old = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert_eq!(refusal(&old), StatusCode::UPGRADE_REQUIRED);
    }
}
