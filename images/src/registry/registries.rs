//! Mirrors, rewrites and blocks in the containers format: `registries.conf`(5), version 2.
//!
//! Short names are not resolved by it: a name without a registry is Docker Hub's here.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hosts::Host;
use super::transport::Origin;
use crate::{Error, Reference, Result, files};

const FILE_LIMIT: u64 = 1 << 20;

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Registry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// The files that hold for this user: `$CONTAINERS_REGISTRIES_CONF`, else the user's own, else
/// the machine's; then those of `registries.conf.d` by name.
fn machine_files() -> Vec<PathBuf> {
    let set = std::env::var_os("CONTAINERS_REGISTRIES_CONF").filter(|v| !v.is_empty());
    if let Some(path) = set {
        return vec![path.into()];
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/containers"));
    let root = PathBuf::from("/etc/containers");
    let dirs: Vec<PathBuf> = [Some(root), home].into_iter().flatten().collect();
    let mut paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.join("registries.conf")).collect();
    paths.retain(|path| path.exists());
    let mut paths: Vec<PathBuf> = paths.pop().into_iter().collect();
    for dir in dirs {
        let entries = std::fs::read_dir(dir.join("registries.conf.d"));
        let mut more: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "conf"))
            .collect();
        more.sort();
        paths.extend(more);
    }
    paths
}

/// Where a reference is asked for: mirrors, then the registry. Empty where no file speaks of it.
pub(super) fn read(conf: Option<&Path>, reference: &Reference) -> Result<Vec<Host>> {
    let files = conf.map_or_else(machine_files, |path| vec![path.to_owned()]);
    let mut registries: Vec<Registry> = Vec::new();
    for path in files {
        let what = path.display().to_string();
        let text = files::read_limited(&path, FILE_LIMIT)?;
        let text = String::from_utf8_lossy(&text);
        let file: File =
            toml::from_str(&text).map_err(|error| Error::document(&what, error.message()))?;
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.prefix.is_empty() {
                return Err(Error::document(
                    &what,
                    "[[registry]] without prefix and location",
                ));
            }
            // A later file's entry replaces an earlier one's.
            registries.retain(|known| known.prefix != registry.prefix);
            registries.push(registry);
        }
    }
    places(&registries, reference)
}

fn places(registries: &[Registry], reference: &Reference) -> Result<Vec<Host>> {
    let name = reference.name();
    let matching = registries.iter().filter_map(|registry| {
        let rest = after_prefix(&registry.prefix, &name)?;
        Some((registry, rest))
    });
    let Some((registry, rest)) = matching.max_by_key(|(registry, _)| registry.prefix.len()) else {
        return Ok(Vec::new());
    };
    if registry.blocked {
        return Err(Error::Rejected {
            image: reference.to_string(),
            why: format!("registries.conf blocks {}", registry.prefix),
        });
    }
    let mut hosts = Vec::new();
    for mirror in &registry.mirror {
        let which = match mirror.pull_from_mirror.as_str() {
            "" if registry.mirror_by_digest_only => "digest-only",
            which => which,
        };
        let digest = reference.digest().is_some();
        let wanted = match which {
            "" | "all" => true,
            "digest-only" => digest,
            "tag-only" => !digest,
            other => {
                let what = format!("registries.conf: mirror {}", mirror.location);
                let why =
                    format!("pull-from-mirror is all, digest-only or tag-only, not {other:?}");
                return Err(Error::document(what, why));
            }
        };
        if wanted {
            let name = format!("{}{rest}", mirror.location);
            add(&mut hosts, &name, mirror.insecure, true)?;
        }
    }
    let location = if registry.location.is_empty() {
        name.clone()
    } else {
        format!("{}{rest}", registry.location)
    };
    add(&mut hosts, &location, registry.insecure, false)?;
    Ok(hosts)
}

/// What follows a prefix, which ends where a part of the name ends. `*.example.com` stands for
/// every host below, and gives its own name back.
fn after_prefix<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split('/').next()?;
        return host.ends_with(domain).then(|| &name[host.len()..]);
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// One place, or two where TLS need not be: without a good certificate, then without TLS.
fn add(hosts: &mut Vec<Host>, name: &str, insecure: bool, mirror: bool) -> Result<()> {
    let bad = || {
        Error::document(
            "registries.conf",
            format!("location {name:?} is not a host"),
        )
    };
    let (host, repository) = name.split_once('/').ok_or_else(bad)?;
    let host = if host == "docker.io" {
        "registry-1.docker.io"
    } else {
        host
    };
    let url = |scheme: &str| format!("{scheme}://{host}");
    let parsed: http::Uri = url("https").parse().map_err(|_| bad())?;
    let loopback = Origin::of(&parsed).ok_or_else(bad)?.is_loopback();
    let place = |scheme: &str| Host {
        url: url(scheme),
        pull: true,
        resolve: true,
        push: !mirror,
        skip_verify: insecure,
        repository: Some(repository.to_owned()),
        mirror,
        ..Host::default()
    };
    if !loopback {
        hosts.push(place("https"));
    }
    if loopback || insecure {
        hosts.push(place("http"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, name: &str) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let hosts = read(Some(&path), &name.parse().unwrap())?;
        Ok(hosts
            .iter()
            .map(|h| format!("{}/{}", h.url, h.repository.as_deref().unwrap()))
            .collect())
    }

    #[test]
    fn the_longest_prefix_decides_and_mirrors_come_first() {
        let text = r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub"
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "docker.io/library/secret"
            blocked = true
            [[registry]]
            prefix = "*.corp.example"
            location = "proxy.example/corp"
            insecure = true
        "#;
        assert_eq!(
            asked(text, "busybox").unwrap(),
            [
                "https://mirror.example/hub/library/busybox",
                "https://registry-1.docker.io/library/busybox"
            ]
        );
        assert_eq!(
            asked(text, "a.corp.example/team/app:1").unwrap(),
            [
                "https://proxy.example/corp/team/app",
                "http://proxy.example/corp/team/app"
            ]
        );
        assert!(asked(text, "quay.io/a").unwrap().is_empty());
        assert!(asked(text, "docker.iox/a").unwrap().is_empty());
        let error = asked(text, "secret:1").unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{error}");
        let digest = format!("busybox@{}", crate::Digest::of(b""));
        assert_eq!(asked(text, &digest).unwrap().len(), 3);
    }

    #[test]
    fn broken_files_are_errors() {
        for text in [
            "[[registry]]\ninsecure = true",
            "[[registry",
            "registry = 7",
        ] {
            assert!(asked(text, "busybox").is_err(), "{text}");
        }
    }
}
