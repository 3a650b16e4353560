//! The HTTP face of the API.

mod accept;
mod authn;
mod body;
mod capsules;
mod discovery;
mod health;
mod listen;
mod metrics;
mod prometheus;
mod query;
mod read;
mod route;
pub mod sign;
mod stream;
pub mod tls;
mod watch;
mod write;

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};

use super::auth::User;
use super::certificates;
use super::node::NodeAgent;
use super::podparts;
use super::resource::Asker;
use super::status::{Result, Status};
use super::{Client, kinds};
use body::Answer;
pub(crate) use discovery::KUBERNETES;
use query::Query;
use route::{Route, Target};

pub use listen::{tls as listen_tls, unix};

/// What every request is answered from.
pub struct Context {
    client: Client,
    node: Option<Arc<dyn NodeAgent>>,
    requests: prometheus::Requests,
}

impl Context {
    /// Without a node agent, what needs one answers 503.
    pub fn new(client: Client, node: Option<Arc<dyn NodeAgent>>) -> Arc<Self> {
        let requests = prometheus::Requests::default();
        Arc::new(Self {
            client,
            node,
            requests,
        })
    }
}

/// Whom a connection belongs to: root on the unix socket, or the holder of a certificate of the
/// authority. `None` may ask whether the server lives, and its version.
type Who = Option<Arc<User>>;

async fn handle(
    cx: Arc<Context>,
    who: Who,
    request: Request<Incoming>,
) -> std::result::Result<Answer, Infallible> {
    let line = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| format!("{} {}", request.method(), request.uri()));
    let verb = request.method().clone();
    let find = |g: &str, v: &str, p: &str| cx.client.find_kind(g, v, p);
    let resource = match route::parse(request.uri().path(), &find) {
        Some(Route::Resource(t)) => t.res.plural,
        _ => "",
    };
    let answer = respond(&cx, who, request)
        .await
        .unwrap_or_else(|s| body::failure(&s));
    cx.requests.count(&verb, resource, answer.status().as_u16());
    if let Some(line) = line {
        tracing::debug!("{line}: {}", answer.status().as_u16());
    }
    Ok(answer)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

async fn respond(cx: &Context, who: Who, request: Request<Incoming>) -> Result<Answer> {
    let path = request.uri().path();
    let find = |g: &str, v: &str, p: &str| cx.client.find_kind(g, v, p);
    let route = route::parse(path, &find);
    let user = authn::caller(cx, who.as_deref(), request.headers())?;
    let public = matches!(route, Some(Route::Health(_, None) | Route::Version));
    let user = match user {
        Some(user) => user,
        None if public => User::anonymous(),
        None => return Err(Status::new(401, "Unauthorized", "Unauthorized")),
    };
    let route = route.ok_or_else(read::unknown_path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if !public {
        authn::authorize(cx, &user, request.method(), path, &route, &query)?;
    }
    let accept = header(request.headers(), "accept").to_owned();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match route {
        Route::Resource(target) => resource(cx, &user, request, target).await,
        _ if !get => Err(not_allowed()),
        Route::CoreVersions => Ok(discovery::core(cx, &accept)),
        Route::Groups => Ok(discovery::all_groups(cx, &accept)),
        Route::Group(g) => discovery::group(cx, &g),
        Route::GroupVersion(g, v) => discovery::resources(cx, &g, &v),
        Route::Version => Ok(discovery::version()),
        Route::Health(kind, check) => health::answer(cx, &kind, check.as_deref(), &query).await,
        Route::Root => Ok(body::json(
            200,
            &serde_json::json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez",
                "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        )),
        Route::OpenApi2 => Ok(discovery::openapi2(cx, &accept)),
        Route::OpenApi3(path) => discovery::openapi3(cx, &path),
        Route::OpenId(keys) => openid(cx, keys),
        Route::Backup => Ok(body::text(200, cx.client.backup().await?)),
        Route::Metrics => Ok(prometheus::metrics(cx)),
    }
}

fn not_allowed() -> Status {
    Status::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

/// The keys that tokens are signed by, and where they are.
fn openid(cx: &Context, keys: bool) -> Result<Answer> {
    let tokens = cx.client.tokens().ok_or_else(read::unknown_path)?;
    let value = if keys {
        tokens.keys()
    } else {
        tokens.discovery()
    };
    Ok(body::json(200, &value))
}

async fn resource(
    cx: &Context,
    user: &User,
    request: Request<Incoming>,
    target: Target,
) -> Result<Answer> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    if stream::is_stream(&target) {
        return stream::relay(cx, request, &target, &query).await;
    }
    let headers = request.headers().clone();
    let accept = header(&headers, "accept");
    if target.res.answer.is_some() && method == Method::GET {
        return Err(not_allowed());
    }
    if target.res.measured {
        let read = matches!(method, Method::GET | Method::HEAD) && target.sub.is_empty();
        return if read && *target.res == kinds::CAPSULE {
            capsules::get(cx, &target, &query, accept).await
        } else if read {
            metrics::get(cx, &target, &query).await
        } else {
            Err(not_allowed())
        };
    }
    if method == Method::GET || method == Method::HEAD {
        return match (target.name.as_str(), target.sub.as_str()) {
            ("", _) => read::list(cx, &target, &query, accept),
            (_, "") if target.watch => read::list(cx, &target, &query, accept),
            (_, "scale") if target.res.has_scale => read::scale(cx, &target, &query, accept),
            (_, "approval") if *target.res == kinds::CERTIFICATE_SIGNING_REQUEST => {
                read::get(cx, &target, &query, accept)
            }
            (_, "" | "status") => read::get(cx, &target, &query, accept),
            (_, sub) if podparts::is_part(sub) && target.res.plural == "pods" => {
                read::get(cx, &target, &query, accept)
            }
            (_, "log") => stream::log(cx, &target, &query).await,
            _ => Err(read::unknown_path()),
        };
    }
    let input = write::Input {
        query: &query,
        accept,
        content_type: header(&headers, "content-type"),
        user_agent: header(&headers, "user-agent"),
        body: body::read(request.into_body()).await?,
    };
    if let Some(fill) = target.res.answer {
        let question = method == Method::POST && target.name.is_empty();
        return if question {
            let asker = Asker {
                client: &cx.client,
                user,
                namespace: &target.ns,
            };
            write::answer(&target, &input, &asker, fill)
        } else {
            Err(not_allowed())
        };
    }
    write::check_grant(cx, &target, &input, user, &method).await?;
    match (method.as_str(), target.name.as_str(), target.sub.as_str()) {
        ("POST", _, "token") if target.res.plural == "serviceaccounts" => {
            write::token(cx, &target, &input)
        }
        ("POST", "", "") => write::create(cx, &target, &input, user).await,
        ("PUT" | "PATCH", name, sub) if !name.is_empty() && writable(&target, sub) => {
            if *target.res == kinds::CERTIFICATE_SIGNING_REQUEST {
                certificates::authorize(&cx.client, user, name, sub)?;
            }
            if method == Method::PUT {
                write::update(cx, &target, &input).await
            } else {
                write::patch(cx, &target, &input).await
            }
        }
        ("POST", _, "binding") if target.res.plural == "pods" => {
            write::bind(cx, &target, &input).await
        }
        ("POST", _, "eviction") if target.res.plural == "pods" => {
            write::evict(cx, &target, &input).await
        }
        ("DELETE", "", "") => write::delete_all(cx, &target, &input).await,
        ("DELETE", _, "") => write::delete(cx, &target, &input).await,
        (_, _, sub) if target.res.subresources().all(|s| s.name != sub) && !sub.is_empty() => {
            Err(read::unknown_path())
        }
        _ => Err(not_allowed()),
    }
}

/// Whether PUT and PATCH are served.
fn writable(t: &Target, sub: &str) -> bool {
    match sub {
        "" => true,
        "status" => t.res.has_status,
        "scale" => t.res.has_scale,
        "approval" => *t.res == kinds::CERTIFICATE_SIGNING_REQUEST,
        "finalize" => t.res.plural == "namespaces",
        sub if podparts::is_part(sub) => t.res.plural == "pods",
        _ => false,
    }
}
