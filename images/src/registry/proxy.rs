//! Proxies, as the environment names them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`,
//! also in lower case. Loopback addresses are always reached directly.

use std::net::IpAddr;

use base64::Engine as _;
use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::transport::Origin;

const ANSWER_LIMIT: usize = 16 << 10;

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    /// `Basic …`
    pub authorization: Option<String>,
}

/// Which proxy serves which origin.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<String>,
    http: Option<String>,
    no_proxy: Vec<String>,
}

impl Proxies {
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var(name).ok())
    }

    fn from_vars(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| {
            let value = get(&name.to_ascii_lowercase()).or_else(|| get(name));
            value.filter(|value| !value.trim().is_empty())
        };
        let all = var("ALL_PROXY");
        let no_proxy = var("NO_PROXY").unwrap_or_default();
        Self {
            https: var("HTTPS_PROXY").or_else(|| all.clone()),
            http: var("HTTP_PROXY").or(all),
            no_proxy: no_proxy
                .split([',', ' '])
                .filter(|entry| !entry.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
        }
    }

    /// The proxy for an origin. The error says why the one that is named cannot be used.
    pub fn choose(&self, origin: &Origin) -> Result<Option<Proxy>, String> {
        let wanted = if origin.tls { &self.https } else { &self.http };
        let Some(text) = wanted else { return Ok(None) };
        if origin.is_loopback() || self.no_proxy.iter().any(|entry| covers(entry, origin)) {
            return Ok(None);
        }
        parse(text).map(Some)
    }
}

fn parse(text: &str) -> Result<Proxy, String> {
    // The text may hold a password.
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let bad = |why: &str| format!("the proxy of the environment {why}");
    let url: Uri = full.parse().map_err(|_| bad("is no URL"))?;
    if url.scheme_str() != Some("http") {
        let scheme = url.scheme_str().unwrap_or_default();
        return Err(bad(&format!(
            "is of kind {scheme:?}: only http is supported"
        )));
    }
    let authority = url.authority().ok_or_else(|| bad("has no host"))?;
    let login = authority.as_str().rsplit_once('@').map(|(login, _)| login);
    let engine = base64::engine::general_purpose::STANDARD;
    let encode = |login: &str| format!("Basic {}", engine.encode(percent_decode(login)));
    Ok(Proxy {
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port: authority.port_u16().unwrap_or(80),
        authorization: login.map(encode),
    })
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    decoded
}

/// `*`, `example.com` (with all below), `.example.com`, an address, a network, each perhaps with
/// a port.
fn covers(entry: &str, origin: &Origin) -> bool {
    let host = origin.host.to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = entry.split_once('/')
        && let (Ok(network), Ok(bits), Some(address)) = (network.parse(), bits.parse(), address)
    {
        return in_network(network, bits, address);
    }
    if let Ok(entry) = entry.parse::<IpAddr>() {
        return address == Some(entry);
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().ok()),
        None => (entry, None),
    };
    if port.is_some_and(|port| port != origin.port) {
        return false;
    }
    let name = name.trim_start_matches('*').trim_start_matches('.');
    let below = || {
        host.strip_suffix(name)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    !name.is_empty() && (host == name || below())
}

fn in_network(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((network, width), (address, other)) = (number(network), number(address));
    let host_bits = width - bits.min(width);
    width == other && (host_bits == 128 || network >> host_bits == address >> host_bits)
}

/// Asks a proxy for a connection to a registry (RFC 9110, 9.3.6).
pub(super) async fn tunnel(
    stream: &mut TcpStream,
    proxy: &Proxy,
    origin: &Origin,
) -> Result<(), String> {
    let host = if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        format!("{}:{}", origin.host, origin.port)
    };
    let login = proxy.authorization.as_ref();
    let login = login.map_or(String::new(), |login| {
        format!("Proxy-Authorization: {login}\r\n")
    });
    let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{login}\r\n");
    let failed = |error: std::io::Error| format!("proxy: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // Byte by byte: what follows the head belongs to TLS.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_LIMIT {
            return Err("proxy: its answer has no end".to_owned());
        }
        head.push(stream.read_u8().await.map_err(failed)?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    match line.split_whitespace().nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => {
            let line: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
            Err(format!("proxy {}:{}: {line:?}", proxy.host, proxy.port))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_environment_says_which_proxy_serves_whom() {
        let vars = |name: &str| {
            let value = match name {
                "HTTPS_PROXY" => "http://user:p%40ss@proxy.lan:3128",
                "http_proxy" => "plain.lan",
                "NO_PROXY" => "corp.example, .sub.example:5000,10.0.0.0/8,192.0.2.7",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let proxies = Proxies::from_vars(&vars);
        let host = |url: &str| proxies.choose(&origin(url)).unwrap().map(|p| p.host);
        assert_eq!(host("https://r.io/"), Some("proxy.lan".into()));
        assert_eq!(host("http://r.io/"), Some("plain.lan".into()));
        for direct in [
            "https://localhost/",
            "https://127.0.0.1:5000/",
            "https://[::1]/",
            "https://corp.example/",
            "https://a.corp.example:7/",
            "https://a.sub.example:5000/",
            "https://10.1.2.3/",
            "https://192.0.2.7/",
        ] {
            assert_eq!(host(direct), None, "{direct}");
        }
        assert!(host("https://a.sub.example/").is_some());
        assert!(host("https://notcorp.example/").is_some());
        let login = proxies.choose(&origin("https://r.io/")).unwrap().unwrap();
        assert_eq!(login.authorization, Some("Basic dXNlcjpwQHNz".into()));
    }

    #[test]
    fn a_proxy_of_another_kind_is_named() {
        let vars = |name: &str| (name == "ALL_PROXY").then(|| "socks5://u:secret@h:1".to_owned());
        let error = Proxies::from_vars(&vars).choose(&origin("https://r.io/"));
        let error = error.unwrap_err();
        assert!(
            error.contains("socks5") && !error.contains("secret"),
            "{error}"
        );
    }
}
