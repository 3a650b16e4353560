//! Credentials from the files that `docker login` and `podman login` write.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde::Deserialize;

use crate::error::FileContext;
use crate::{Credentials, Error, Result, files};

const FILE_LIMIT: u64 = 4 << 20;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    basic: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Looks through the files in the order of containers-auth.json(5), docker's last. `repository`
/// lets an entry be for a part of a registry.
pub(super) fn find(registry: &str, repository: &str) -> Result<Credentials> {
    for path in paths() {
        if !path.exists() {
            continue;
        }
        let what = path.display().to_string();
        let config = read(&path)?;
        if let Some(credentials) = of_file(&what, &config, registry, repository)? {
            return Ok(credentials);
        }
    }
    Ok(Credentials::Anonymous)
}

fn paths() -> Vec<PathBuf> {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = var("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let mut paths = Vec::new();
    if let Some(dir) = var("XDG_RUNTIME_DIR") {
        paths.push(dir.join("containers/auth.json"));
    } else {
        let uid = rustix::process::getuid().as_raw();
        paths.push(format!("/run/containers/{uid}/auth.json").into());
    }
    let home = var("HOME");
    let config = var("XDG_CONFIG_HOME").or(home.as_ref().map(|home| home.join(".config")));
    paths.extend(config.map(|dir| dir.join("containers/auth.json")));
    let docker = var("DOCKER_CONFIG").or(home.map(|home| home.join(".docker")));
    paths.extend(docker.map(|dir| dir.join("config.json")));
    paths
}

/// Where a login is written: the first file that is read.
pub(super) fn default_file() -> PathBuf {
    paths().swap_remove(0)
}

/// The helper that a file names for a registry.
pub(super) fn helper_of(path: &Path, registry: &str) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let config = read(path)?;
    let names = registry_names(registry);
    let own = names.iter().find_map(|name| config.cred_helpers.get(name));
    let all = Some(&config.creds_store).filter(|name| !name.is_empty());
    Ok(own.or(all).cloned())
}

fn read(path: &Path) -> Result<ConfigFile> {
    let what = path.display().to_string();
    let bytes = files::read_limited(path, FILE_LIMIT)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(ConfigFile::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::document(what, error))
}

/// The names of a registry itself.
pub(super) fn registry_names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    names.extend([format!("https://{registry}"), format!("http://{registry}")]);
    if registry == "docker.io" {
        let hub = [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "registry-1.docker.io",
        ];
        names.extend(hub.map(str::to_owned));
    }
    names
}

/// The names under which a registry may be listed, the most exact first.
fn names(registry: &str, repository: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut path = format!("{registry}/{repository}");
    while let Some((parent, _)) = path.rsplit_once('/') {
        names.push(path.clone());
        path = parent.to_owned();
    }
    names.extend(registry_names(registry));
    names
}

fn of_file(
    what: &str,
    config: &ConfigFile,
    registry: &str,
    repository: &str,
) -> Result<Option<Credentials>> {
    for name in names(registry, repository) {
        if let Some(helper) = config.cred_helpers.get(&name) {
            return ask_helper(helper, &name);
        }
        if let Some(auth) = config.auths.get(&name)
            && let Some(credentials) = of_auth(what, &name, auth)?
        {
            return Ok(Some(credentials));
        }
    }
    if config.creds_store.is_empty() {
        return Ok(None);
    }
    let server = if registry == "docker.io" {
        "https://index.docker.io/v1/"
    } else {
        registry
    };
    ask_helper(&config.creds_store, server)
}

fn of_auth(what: &str, name: &str, auth: &Auth) -> Result<Option<Credentials>> {
    if !auth.identitytoken.is_empty() {
        return Ok(Some(Credentials::IdentityToken(auth.identitytoken.clone())));
    }
    if !auth.registrytoken.is_empty() {
        return Ok(Some(Credentials::RegistryToken(auth.registrytoken.clone())));
    }
    if !auth.basic.is_empty() {
        return Credentials::from_auth(&auth.basic)
            .map(Some)
            .ok_or_else(|| {
                Error::document(
                    what,
                    format!("auths.{name:?}.auth is not base64 of user:password"),
                )
            });
    }
    if auth.username.is_empty() {
        return Ok(None);
    }
    let (username, password) = (auth.username.clone(), auth.password.clone());
    Ok(Some(Credentials::Basic { username, password }))
}

impl Credentials {
    /// From base64 of `user:password`, as docker's files and CRI's AuthConfig have it.
    pub fn from_auth(auth: &str) -> Option<Self> {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(auth.trim())
            .ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        Some(Self::Basic {
            username: username.to_owned(),
            password,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Runs `docker-credential-<helper> get`.
fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{helper}");
    let Some(text) = tell_helper(helper, "get", server)? else {
        return Ok(None);
    };
    let answer: HelperAnswer =
        serde_json::from_str(&text).map_err(|error| Error::document(program, error))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Basic {
            username: answer.username,
            password: answer.secret,
        },
    }))
}

/// Runs `docker-credential-<helper> <verb>` and gives what it prints; `None` where it has no
/// credentials.
pub(super) fn tell_helper(helper: &str, verb: &str, input: &str) -> Result<Option<String>> {
    let program = format!("docker-credential-{helper}");
    let path = PathBuf::from(&program);
    if helper.contains('/') {
        let why = "the name of a credential helper has no /";
        return Err(Error::document(program, why));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .at("run", &path)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read has its own reasons, which its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().at("run", &path)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(Some(text));
    }
    if text.contains("credentials not found") {
        return Ok(None);
    }
    let why = format!("{verb}: {}: {}", output.status, text.trim());
    Err(Error::document(program, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_entry_of_a_file_wins() {
        let text = r#"{"auths":{"r.io":{"auth":"dTpw"},"r.io/team":{"username":"t","password":"q"},
            "https://index.docker.io/v1/":{"identitytoken":"tok"},"bad.io":{"auth":"%"}}}"#;
        let config: ConfigFile = serde_json::from_str(text).unwrap();
        let find = |registry, repository| of_file("f", &config, registry, repository);
        let basic = |u: &str, p: &str| {
            Some(Credentials::Basic {
                username: u.into(),
                password: p.into(),
            })
        };
        assert!(find("r.io", "app").unwrap() == basic("u", "p"));
        assert!(find("r.io", "team/app").unwrap() == basic("t", "q"));
        let hub = find("docker.io", "library/busybox").unwrap();
        assert!(hub == Some(Credentials::IdentityToken("tok".into())));
        assert!(find("other.io", "a").unwrap().is_none());
        assert!(find("bad.io", "a").is_err());
    }
}
