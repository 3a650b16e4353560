//! Login and logout: credentials verified at the registry, then written where `podman login` and
//! `docker login` write them, so that each tool finds what another stored.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::{Call, Client, credentials};
use crate::{Credentials, Error, Reference, RegistryOptions, Result, files};

const FILE_LIMIT: u64 = 4 << 20;

/// Asks a registry (`host` or `host:port`) whether it takes user name and password, and stores
/// them: with the credential helper that the file names for the registry, else in the file
/// itself, readable by its owner only. Gives where they are now.
///
/// `file` is `$REGISTRY_AUTH_FILE`, else `containers/auth.json` in the runtime directory, where
/// it is `None`. [`Error::Denied`] where the registry refuses them.
pub async fn login(
    registry: &str,
    username: &str,
    password: &str,
    options: &RegistryOptions,
    file: Option<&Path>,
) -> Result<PathBuf> {
    if username.is_empty() || username.contains(':') {
        let why = "is empty or has a colon";
        return Err(Error::document(format!("user name {username:?}"), why));
    }
    let name = registry_name(registry)?;
    let options = RegistryOptions {
        credentials: Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        },
        ..options.clone()
    };
    // A repository is needed to make a client, and none is asked for.
    let reference: Reference = format!("{name}/login").parse()?;
    Client::new(&reference, &options).await?.ping().await?;
    let path = file.map_or_else(credentials::default_file, Path::to_owned);
    let mut config = read(&path)?;
    if let Some(helper) = credentials::helper_of(&path, &name)? {
        credentials::tell_helper(&helper, "store", &stored(&name, username, password))?;
        return Ok(format!("docker-credential-{helper}").into());
    }
    let engine = base64::engine::general_purpose::STANDARD;
    let auth = engine.encode(format!("{username}:{password}"));
    let auths = config.entry("auths").or_insert_with(|| Map::new().into());
    let Value::Object(auths) = auths else {
        let what = path.display().to_string();
        return Err(Error::document(what, "auths is not an object"));
    };
    auths.insert(key_of(&name), serde_json::json!({ "auth": auth }));
    write(&path, &config)?;
    Ok(path)
}

/// Forgets what [`login`] stored for a registry. False where nothing was stored.
pub fn logout(registry: &str, file: Option<&Path>) -> Result<bool> {
    let name = registry_name(registry)?;
    let path = file.map_or_else(credentials::default_file, Path::to_owned);
    let mut config = read(&path)?;
    let mut found = false;
    if let Some(helper) = credentials::helper_of(&path, &name)? {
        credentials::tell_helper(&helper, "erase", &key_of(&name))?;
        found = true;
    }
    let mut removed = false;
    if let Some(Value::Object(auths)) = config.get_mut("auths") {
        for key in credentials::registry_names(&name) {
            removed |= auths.remove(&key).is_some();
        }
    }
    if removed {
        write(&path, &config)?;
    }
    Ok(found || removed)
}

/// What a helper reads for `store`.
fn stored(name: &str, username: &str, password: &str) -> String {
    let value = serde_json::json!({
        "ServerURL": key_of(name), "Username": username, "Secret": password,
    });
    value.to_string()
}

/// Under which name docker and podman look for a registry.
fn key_of(name: &str) -> String {
    match name {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        other => other.to_owned(),
    }
}

/// As a reference has it.
fn registry_name(registry: &str) -> Result<String> {
    let reference: Reference = format!("{registry}/login").parse()?;
    let same = reference.registry() == registry
        || matches!(registry, "index.docker.io" | "registry-1.docker.io");
    if same {
        return Ok(reference.registry().to_owned());
    }
    Err(Error::Reference {
        input: registry.to_owned(),
        why: "write a registry as host or host:port",
    })
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let bytes = files::read_limited(path, FILE_LIMIT)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let what = path.display().to_string();
    serde_json::from_slice(&bytes).map_err(|error| Error::document(what, error))
}

fn write(path: &Path, config: &Map<String, Value>) -> Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        files::create_private(dir)?;
    }
    let bytes = serde_json::to_vec_pretty(config).expect("JSON from JSON");
    files::write_private(path, &bytes)
}

impl Client {
    /// Is the API there, and does it take our credentials? (distribution-spec, end-1)
    async fn ping(&self) -> Result<()> {
        let mut call = Call::new(Method::GET, "/v2/", format!("login to {}", self.registry));
        // No scope: a token for the registry itself.
        call.actions = "";
        let answer = self.call(&call).await?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ => Err(self.unexpected(&call, answer).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logout_takes_only_its_registry_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let text = r#"{"auths":{"r.io":{"auth":"YTpi"},"https://index.docker.io/v1/":{"auth":"YTpi"}},"other":1}"#;
        std::fs::write(&path, text).unwrap();
        assert!(logout("docker.io", Some(&path)).unwrap());
        assert!(!logout("docker.io", Some(&path)).unwrap());
        let left = read(&path).unwrap();
        assert_eq!(left["other"], 1);
        assert_eq!(left["auths"].as_object().unwrap().len(), 1);
        assert!(logout("r.io", Some(&path)).unwrap());
        for bad in ["", "r.io/team", "team", "https://r.io"] {
            assert!(logout(bad, Some(&path)).is_err(), "{bad}");
        }
    }
}
