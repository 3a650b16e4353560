//! Image references: `[registry/]repository[:tag][@digest]`, normalised as Docker does.
//!
//! `busybox` is `docker.io/library/busybox:latest`. The grammar is that of
//! distribution's `reference` package, which every tool of the field follows.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error};

/// A normalised image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

const DOCKER_HUB: &str = "docker.io";

impl Reference {
    /// Host and port, `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository without the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. `latest` where neither a tag nor a digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, where there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `registry/repository@digest` with the digest given.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What follows `/manifests/` in the registry's API: the digest, else the tag.
    pub fn identifier(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self, Error> {
        parse(input).map_err(|why| Error::Reference {
            input: input.to_owned(),
            why,
        })
    }
}

fn parse(input: &str) -> Result<Reference, &'static str> {
    if input.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match input.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "what follows @ is not a sha256 digest")?;
            (rest, Some(digest))
        }
        None => (input, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(checked_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, repository) = split_registry(name);
    let registry = checked_registry(registry)?;
    let repository = checked_repository(&registry, repository)?;
    let tag = match (&digest, tag) {
        (None, None) => Some("latest".to_owned()),
        (_, tag) => tag,
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// The first part is a registry where it could not be a part of a repository's name.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn checked_registry(registry: &str) -> Result<String, &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("the registry's [ has no ]")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what is in [] is not an IPv6 address");
            }
            (host, after.strip_prefix(':'))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("the registry's port is not a number up to 65535");
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !registry.starts_with('[') && !host.split('.').all(label) {
        return Err("the registry is not a host name");
    }
    Ok(match registry {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    })
}

fn checked_repository(registry: &str, repository: &str) -> Result<String, &'static str> {
    if repository.is_empty() {
        return Err("the repository is missing");
    }
    let repository = if registry == DOCKER_HUB && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    if registry.len() + 1 + repository.len() > 255 {
        return Err("registry and repository are longer than 255 characters");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if !repository.split('/').all(is_path_component) {
        return Err("the repository may only have a-z, 0-9 and single separators . _ __ - between");
    }
    Ok(repository)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

/// `[\w][\w.-]{0,127}`
fn checked_tag(tag: &str) -> Result<String, &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    if bytes.is_empty() || bytes.len() > 128 || !word(bytes[0]) {
        return Err("a tag has 1 to 128 characters and starts with a letter, a digit or _");
    }
    if !bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-') {
        return Err("a tag may only have letters, digits, _ . and -");
    }
    Ok(tag.to_owned())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_docker_does() {
        let empty = Digest::of(b"");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("localhost/app", "localhost/app:latest"),
            (
                "127.0.0.1:5000/a/b-c__d.e:T_1",
                "127.0.0.1:5000/a/b-c__d.e:T_1",
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("REG/app", "REG/app:latest"),
            ("quay.io/a---b/c", "quay.io/a---b/c:latest"),
        ];
        for (input, want) in cases {
            assert_eq!(
                input.parse::<Reference>().unwrap().to_string(),
                want,
                "{input}"
            );
        }
        let by_digest: Reference = format!("busybox@{empty}").parse().unwrap();
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.identifier(), empty.as_str());
        let both: Reference = format!("busybox:1@{empty}").parse().unwrap();
        assert_eq!((both.tag(), both.identifier()), (Some("1"), empty.as_str()));
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "a".repeat(300);
        let bad = [
            "",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "host:99999/a",
            "ho st/a",
            "a___b",
            "[::1/a",
            "a.b/",
            "a:b:c",
            long.as_str(),
            "a/../b",
        ];
        for input in bad {
            assert!(input.parse::<Reference>().is_err(), "{input}");
        }
    }
}
