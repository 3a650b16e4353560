//! Images: pulled by the container's policy, with the credentials of the pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Container, Pod};
use rrun_cri_api::v1 as cri;

use super::cri::Cri;
use super::sources::Sources;

/// Why there is no image: (reason, message).
pub type Refusal = (&'static str, String);

/// What to tell about a pull: (reason, message) of an event.
pub type Note<'a> = &'a (dyn Fn(&str, String) + Send + Sync);

/// Sees to it that images are there; pulls of the same image wait for each other.
#[derive(Clone, Default)]
pub struct Images {
    pulls: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// An image that is there.
#[derive(Clone, Debug)]
pub struct Found {
    /// What to name it by in CreateContainer.
    pub image_ref: String,
    /// The user id that it runs as, where it says so as a number.
    pub uid: Option<i64>,
    /// The user name that it runs as, where it says so by name.
    pub username: String,
}

/// `Always`, `IfNotPresent` or `Never`.
pub fn policy(container: &Container) -> &str {
    if let Some(policy) = container
        .image_pull_policy
        .as_deref()
        .filter(|p| !p.is_empty())
    {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    let tagged = last.contains(':') || last.contains('@');
    if !tagged || last.ends_with(":latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

impl Images {
    /// The image of a container, pulled where its policy says so.
    pub async fn ensure(
        &self,
        cri: &Cri,
        pod: &Pod,
        container: &Container,
        sources: &(impl Sources + Sync),
        sandbox: &cri::PodSandboxConfig,
        note: Note<'_>,
    ) -> Result<Found, Refusal> {
        let image = container.image.clone().unwrap_or_default();
        let policy = policy(container);
        if policy != "Always" {
            if let Some(found) = self.status(cri, &image).await? {
                let there = "already present on machine";
                note("Pulled", format!("Container image \"{image}\" {there}"));
                return Ok(found);
            }
            if policy == "Never" {
                return Err((
                    "ErrImageNeverPull",
                    format!("Container image \"{image}\" is not present with pull policy of Never"),
                ));
            }
        }
        let lock = self.lock(&image);
        let _one_at_a_time = lock.lock().await;
        // Another pod may have pulled it meanwhile.
        if policy != "Always"
            && let Some(found) = self.status(cri, &image).await?
        {
            return Ok(found);
        }
        note("Pulling", format!("Pulling image \"{image}\""));
        let begun = std::time::Instant::now();
        let auth = credentials(pod, &image, sources);
        pull(cri, &image, auth, sandbox).await?;
        let took = begun.elapsed();
        let found = self.status(cri, &image).await?;
        note(
            "Pulled",
            format!("Successfully pulled image \"{image}\" in {took:.3?}"),
        );
        found.ok_or_else(|| {
            (
                "ErrImagePull",
                format!("image \"{image}\" was pulled but is not there"),
            )
        })
    }

    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(image.to_owned()).or_default().clone()
    }

    async fn status(&self, cri: &Cri, image: &str) -> Result<Option<Found>, Refusal> {
        let request = cri::ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        let answer = cri.images().image_status(request).await;
        let answer = answer.map_err(|status| match status.code() {
            tonic::Code::InvalidArgument => (
                "InvalidImageName",
                format!(
                    "Failed to apply default image tag \"{image}\": {}",
                    status.message()
                ),
            ),
            _ => ("ImageInspectError", status.message().to_owned()),
        })?;
        Ok(answer.into_inner().image.map(|found| Found {
            image_ref: found.id,
            uid: found.uid.map(|uid| uid.value),
            username: found.username,
        }))
    }
}

fn spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..cri::ImageSpec::default()
    }
}

/// Tries each set of credentials in turn, and without any where there are none.
async fn pull(
    cri: &Cri,
    image: &str,
    auth: Vec<cri::AuthConfig>,
    sandbox: &cri::PodSandboxConfig,
) -> Result<(), Refusal> {
    let tries: Vec<Option<cri::AuthConfig>> = if auth.is_empty() {
        vec![None]
    } else {
        auth.into_iter().map(Some).collect()
    };
    let mut last = String::new();
    for auth in tries {
        let request = cri::PullImageRequest {
            image: Some(spec(image)),
            auth,
            sandbox_config: Some(sandbox.clone()),
        };
        match cri.images().pull_image(request).await {
            Ok(_) => return Ok(()),
            Err(status) => status.message().clone_into(&mut last),
        }
    }
    Err((
        "ErrImagePull",
        format!("failed to pull image \"{image}\": {last}"),
    ))
}

/// The credentials in the pod's imagePullSecrets that are for the image's registry.
fn credentials(pod: &Pod, image: &str, sources: &impl Sources) -> Vec<cri::AuthConfig> {
    let secrets = pod
        .spec
        .as_ref()
        .and_then(|s| s.image_pull_secrets.as_ref());
    let mut found = Vec::new();
    for reference in secrets.into_iter().flatten() {
        let Some(secret) = sources.secret(&reference.name) else {
            continue;
        };
        let data = super::sources::secret_data(&secret);
        let (auths, bare) = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(json), _) => (json, false),
            (None, Some(json)) => (json, true),
            _ => continue,
        };
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(auths) else {
            continue;
        };
        let auths = if bare { &json } else { &json["auths"] };
        for (registry, entry) in auths.as_object().into_iter().flatten() {
            if matches_registry(image, registry) {
                let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                found.push(cri::AuthConfig {
                    username: text("username"),
                    password: text("password"),
                    auth: text("auth"),
                    identity_token: text("identitytoken"),
                    ..cri::AuthConfig::default()
                });
            }
        }
    }
    found
}

/// Whether a registry of a docker configuration is the image's: the host and, if given, the path.
fn matches_registry(image: &str, registry: &str) -> bool {
    let plain = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let plain = plain
        .strip_suffix("/v1")
        .or(plain.strip_suffix("/v2"))
        .unwrap_or(plain);
    let first = image.split('/').next().unwrap_or_default();
    let named =
        image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    let full = if named {
        image.to_owned()
    } else {
        format!("index.docker.io/{image}")
    };
    let full = full.replacen(
        "docker.io/",
        "index.docker.io/",
        usize::from(full.starts_with("docker.io/")),
    );
    let plain = if plain == "docker.io" {
        "index.docker.io"
    } else {
        plain
    };
    full == plain
        || full
            .strip_prefix(plain)
            .is_some_and(|rest| rest.starts_with(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_follows_the_tag() {
        let of = |image: &str| {
            let container = Container {
                image: Some(image.into()),
                ..Container::default()
            };
            policy(&container).to_owned()
        };
        for always in ["busybox", "127.0.0.1:5000/x", "a/b:latest"] {
            assert_eq!(of(always), "Always", "{always}");
        }
        for once in ["busybox:1", "127.0.0.1:5000/x:v1", "a@sha256:0"] {
            assert_eq!(of(once), "IfNotPresent", "{once}");
        }
    }

    #[test]
    fn credentials_go_to_their_registry_alone() {
        assert!(matches_registry(
            "registry.example/a/b:1",
            "https://registry.example/v1/"
        ));
        assert!(matches_registry("busybox", "https://index.docker.io/v1/"));
        assert!(matches_registry("docker.io/library/busybox", "docker.io"));
        assert!(!matches_registry(
            "registry.example.evil/a",
            "registry.example"
        ));
        assert!(!matches_registry("other/a", "registry.example"));
    }
}
