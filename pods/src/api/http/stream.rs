//! log, exec, attach and portforward: what the node agent answers.
//!
//! exec, attach and portforward are relayed byte for byte to the URL that CRI gives: whatever
//! protocol (WebSocket, SPDY) the client and CRI's streaming server agree on passes through.

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Context;
use super::body::{Answer, Body, answer};
use super::query::Query;
use super::route::Target;
use crate::api::node::{ExecOptions, LogOptions, NodeAgent};
use crate::api::status::{Result, Status};
use crate::api::validate::Faults;

pub(super) fn is_stream(t: &Target) -> bool {
    t.res.plural == "pods" && matches!(t.sub.as_str(), "exec" | "attach" | "portforward")
}

fn agent(cx: &Context) -> Result<&dyn NodeAgent> {
    cx.node.as_deref().ok_or_else(|| {
        Status::new(
            503,
            "ServiceUnavailable",
            "the node agent does not run in this process",
        )
    })
}

/// The pod must exist and run somewhere.
fn check(cx: &Context, t: &Target) -> Result<()> {
    let pod = cx.client.get(t.res, &t.ns, &t.name)?;
    if pod.str_at("/spec/nodeName").is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            t.name
        )));
    }
    Ok(())
}

/// `…/log`.
pub(super) async fn log(cx: &Context, t: &Target, query: &Query) -> Result<Answer> {
    check(cx, t)?;
    let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
    let number = |key: &str| Ok(query.int(key)?.and_then(|n| u64::try_from(n).ok()));
    log_faults(t, query)?;
    let options = LogOptions {
        container: text("container"),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines")?,
        since_seconds: number("sinceSeconds")?,
        since_time: query.get("sinceTime").map(str::to_owned),
        limit_bytes: number("limitBytes")?,
        stream: text("stream"),
    };
    let rx = agent(cx)?.logs(&t.ns, &t.name, options).await?;
    Ok(answer(200, "text/plain", Body::Stream(rx)))
}

/// What no log can be asked for, in Kubernetes' words.
fn log_faults(t: &Target, query: &Query) -> Result<()> {
    let mut faults = Faults::default();
    for (key, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(n) = query.int(key)?.filter(|n| *n < least) {
            let than = if least == 0 { "or equal to 0" } else { "0" };
            faults.invalid(key, &n.into(), format!("must be greater than {than}"));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        faults.forbidden("", why);
    }
    match query.get("stream") {
        None | Some("All") => {}
        Some("Stdout" | "Stderr") => {
            if query.get("tailLines").is_some() {
                let why = "`tailLines` and specific `stream` are mutually exclusive for now";
                faults.forbidden("", why);
            }
        }
        Some(other) => faults.unsupported("stream", other, &["All", "Stdout", "Stderr"]),
    }
    if faults.is_empty() {
        return Ok(());
    }
    let causes = faults.into_causes();
    Err(Status::invalid_kind("", "PodLogOptions", &t.name, causes))
}

/// exec, attach, portforward.
pub(super) async fn relay(
    cx: &Context,
    request: Request<Incoming>,
    t: &Target,
    query: &Query,
) -> Result<Answer> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(super::not_allowed());
    }
    check(cx, t)?;
    if !request.headers().contains_key("upgrade") {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let agent = agent(cx)?;
    let url = if t.sub == "portforward" {
        agent.port_forward(&t.ns, &t.name, ports(query)?).await?
    } else {
        let options = ExecOptions {
            container: query.get("container").unwrap_or_default().to_owned(),
            command: query.all("command"),
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            tty: query.flag("tty"),
        };
        if t.sub == "exec" {
            if options.command.is_empty() {
                return Err(Status::bad_request(
                    "you must specify at least 1 command for the container",
                ));
            }
            agent.exec(&t.ns, &t.name, options).await?
        } else {
            agent.attach(&t.ns, &t.name, options).await?
        }
    };
    connect(request, &url)
        .await
        .map_err(|e| Status::internal(format!("relaying to {url}: {e}")))
}

fn ports(query: &Query) -> Result<Vec<u16>> {
    let all = query.all("ports");
    let all = all
        .iter()
        .flat_map(|p| p.split(','))
        .filter(|p| !p.is_empty());
    all.map(|p| {
        p.parse().map_err(|_| {
            Status::bad_request(format!(
                "ports: Invalid value: \"{p}\": must be a port number"
            ))
        })
    })
    .collect()
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Sends the request on as it is and, once both sides have switched protocols, copies bytes.
async fn connect(mut request: Request<Incoming>, url: &str) -> std::result::Result<Answer, Fault> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the URL names no host")?.clone();
    let io = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    io.set_nodelay(true)?;
    let (mut sender, served) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(served.with_upgrades());

    let ours = hyper::upgrade::on(&mut request);
    let mut on = Request::new(Body::Full(bytes::Bytes::new()));
    *on.method_mut() = request.method().clone();
    *on.uri_mut() = uri.path_and_query().map_or("/", |p| p.as_str()).parse()?;
    *on.headers_mut() = request.headers().clone();
    on.headers_mut().remove("content-length");
    on.headers_mut().remove("authorization");
    on.headers_mut().insert("host", authority.as_str().parse()?);

    let mut theirs = sender.send_request(on).await?;
    let mut reply = Response::builder().status(theirs.status());
    if let Some(headers) = reply.headers_mut() {
        *headers = theirs.headers().clone();
    }
    if theirs.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
        let body = super::body::read(theirs.into_body()).await?;
        return Ok(reply.body(Body::Full(body))?);
    }
    // A word beside it (as `close`) makes Go's clients miss the upgrade.
    if let Some(headers) = reply.headers_mut() {
        headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
    }
    let theirs = hyper::upgrade::on(&mut theirs);
    tokio::spawn(async move {
        // The sender keeps the connection's task alive until the upgrade is taken.
        let _sender = sender;
        if let (Ok(a), Ok(b)) = tokio::join!(ours, theirs) {
            let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
            let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
        }
    });
    Ok(reply.body(Body::Full(bytes::Bytes::new()))?)
}
