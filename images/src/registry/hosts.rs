//! Mirrors and connection settings in containerd's format: `<dir>/<registry>/hosts.toml`, else
//! `<dir>/_default/hosts.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result, files};

const FILE_LIMIT: u64 = 1 << 20;

/// One place to ask, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// `https://mirror:5000`, perhaps with a path.
    pub url: String,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    pub ca: Vec<PathBuf>,
    /// Certificate and key; the key may be in the same file.
    pub client: Option<(PathBuf, PathBuf)>,
    pub skip_verify: bool,
    /// The URL's path replaces `/v2`.
    pub override_path: bool,
    pub headers: Vec<(String, String)>,
    /// In place of the reference's, where registries.conf says so.
    pub repository: Option<String>,
    /// Not the registry itself.
    pub mirror: bool,
}

#[derive(Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    server_settings: Settings,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany<PathBuf>,
    client: Client,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `"both.pem"`, `["cert", "key"]` as two files of both, or `[["cert", "key"]]`.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Client {
    #[default]
    None,
    Both(PathBuf),
    Files(Vec<PathBuf>),
    Pairs(Vec<[PathBuf; 2]>),
}

/// The mirrors of a registry, then the registry itself as the file sets it. Empty where there is
/// no file.
pub(super) fn read(dir: &Path, registry: &str) -> Result<Vec<Host>> {
    // A port's colon is not a good part of a directory's name everywhere.
    let names = [
        registry.to_owned(),
        registry.replace(':', "_") + "_",
        "_default".to_owned(),
    ];
    let Some(path) = names
        .iter()
        .map(|name| dir.join(name).join("hosts.toml"))
        .find(|p| p.exists())
    else {
        return Ok(Vec::new());
    };
    let what = path.display().to_string();
    let text = String::from_utf8_lossy(&files::read_limited(&path, FILE_LIMIT)?).into_owned();
    let base = path.parent().unwrap_or(dir);
    parse(&text, registry, base).map_err(|why| Error::document(what, why))
}

fn parse(text: &str, registry: &str, base: &Path) -> Result<Vec<Host>, String> {
    // The order of mirrors is the order of the file, which the table keeps.
    let file: HostsFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut hosts = Vec::new();
    for (url, table) in file.host {
        let settings: Settings = table
            .try_into()
            .map_err(|error| format!("host {url:?}: {}", error.message()))?;
        let mirror = host(url, settings, base)?;
        hosts.push(Host {
            mirror: true,
            ..mirror
        });
    }
    let server = match (file.server, registry) {
        (Some(server), _) => server,
        (None, "docker.io") => "https://registry-1.docker.io".to_owned(),
        (None, registry) => format!("https://{registry}"),
    };
    hosts.push(host(server, file.server_settings, base)?);
    Ok(hosts)
}

fn host(url: String, settings: Settings, base: &Path) -> Result<Host, String> {
    let url = if url.contains("://") {
        url
    } else {
        format!("https://{url}")
    };
    let all = || ["pull", "resolve", "push"].map(str::to_owned).to_vec();
    let capabilities = settings.capabilities.unwrap_or_else(all);
    let can = |name: &str| capabilities.iter().any(|c| c == name);
    let file = |path: PathBuf| base.join(path);
    let client = match settings.client {
        Client::None => None,
        Client::Both(both) => Some((file(both.clone()), file(both))),
        Client::Files(mut files) if files.len() == 1 => {
            let both = file(files.remove(0));
            Some((both.clone(), both))
        }
        Client::Files(files) => match <[PathBuf; 2]>::try_from(files) {
            Ok([certificate, key]) => Some((file(certificate), file(key))),
            Err(_) => return Err(format!("host {url:?}: client: write [[certificate, key]]")),
        },
        Client::Pairs(mut pairs) => match pairs.pop() {
            Some([certificate, key]) if pairs.is_empty() => Some((file(certificate), file(key))),
            _ => return Err(format!("host {url:?}: client: one pair is supported")),
        },
    };
    let headers = settings.header.into_iter();
    let headers = headers.flat_map(|(k, v)| v.into_vec().into_iter().map(move |v| (k.clone(), v)));
    Ok(Host {
        pull: can("pull"),
        resolve: can("resolve"),
        push: can("push"),
        ca: settings.ca.into_vec().into_iter().map(file).collect(),
        client,
        skip_verify: settings.skip_verify,
        override_path: settings.override_path,
        headers: headers.collect(),
        url,
        repository: None,
        mirror: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
            server = "https://registry-1.docker.io"
            ca = "own.pem"
            [host."https://zz.example:5000"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
              client = [["c.pem", "/k.pem"]]
              [host."https://zz.example:5000".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."http://aa.example/prefix"]
              capabilities = ["pull"]
              override_path = true
        "#;
        let hosts = parse(text, "docker.io", Path::new("/d")).unwrap();
        let urls: Vec<_> = hosts.iter().map(|host| host.url.as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://zz.example:5000",
                "http://aa.example/prefix",
                "https://registry-1.docker.io"
            ]
        );
        assert_eq!(hosts[0].client, Some(("/d/c.pem".into(), "/k.pem".into())));
        assert_eq!(hosts[0].headers.len(), 3);
        assert!(hosts[0].skip_verify && !hosts[0].push && hosts[0].resolve);
        assert!(hosts[1].override_path && !hosts[1].resolve);
        assert!(hosts[2].push && hosts[2].ca == [PathBuf::from("/d/own.pem")]);
        let plain = parse("", "r.io", Path::new("/")).unwrap();
        assert_eq!((plain.len(), plain[0].url.as_str()), (1, "https://r.io"));
        assert!(parse("host = 7", "r.io", Path::new("/")).is_err());
    }
}
