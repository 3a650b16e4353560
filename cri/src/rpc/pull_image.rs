//! PullImage.

use std::sync::Arc;

use rrun_cri_api::v1;
use rrun_images::{Credentials, ImageId, PullOptions, Reference};
use tokio::sync::oneshot;

use super::image_status::{error, name, parse};
use crate::daemon::Daemon;
use crate::error::{Error, Result};

/// Pulls an image and gives its id.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse> {
    let name = name(request.image)?;
    let reference = parse(&name)?;
    let mut registry = daemon.live().registry(reference.registry())?;
    match credentials(request.auth.unwrap_or_default())? {
        Credentials::FromFiles => {}
        given => registry.credentials = given,
    }
    let options = PullOptions {
        registry,
        policy: daemon.live().policy(),
        ..Default::default()
    };
    let id = pull(daemon.clone(), reference, options).await?;
    Ok(v1::PullImageResponse {
        image_ref: id.to_string(),
    })
}

/// Pulls on a thread of its own, whose work on layers so delays no other call. The pull ends when
/// this future is dropped: its client went away.
async fn pull(daemon: Arc<Daemon>, reference: Reference, options: PullOptions) -> Result<ImageId> {
    let (_alive, gone) = oneshot::channel::<()>();
    let handle = tokio::runtime::Handle::current();
    let thread = tokio::task::spawn_blocking(move || {
        handle.block_on(async {
            tokio::select! {
                result = daemon.images.pull(&reference, &options, Arc::new(())) => {
                    Some(result)
                }
                _ = gone => None,
            }
        })
    });
    let ended = thread.await.map_err(anyhow::Error::from)?;
    let result = ended.ok_or_else(|| anyhow::anyhow!("the pull was given up"))?;
    result.map_err(error)
}

/// What a kubelet found in the pull secrets; without any the configuration's registry is asked,
/// and then the machine's own files.
fn credentials(auth: v1::AuthConfig) -> Result<Credentials> {
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
        assert!(credentials(auth).unwrap() == wanted);
        assert!(credentials(v1::AuthConfig::default()).unwrap() == Credentials::FromFiles);
        let broken = v1::AuthConfig {
            auth: "%".into(),
            ..Default::default()
        };
        assert!(credentials(broken).is_err());
    }
}
