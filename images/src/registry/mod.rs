//! A client of distribution-spec 1.1: one repository of one registry.

mod auth;
mod challenge;
mod credentials;
mod download;
mod fetch;
mod hosts;
mod login;
mod no_verify;
mod pages;
mod proxy;
mod push;
mod ranges;
mod referrers;
mod registries;
mod remote;
mod subject;
mod tags;
mod transport;
mod upload;
mod warnings;

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Bytes;

use auth::Auth;
use transport::{Answer, Origin, RequestBody, TlsSettings, Transport, empty};

pub(crate) use download::{Download, download};
pub(crate) use fetch::BlobStream;
pub use login::{login, logout};
pub(crate) use ranges::{BlobSource, LARGE};
pub use referrers::{Referrer, referrers};
pub(crate) use remote::Remote;
pub use tags::{delete, tags};

use crate::{Credentials, Error, Reference, RegistryOptions, Result};

/// Attempts of one request, the first included, where nothing else is said.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A registry that asks for a longer pause than this gets an error instead.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
const REDIRECTS: usize = 5;
const ERROR_LIMIT: u64 = 64 << 10;
const AGENT: &str = concat!("rrun-image/", env!("CARGO_PKG_VERSION"));

/// A repository of a registry.
pub(crate) struct Client {
    /// As the reference has it.
    registry: String,
    repository: String,
    origin: Origin,
    /// A loopback registry is asked without TLS first.
    plain: Vec<String>,
    transport: Transport,
    auth: Auth,
    /// What comes before the repository: `/v2`.
    prefix: String,
    /// What comes after a path: `?ns=docker.io` for a mirror.
    query: String,
    headers: Vec<(String, String)>,
    /// Fewer attempts where another place can be asked.
    attempts: u32,
    pulls: bool,
    resolves: bool,
    pushes: bool,
}

/// A request that can be made again.
pub(crate) struct Call<'a> {
    pub method: Method,
    /// Path and query below the registry, or an absolute URL.
    pub target: &'a str,
    pub headers: Vec<(HeaderName, String)>,
    /// Makes the body anew for each attempt.
    pub body: Option<&'a (dyn Fn() -> std::io::Result<RequestBody> + Sync)>,
    /// For messages: "manifest library/busybox:latest".
    pub what: String,
    /// `pull` or `pull,push`.
    pub actions: &'static str,
    /// One attempt only: the caller knows what to do next.
    pub once: bool,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, target: &'a str, what: String) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: None,
            what,
            actions: "pull",
            once: false,
        }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give texts and errors alike"
    )]
    pub fn header(mut self, name: HeaderName, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// What an attempt gave that is no answer.
enum Failure {
    /// Worth another attempt, perhaps after a pause that the registry asked for.
    Again(String, Option<Duration>),
    Final(Error),
}

impl Client {
    pub async fn new(reference: &Reference, options: &RegistryOptions) -> Result<Arc<Self>> {
        let registry = reference.registry().to_owned();
        let credentials = match &options.credentials {
            Credentials::FromFiles => credentials::find(&registry, reference.repository())?,
            other => other.clone(),
        };
        let mut client = Self {
            origin: origin_of(&registry, &options.plain_http)?,
            repository: reference.repository().to_owned(),
            plain: options.plain_http.clone(),
            transport: Transport::new(&TlsSettings {
                ca_files: options.ca_files.clone(),
                ..TlsSettings::default()
            })?,
            auth: Auth::new(credentials),
            registry,
            prefix: "/v2".to_owned(),
            query: String::new(),
            headers: Vec::new(),
            attempts: attempts(options),
            pulls: true,
            resolves: true,
            pushes: true,
        };
        if !client.origin.tls && !client.plain.contains(&client.registry) {
            client.origin.tls = client.loopback_wants_tls().await;
        }
        Ok(Arc::new(client))
    }

    /// A place that hosts.toml names. `mirror` is one before the registry itself.
    fn at_host(
        reference: &Reference,
        options: &RegistryOptions,
        host: &hosts::Host,
        mirror: bool,
    ) -> Result<Self> {
        let bad = |why| Error::Reference {
            input: host.url.clone(),
            why,
        };
        let url: Uri = host
            .url
            .parse()
            .map_err(|_| bad("the host of hosts.toml is no URL"))?;
        let origin = Origin::of(&url).ok_or_else(|| bad("the host of hosts.toml is no URL"))?;
        let repository = host.repository.clone();
        let repository = repository.unwrap_or_else(|| reference.repository().to_owned());
        let credentials = match &options.credentials {
            // Credentials that were given are for the registry, not for its mirrors.
            Credentials::FromFiles => credentials::find(&origin.authority(), &repository)?,
            _ if mirror => credentials::find(&origin.authority(), &repository)?,
            other => other.clone(),
        };
        // Only what containerd's format names is known to understand it.
        let names_registry = mirror && host.repository.is_none();
        let query = if names_registry {
            format!("?ns={}", reference.registry())
        } else {
            String::new()
        };
        Ok(Self {
            registry: origin.authority(),
            repository,
            plain: (!origin.tls)
                .then(|| origin.authority())
                .into_iter()
                .collect(),
            transport: Transport::new(&tls_of(host, options))?,
            auth: Auth::new(credentials),
            prefix: prefix_of(host, &url),
            query,
            headers: host.headers.clone(),
            attempts: if mirror { 2 } else { attempts(options) },
            pulls: host.pull,
            resolves: host.resolve,
            pushes: host.push && !mirror,
            origin,
        })
    }

    /// A loopback registry is asked without TLS; one that has TLS answers 400, or not in HTTP.
    async fn loopback_wants_tls(&self) -> bool {
        let request = Request::builder()
            .uri("/v2/")
            .header(USER_AGENT, AGENT)
            .body(empty());
        let Ok(request) = request else { return false };
        match self.transport.send(&self.origin, request).await {
            Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => true,
            Ok(answer) => {
                let _ = read_body(answer.into_body(), ERROR_LIMIT).await;
                false
            }
            Err(why) => !why.starts_with("connect"),
        }
    }

    /// `/v2/<repository>/<rest>`
    fn path(&self, rest: &str) -> String {
        format!("{}/{}/{rest}{}", self.prefix, self.repository, self.query)
    }

    /// Plain HTTP is spoken to loopback addresses and where the user said so.
    fn allows_plain(&self, origin: &Origin) -> bool {
        origin.is_loopback() || self.plain.contains(&origin.authority())
    }

    /// Makes a request until it is answered: follows redirects and challenges, and tries again
    /// what may pass. Answers of any status but those come back.
    async fn call(&self, call: &Call<'_>) -> Result<Response<Answer>> {
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let (why, asked) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Again(why, asked) => (why, asked),
            };
            let pause = asked.unwrap_or_else(|| pause(attempt));
            if call.once || attempt >= self.attempts || pause > LONGEST_PAUSE {
                let what = format!("{} {} ({attempt} attempts)", call.method, call.what);
                return Err(Error::Registry {
                    registry: self.registry.clone(),
                    what,
                    why,
                });
            }
            tracing::debug!(
                registry = self.registry,
                what = call.what,
                attempt,
                why,
                "trying again"
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response<Answer>, Failure> {
        let scope = if call.actions.is_empty() {
            String::new()
        } else {
            format!("repository:{}:{}", self.repository, call.actions)
        };
        let (mut origin, mut target) = self.resolve(&self.origin, call.target)?;
        let mut challenged = false;
        let mut redirects = 0;
        loop {
            let own = origin == self.origin;
            let authorization = if own { self.auth.header(&scope) } else { None };
            let request = self.request(call, &target, own, authorization)?;
            let sent = self.transport.send(&origin, request).await;
            let answer = sent.map_err(|why| Failure::Again(why, None))?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && own && !challenged {
                challenged = true;
                self.challenge(call, &scope, answer).await?;
            } else if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(self.fail(call, format!("more than {REDIRECTS} redirects")));
                }
                let location = header(answer.headers(), &LOCATION)
                    .unwrap_or_default()
                    .to_owned();
                (origin, target) = self.resolve(&origin, &location)?;
            } else {
                return self.check(call, answer).await;
            }
        }
    }

    fn request(
        &self,
        call: &Call<'_>,
        target: &str,
        own: bool,
        authorization: Option<String>,
    ) -> Result<Request<RequestBody>, Failure> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(target)
            .header(USER_AGENT, AGENT);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        // A redirect's target gets nothing that was meant for the registry.
        if own {
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = match call.body {
            Some(make) => make().map_err(|error| self.fail(call, error.to_string()))?,
            None => empty(),
        };
        request
            .body(body)
            .map_err(|error| self.fail(call, error.to_string()))
    }

    fn fail(&self, call: &Call<'_>, why: String) -> Failure {
        let what = format!("{} {}", call.method, call.what);
        Failure::Final(Error::Registry {
            registry: self.registry.clone(),
            what,
            why,
        })
    }

    /// Where a path, or the absolute URL of a redirect or upload, leads.
    fn resolve(&self, base: &Origin, target: &str) -> Result<(Origin, String), Failure> {
        let refuse = |why: &str| {
            let what = format!("follow {target:?}");
            Failure::Final(Error::Registry {
                registry: self.registry.clone(),
                what,
                why: why.into(),
            })
        };
        if target.starts_with('/') && !target.starts_with("//") {
            return Ok((base.clone(), target.to_owned()));
        }
        let url: Uri = target.parse().map_err(|_| refuse("it is no URL"))?;
        let origin = Origin::of(&url).ok_or_else(|| refuse("it is no http or https URL"))?;
        if !origin.tls && !self.allows_plain(&origin) {
            return Err(refuse("it has no TLS"));
        }
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        Ok((origin, path.to_owned()))
    }

    async fn challenge(
        &self,
        call: &Call<'_>,
        scope: &str,
        answer: Response<Answer>,
    ) -> Result<(), Failure> {
        let headers: Vec<String> = answer
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let _ = read_body(answer.into_body(), ERROR_LIMIT).await;
        let allowed = |origin: &Origin| self.allows_plain(origin);
        self.auth
            .answer(&self.transport, allowed, &headers, scope)
            .await
            .map_err(|detail| Failure::Final(self.denied(call, detail)))
    }

    fn denied(&self, call: &Call<'_>, detail: String) -> Error {
        Error::Denied {
            registry: self.registry.clone(),
            what: call.what.clone(),
            detail,
        }
    }

    async fn check(
        &self,
        call: &Call<'_>,
        answer: Response<Answer>,
    ) -> Result<Response<Answer>, Failure> {
        let status = answer.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let detail = error_text(answer).await;
                Err(Failure::Final(self.denied(call, detail)))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                let asked = retry_after(answer.headers());
                Err(Failure::Again(
                    format!("{status}: {}", error_text(answer).await),
                    asked,
                ))
            }
            _ if status.is_server_error() => {
                let asked = retry_after(answer.headers());
                Err(Failure::Again(
                    format!("{status}: {}", error_text(answer).await),
                    asked,
                ))
            }
            _ => Ok(answer),
        }
    }

    /// The error for an answer whose status is not what the call is for.
    async fn unexpected(&self, call: &Call<'_>, answer: Response<Answer>) -> Error {
        let status = answer.status();
        if status == StatusCode::NOT_FOUND {
            return Error::NotFound {
                registry: self.registry.clone(),
                what: call.what.clone(),
            };
        }
        let why = format!("{status}: {}", error_text(answer).await);
        let what = format!("{} {}", call.method, call.what);
        Error::Registry {
            registry: self.registry.clone(),
            what,
            why,
        }
    }
}

fn origin_of(registry: &str, plain: &[String]) -> Result<Origin> {
    let host = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let bad = || Error::Reference {
        input: registry.to_owned(),
        why: "the registry is not a host name",
    };
    let url: Uri = format!("https://{host}/").parse().map_err(|_| bad())?;
    let mut origin = Origin::of(&url).ok_or_else(bad)?;
    if origin.is_loopback() || plain.iter().any(|listed| listed == registry) {
        origin.tls = false;
        origin.port = url.port_u16().unwrap_or(80);
    }
    Ok(origin)
}

/// What is before `/<repository>` in a host's paths.
fn prefix_of(host: &hosts::Host, url: &Uri) -> String {
    let path = url.path().trim_end_matches('/');
    if host.override_path || path.ends_with("/v2") {
        path.to_owned()
    } else {
        format!("{path}/v2")
    }
}

/// registries.conf has no authorities of its own.
fn tls_of(host: &hosts::Host, options: &RegistryOptions) -> TlsSettings {
    let of_conf = host.repository.is_some();
    TlsSettings {
        ca_files: if of_conf { &options.ca_files } else { &host.ca }.clone(),
        client: host.client.clone(),
        skip_verify: host.skip_verify,
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds, or a date (RFC 9110, 10.2.3), which by our clock may be over.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header(headers, &RETRY_AFTER)?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let pause = date.duration_since(std::time::SystemTime::now());
    Some(pause.unwrap_or_default())
}

/// 1/4 s doubled with each attempt, and by chance between half and one and a half of that, so
/// that many clients do not come back together.
fn pause(attempt: u32) -> Duration {
    let mut chance = [0; 1];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut chance);
    let share = 0.5 + f64::from(chance[0]) / 256.0;
    let pause = FIRST_PAUSE.mul_f64(f64::from(1 << attempt.min(9)) / 2.0 * share);
    pause.min(LONGEST_PAUSE)
}

fn attempts(options: &RegistryOptions) -> u32 {
    match options.attempts {
        0 => ATTEMPTS,
        given => given,
    }
}

/// The body of an answer, refused where it is longer than `limit` bytes.
async fn read_body(body: Answer, limit: u64) -> Result<Bytes, String> {
    let limited = http_body_util::Limited::new(body, limit as usize);
    let read = tokio::time::timeout(Duration::from_mins(1), limited.collect()).await;
    let read = read.map_err(|_| "the answer stalled".to_owned())?;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| error.to_string())
}

/// What a registry says in its error document (distribution-spec, Error Codes).
async fn error_text(answer: Response<Answer>) -> String {
    let Ok(body) = read_body(answer.into_body(), ERROR_LIMIT).await else {
        return String::new();
    };
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let errors = parsed
        .as_ref()
        .and_then(|value| value.get("errors")?.as_array());
    let texts = errors.into_iter().flatten().filter_map(|error| {
        let code = error.get("code")?.as_str()?;
        let message = error
            .get("message")
            .and_then(|m| m.as_str())
            .unwrap_or_default();
        Some(format!("{code} {message}").trim().to_owned())
    });
    let text = texts.collect::<Vec<_>>().join("; ");
    // What another party sends must not steer a terminal.
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// For the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_challenges(text: &str) -> usize {
    challenge::parse(text).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_for_what_is_listed() {
        let plain = ["reg.lan:5000".to_owned()];
        let origin = |registry| origin_of(registry, &plain).unwrap();
        assert!(!origin("127.0.0.1:5000").tls);
        assert!(!origin("[::1]:5000").tls);
        assert!(!origin("localhost:5000").tls);
        assert!(!origin("reg.lan:5000").tls);
        assert!(origin("reg.lan").tls);
        assert!(origin("127.0.0.1.example.com").tls);
        assert_eq!(origin("docker.io").authority(), "registry-1.docker.io");
        assert_eq!(origin("[::1]:5000").authority(), "[::1]:5000");
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_date() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = std::time::SystemTime::now() + Duration::from_secs(30);
        let pause = asked(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(pause > Duration::from_secs(20) && pause <= Duration::from_secs(30));
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for attempt in 1..20 {
            assert!(pause(attempt) <= LONGEST_PAUSE);
        }
        assert!(pause(4) > pause(1));
    }
}
