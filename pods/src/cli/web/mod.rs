//! `web`: a page that shows what runs, and changes nothing.
//!
//! It is served on loopback for as long as the command runs, by who may read the API, and to who has
//! the token of its address. Everything that comes from objects is put into the page as text; the
//! policy of the page lets no other script, style or server in.

mod page;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::TcpListener;

use super::http::Api;
use super::output::print;

/// Time for the head of a request.
const HEAD: std::time::Duration = std::time::Duration::from_secs(15);
/// The name of the cookie that has the token.
const COOKIE: &str = "rrun-pods-web";

/// `rrun-pods web`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods web
  rrun-pods web --listen 127.0.0.1:8001")]
pub struct Options {
    /// Address and port, which must be of the loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

struct Site {
    api: Api,
    token: String,
    address: SocketAddr,
}

type Body = Either<Incoming, Full<Bytes>>;

/// Serves until it is ended.
pub async fn run(api: &Api, options: &Options) -> anyhow::Result<()> {
    let asked = options.listen;
    anyhow::ensure!(
        asked.ip().is_loopback(),
        "--listen {asked}: the page is for this machine: want an address of the loopback"
    );
    let listener = TcpListener::bind(asked).await;
    let listener = listener.with_context(|| format!("--listen {asked}"))?;
    let address = listener.local_addr()?;
    let token = token()?;
    print(&format!("http://{address}/?token={token}\n"));
    let site = Arc::new(Site {
        api: api.clone(),
        token,
        address,
    });
    loop {
        let (io, _) = listener.accept().await?;
        let site = site.clone();
        let service = service_fn(move |request| {
            let site = site.clone();
            async move { Ok::<_, Infallible>(answer(&site, &request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(io), service);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!("web: {error}");
            }
        });
    }
}

fn token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 24];
    let made = SystemRandom::new().fill(&mut bytes);
    made.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    let mut hex = String::new();
    for byte in bytes {
        hex.push_str(&format!("{byte:02x}"));
    }
    Ok(hex)
}

async fn answer(site: &Site, request: &Request<Incoming>) -> Response<Body> {
    let mut response = route(site, request).await;
    let headers = response.headers_mut();
    for (name, value) in page::HEADERS {
        headers.insert(*name, http::HeaderValue::from_static(value));
    }
    response
}

async fn route(site: &Site, request: &Request<Incoming>) -> Response<Body> {
    if !is_for(site.address, request.headers()) {
        // A name that somebody else made to lead here.
        return plain(StatusCode::MISDIRECTED_REQUEST, "not for this address");
    }
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "this page changes nothing");
    }
    let query = request.uri().query().unwrap_or_default();
    if request.uri().path() == "/" && same(query, &format!("token={}", site.token)) {
        return entrance(&site.token);
    }
    if !has_token(request.headers(), &site.token) {
        return plain(
            StatusCode::FORBIDDEN,
            "the address that `rrun-pods web` printed is needed",
        );
    }
    let path = request.uri().path();
    if let Some((kind, text)) = page::file(path) {
        return full(StatusCode::OK, kind, text.to_owned());
    }
    match path
        .strip_prefix("/api/")
        .map(|_| path)
        .or_else(|| path.strip_prefix("/apis/").map(|_| path))
    {
        Some(path) if page::may_ask(path) => forward(site, path, query).await,
        _ => plain(StatusCode::NOT_FOUND, "not found"),
    }
}

/// Compares without telling how much is right.
fn same(a: &str, b: &str) -> bool {
    let differ = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differ == 0
}

fn is_for(address: SocketAddr, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let local = format!("localhost:{}", address.port());
    host.is_some_and(|host| host == address.to_string() || host == local)
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let all = headers.get_all(header::COOKIE).iter();
    let all = all
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'));
    let mut mine = all.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    mine.any(|value| same(value, token))
}

/// Takes the token out of the address, so that it is in no history.
fn entrance(token: &str) -> Response<Body> {
    let mut response = plain(StatusCode::SEE_OTHER, "");
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, http::HeaderValue::from_static("/"));
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
    if let Ok(cookie) = cookie.parse() {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

async fn forward(site: &Site, path: &str, query: &str) -> Response<Body> {
    let path = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    match site.api.open("GET", &path, "application/json", None).await {
        Ok(body) => {
            let mut response = Response::new(Either::Left(body));
            let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    full(code, "text/plain; charset=utf-8", text.to_owned())
}

fn full(code: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_token_and_comes_by_the_address_is_let_in() {
        let address: SocketAddr = "127.0.0.1:8001".parse().unwrap();
        let with = |name: header::HeaderName, value: &str| {
            HeaderMap::from_iter([(name, value.parse().unwrap())])
        };
        for (host, is) in [
            ("127.0.0.1:8001", true),
            ("localhost:8001", true),
            ("evil.example:8001", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(is_for(address, &with(header::HOST, host)), is, "{host}");
        }
        for (cookie, is) in [
            ("rrun-pods-web=abc", true),
            ("a=b; rrun-pods-web=abc", true),
            ("rrun-pods-web=ab", false),
            ("x=abc", false),
        ] {
            assert_eq!(
                has_token(&with(header::COOKIE, cookie), "abc"),
                is,
                "{cookie}"
            );
        }
    }
}
