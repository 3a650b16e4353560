//! Certificates by the name that a client asks for (SNI).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::Secret;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::table::Table;

/// By host; `*.example.com` under `example.com` of the other map.
#[derive(Debug, Default)]
pub struct Certs {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// Of an entry that names no host.
    any: Option<Arc<CertifiedKey>>,
}

impl Certs {
    /// Takes a Secret's certificate for these hosts; who was first keeps a host.
    pub fn add(&mut self, secret: Option<&Secret>, hosts: &[String]) -> Result<(), String> {
        let key = read(secret.ok_or("not found")?)?;
        if hosts.is_empty() {
            self.any.get_or_insert(key);
            return Ok(());
        }
        for host in hosts {
            let host = host.to_lowercase();
            let map = match host.strip_prefix("*.") {
                Some(rest) => self.wildcard.entry(rest.to_owned()),
                None => self.exact.entry(host),
            };
            map.or_insert_with(|| key.clone());
        }
        Ok(())
    }

    fn find(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let host = host.map(str::to_lowercase);
        let named = host.as_deref().and_then(|host| {
            let wild = || {
                let (_, rest) = host.split_once('.')?;
                self.wildcard.get(rest)
            };
            self.exact.get(host).or_else(wild)
        });
        named.or(self.any.as_ref()).cloned()
    }
}

fn read(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let data = secret.data.as_ref();
    let part = |name: &str| {
        let found = data.and_then(|d| d.get(name));
        found
            .map(|b| b.0.as_slice())
            .ok_or(format!("{name} is missing"))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(part("tls.crt")?).collect();
    let chain = chain.map_err(|e| format!("tls.crt: {e}"))?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(|e| format!("tls.key: {e}"))?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider);
    pair.map(Arc::new)
        .map_err(|e| format!("tls.crt and tls.key: {e}"))
}

/// Answers with what the table has now.
#[derive(Debug)]
struct Resolver {
    table: Arc<RwLock<Arc<Table>>>,
    /// Where there is no certificate for a host: signed by itself, as ingress controllers do.
    fallback: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let found = table.certs.find(hello.server_name());
        Some(found.unwrap_or_else(|| self.fallback.clone()))
    }
}

/// What the TLS listener needs.
pub(super) fn config(table: Arc<RwLock<Arc<Table>>>) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let resolver = Resolver {
        table,
        fallback: fallback(&provider)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn fallback(provider: &rustls::crypto::CryptoProvider) -> anyhow::Result<Arc<CertifiedKey>> {
    let pair = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
    let cert = params.self_signed(&pair)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let chain = vec![cert.der().clone()];
    Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
}
