//! PullImage.

use std::sync::Arc;
use std::time::Duration;

use rrun_cri_api::v1;
use rrun_images::{Credentials, ImageId, PullOptions, Reference};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

use super::image_status::{error, name, parse};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::pulls::Active;

/// Between two lines about a pull.
const PERIOD: Duration = Duration::from_secs(10);

/// Pulls an image and gives its id.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse> {
    let name = name(request.image)?;
    let reference = parse(&name)?;
    let mut registry = daemon.live().registry(reference.registry())?;
    match credentials(request.auth.unwrap_or_default(), reference.registry())? {
        Credentials::FromFiles => {}
        given => registry.credentials = given,
    }
    let options = PullOptions {
        registry,
        policy: daemon.live().policy(),
        ..Default::default()
    };
    let active = daemon.pulls.begin(&name);
    let id = pull(daemon.clone(), reference, options, &active).await?;
    let report = active.report();
    tracing::info!(bytes = report.size, layers = report.layers.len(), "pulled");
    Ok(v1::PullImageResponse {
        image_ref: id.to_string(),
    })
}

/// Pulls on a thread of its own, whose work on layers so delays no other call. The pull ends when
/// this future is dropped: its client went away.
async fn pull(
    daemon: Arc<Daemon>,
    reference: Reference,
    options: PullOptions,
    active: &Active,
) -> Result<ImageId> {
    let sink = Arc::new(active.sink());
    let span = tracing::debug_span!("fetch and unpack");
    let (_alive, gone) = oneshot::channel::<()>();
    let handle = tokio::runtime::Handle::current();
    let thread = tokio::task::spawn_blocking(move || {
        handle.block_on(
            async {
                tokio::select! {
                    result = daemon.images.pull(&reference, &options, sink) => Some(result),
                    _ = gone => None,
                }
            }
            .instrument(span),
        )
    });
    let ended = told(thread, active).await.map_err(anyhow::Error::from)?;
    let result = ended.ok_or_else(|| anyhow::anyhow!("the pull was given up"))?;
    result.map_err(error)
}

/// Waits for the end of a pull, and says from time to time how far it is.
async fn told<T>(thread: JoinHandle<T>, active: &Active) -> std::result::Result<T, JoinError> {
    tokio::pin!(thread);
    loop {
        if let Ok(ended) = tokio::time::timeout(PERIOD, &mut thread).await {
            return ended;
        }
        let report = active.report();
        let (bytes, size, retries) = (report.bytes, report.size, report.retries);
        tracing::info!(bytes, size, retries, "pulling");
    }
}

/// What a kubelet found in the pull secrets; without any the configuration's registry is asked,
/// and then the machine's own files.
fn credentials(auth: v1::AuthConfig, registry: &str) -> Result<Credentials> {
    if !is_for(&auth.server_address, registry) {
        return Ok(Credentials::FromFiles);
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::IdentityToken(auth.identity_token));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::RegistryToken(auth.registry_token));
    }
    if !auth.auth.is_empty() {
        let (username, password) = basic(&auth.auth)
            .ok_or_else(|| Error::invalid("auth.auth is not base64 of user:password"))?;
        return Ok(Credentials::Basic { username, password });
    }
    if auth.username.is_empty() {
        return Ok(Credentials::FromFiles);
    }
    Ok(Credentials::Basic {
        username: auth.username,
        password: auth.password,
    })
}

/// Whether credentials are those of a registry: nobody else gets to see them. Without an address they are
/// of the one that is asked.
fn is_for(address: &str, registry: &str) -> bool {
    let host = |address: &str| {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
        match host.as_str() {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            _ => host,
        }
    };
    address.is_empty() || host(address) == host(registry)
}

fn basic(auth: &str) -> Option<(String, String)> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    // Some tools pad the password with zero bytes.
    Some((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_first_field_that_is_set() {
        let auth = v1::AuthConfig {
            auth: "dXNlcjpwYTpzcw==".into(),
            username: "other".into(),
            ..Default::default()
        };
        let wanted = Credentials::Basic {
            username: "user".into(),
            password: "pa:ss".into(),
        };
        assert!(credentials(auth, "docker.io").unwrap() == wanted);
        let none = credentials(v1::AuthConfig::default(), "docker.io").unwrap();
        assert!(none == Credentials::FromFiles);
        let broken = v1::AuthConfig {
            auth: "%".into(),
            ..Default::default()
        };
        assert!(credentials(broken, "docker.io").is_err());
    }

    #[test]
    fn credentials_of_one_registry_are_not_sent_to_another() {
        let auth = |address: &str| v1::AuthConfig {
            username: "user".into(),
            password: "secret".into(),
            server_address: address.into(),
            ..Default::default()
        };
        for (address, registry, sent) in [
            ("", "quay.io", true),
            ("quay.io", "quay.io", true),
            ("https://quay.io/v2/", "quay.io", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("http://h:5000", "h:5000", true),
            ("h", "h:5000", false),
            ("https://quay.io", "docker.io", false),
            ("quay.io.evil.example", "quay.io", false),
        ] {
            let chosen = credentials(auth(address), registry).unwrap();
            assert_eq!(
                chosen != Credentials::FromFiles,
                sent,
                "{address} {registry}"
            );
        }
    }
}
