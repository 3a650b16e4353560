//! The HTTP side of the streaming server: a token in the path, an upgrade, a session.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rrun_streaming::server::{self, Upgrade};
use rrun_streaming::{Error, Limits, StreamOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::tokens::Tokens;
use super::{Backend, Waiting, process};

/// Connections at once, sessions included.
const MOST_CONNECTIONS: usize = 1000;
/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is mostly a lack of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// What each connection needs.
pub struct Service {
    /// The containers.
    pub backend: Arc<dyn Backend>,
    /// The requests.
    pub tokens: Arc<Tokens<Waiting>>,
}

/// Serves connections for as long as the process lives.
pub async fn accept(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    serve(stream, service).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accept a streaming connection: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, service: Arc<Service>) {
    // Keystrokes and their echo are small packets.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request| answer(request, service.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!("a streaming connection: {error}");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    service: Arc<Service>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match begin(&mut request, service) {
        Ok(response) => response.map(|()| Full::default()),
        Err(error) => {
            let code = match &error {
                Error::Refused { code, .. } => *code,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let mut response = Response::new(Full::from(format!("{error}\n")));
            *response.status_mut() = code;
            response
        }
    })
}

/// Begins the session of the request's token.
fn begin(request: &mut Request<Incoming>, service: Arc<Service>) -> Result<Response<()>, Error> {
    let path = request.uri().path().to_owned();
    let (kind, token) = path[1..].split_once('/').unwrap_or_default();
    let waiting = service.tokens.take(token).ok_or_else(|| Error::Refused {
        code: StatusCode::NOT_FOUND,
        message: "this URL is unknown, has been used or has expired: ask for a new one".to_owned(),
    })?;
    let limits = Limits::default();
    match waiting {
        Waiting::Exec(exec) if kind == "exec" => {
            let options = options(exec.stdin, exec.stdout, exec.stderr, exec.tty);
            let upgrade = server::remote_command(request, options, &limits)?;
            Ok(start(upgrade, |client| async move {
                match service.backend.exec(exec).await {
                    Ok(session) => process::exec(client, session).await,
                    Err(error) => process::refuse(client, &error).await,
                }
            }))
        }
        Waiting::Attach(attach) if kind == "attach" => {
            let options = options(attach.stdin, attach.stdout, attach.stderr, attach.tty);
            let upgrade = server::remote_command(request, options, &limits)?;
            Ok(start(upgrade, |client| async move {
                match service.backend.attach(attach).await {
                    Ok(session) => process::attach(client, session).await,
                    Err(error) => process::refuse(client, &error).await,
                }
            }))
        }
        Waiting::PortForward(forward) if kind == "portforward" => {
            let ports = ports(&forward.port, request.uri().query());
            let upgrade = server::port_forward(request, &ports, &limits)?;
            Ok(start(upgrade, |client| {
                client.serve(move |port| {
                    let (service, pod) = (service.clone(), forward.pod_sandbox_id.clone());
                    async move {
                        let dialled = service.backend.dial(pod, port).await;
                        dialled.map_err(|error| format!("forward port {port}: {error:#}"))
                    }
                })
            }))
        }
        _ => Err(Error::Refused {
            code: StatusCode::NOT_FOUND,
            message: format!("the token is not for {kind}"),
        }),
    }
}

fn options(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> StreamOptions {
    // A terminal has one output.
    StreamOptions {
        stdin,
        stdout,
        stderr: stderr && !tty,
        tty,
    }
}

/// The ports of the CRI request, or else those of the query `port=80&port=81,82`.
fn ports(asked: &[i32], query: Option<&str>) -> Vec<u16> {
    let asked = asked.iter().filter_map(|port| u16::try_from(*port).ok());
    let mut ports: Vec<u16> = asked.collect();
    if ports.is_empty() {
        let pairs = query.unwrap_or_default().split('&');
        let values = pairs.filter_map(|pair| pair.strip_prefix("port="));
        // What is no port becomes 0, which is refused.
        ports.extend(
            values
                .flat_map(|v| v.split(','))
                .map(|port| port.parse().unwrap_or(0)),
        );
    }
    ports
}

/// Runs a session once the response is out.
fn start<S, F>(upgrade: Upgrade<S>, run: impl FnOnce(S) -> F + Send + 'static) -> Response<()>
where
    S: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let Upgrade { response, session } = upgrade;
    tokio::spawn(async move {
        match session.await {
            Ok(session) => run(session).await,
            Err(error) => {
                let error = anyhow!(error);
                tracing::debug!("begin a streaming session: {error:#}");
            }
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_from_the_request_or_the_query() {
        assert_eq!(ports(&[80], Some("port=81")), [80]);
        assert_eq!(ports(&[], Some("a=b&port=81&port=82,83")), [81, 82, 83]);
        assert_eq!(ports(&[], Some("port=x")), [0]);
        assert!(ports(&[], None).is_empty());
    }

    #[test]
    fn a_terminal_has_one_output() {
        assert!(!options(true, true, true, true).stderr);
        assert!(options(false, true, true, false).stderr);
    }
}
