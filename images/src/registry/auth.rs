//! Tokens (distribution's token authentication) and the `Authorization` of a request.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{Method, Request};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::transport::{Origin, Transport, empty, full};
use super::{percent_encode, read_body};
use crate::Credentials;

/// Tokens are used until shortly before they expire; a token without a lifetime lives a minute.
const LIFETIME: Duration = Duration::from_mins(1);
const MARGIN: Duration = Duration::from_secs(10);
const TOKEN_LIMIT: u64 = 1 << 20;

/// What a registry has asked for, and the tokens it gave.
pub(super) struct Auth {
    credentials: Credentials,
    known: Mutex<HashMap<String, (String, Option<Instant>)>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Auth {
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            known: Mutex::default(),
        }
    }

    /// The header for a scope, where one was needed before and is still good.
    pub fn header(&self, scope: &str) -> Option<String> {
        let known = self.known.lock().ok()?;
        let (header, until) = known.get(scope)?;
        until
            .is_none_or(|until| Instant::now() < until)
            .then(|| header.clone())
    }

    /// Answers a challenge. The error says why the registry would not be satisfied.
    pub async fn answer(
        &self,
        transport: &Transport,
        allowed: impl Fn(&Origin) -> bool,
        headers: &[String],
        scope: &str,
    ) -> Result<(), String> {
        let offers: Vec<Challenge> = headers.iter().flat_map(|h| challenge::parse(h)).collect();
        let is_bearer = |offer: &&Challenge| matches!(offer, Challenge::Bearer { .. });
        let offer = offers.iter().find(is_bearer).or(offers.first());
        let (header, until) = match offer {
            None => return Err("it offers no known way to log in".into()),
            Some(Challenge::Basic) => (self.basic().ok_or("it wants a login")?, None),
            Some(Challenge::Bearer {
                realm,
                service,
                scope: offered,
            }) => {
                if let Credentials::RegistryToken(token) = &self.credentials {
                    (format!("Bearer {token}"), None)
                } else {
                    let scope = offered.as_deref().unwrap_or(scope);
                    let request = TokenRequest {
                        realm,
                        service: service.as_deref(),
                        scope,
                    };
                    self.token(transport, allowed, &request).await?
                }
            }
        };
        if let Ok(mut known) = self.known.lock() {
            known.insert(scope.to_owned(), (header, until));
        }
        Ok(())
    }

    fn basic(&self) -> Option<String> {
        let Credentials::Basic { username, password } = &self.credentials else {
            return None;
        };
        let engine = base64::engine::general_purpose::STANDARD;
        Some(format!(
            "Basic {}",
            engine.encode(format!("{username}:{password}"))
        ))
    }

    async fn token(
        &self,
        transport: &Transport,
        allowed: impl Fn(&Origin) -> bool,
        wanted: &TokenRequest<'_>,
    ) -> Result<(String, Option<Instant>), String> {
        let realm = wanted.realm;
        let url: http::Uri = realm
            .parse()
            .map_err(|_| format!("token server {realm:?} is no URL"))?;
        let origin = Origin::of(&url).ok_or_else(|| format!("token server {realm:?} is no URL"))?;
        if !origin.tls && !allowed(&origin) {
            return Err(format!("token server {realm} has no TLS"));
        }
        let request = match &self.credentials {
            Credentials::IdentityToken(token) => wanted.refresh(&url, token),
            _ => wanted.get(&url, self.basic()),
        };
        let request = request.map_err(|error| format!("token server {realm}: {error}"))?;
        let answer = transport.send(&origin, request).await;
        let answer = answer.map_err(|why| format!("token server {realm}: {why}"))?;
        let status = answer.status();
        let body = read_body(answer.into_body(), TOKEN_LIMIT).await;
        let body = body.map_err(|why| format!("token server {realm}: {why}"))?;
        if !status.is_success() {
            return Err(format!("token server {realm}: {status}"));
        }
        let parsed: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|error| format!("token server {realm}: {error}"))?;
        let token = if parsed.token.is_empty() {
            parsed.access_token
        } else {
            parsed.token
        };
        if token.is_empty() {
            return Err(format!("token server {realm} gave no token"));
        }
        let lifetime = parsed.expires_in.map_or(LIFETIME, Duration::from_secs);
        Ok((
            format!("Bearer {token}"),
            Some(Instant::now() + lifetime.saturating_sub(MARGIN)),
        ))
    }
}

struct TokenRequest<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: &'a str,
}

impl TokenRequest<'_> {
    fn get(
        &self,
        url: &http::Uri,
        authorization: Option<String>,
    ) -> Result<Request<super::transport::RequestBody>, http::Error> {
        let mut target = url
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let mut join = if target.contains('?') { '&' } else { '?' };
        for (key, value) in [("service", self.service), ("scope", Some(self.scope))] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                target = format!("{target}{join}{key}={}", percent_encode(value));
                join = '&';
            }
        }
        let mut request = Request::builder().method(Method::GET).uri(target);
        if let Some(authorization) = authorization {
            request = request.header(http::header::AUTHORIZATION, authorization);
        }
        request.body(empty())
    }

    /// OAuth2 (RFC 6749, 6): a refresh token for an access token.
    fn refresh(
        &self,
        url: &http::Uri,
        token: &str,
    ) -> Result<Request<super::transport::RequestBody>, http::Error> {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", "rrun-image"),
            ("service", self.service.unwrap_or_default()),
            ("scope", self.scope),
            ("refresh_token", token),
        ];
        let form: Vec<String> = form
            .iter()
            .map(|(key, value)| format!("{key}={}", percent_encode(value)))
            .collect();
        let form = form.join("&");
        Request::builder()
            .method(Method::POST)
            .uri(url.path_and_query().map_or("/", |path| path.as_str()))
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .header(http::header::CONTENT_LENGTH, form.len())
            .body(full(form))
    }
}
