//! The certificates of the API.
//!
//! Only the authority is kept, under `<root>/tls`: `ca.crt` and `ca.key`. The server's certificate
//! is made anew at each start and lives in memory; the administrator's is in the kubeconfig, which
//! is written again when it is getting old.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Years that the authority and the server's certificate last. The latter is never older than the
/// process.
const LONG: i32 = 10;
/// After this the administrator's certificate is made anew; it lasts a year more.
const RENEW: Duration = Duration::from_hours(7200);

/// The authority that signs everything.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, common);
    if let Some(o) = organisation {
        dn.push(DnType::OrganizationName, o);
    }
    dn
}

/// Valid from long ago (a machine without a battery wakes up in the past) for some years from now.
fn validity(params: &mut CertificateParams, years: i32) {
    let year = i32::from(
        jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .year(),
    );
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + years, 12, 31);
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("rrun-pods", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    validity(&mut params, LONG);
    params
}

/// Writes a secret file so that it is there whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temp = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temp, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl Authority {
    /// The authority kept in a directory, made when there is none.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let at = |p: &Path| p.display().to_string();
        std::fs::create_dir_all(dir).with_context(|| at(dir))?;
        // The key is written first: without its certificate it counts for nothing.
        if !crt.exists() {
            let pair = KeyPair::generate().context("making a key")?;
            let cert = authority_params()
                .self_signed(&pair)
                .context("signing the authority")?;
            write_secret(&key, &pair.serialize_pem()).with_context(|| at(&key))?;
            write_secret(&crt, &cert.pem()).with_context(|| at(&crt))?;
        }
        let pem = std::fs::read_to_string(&crt).with_context(|| at(&crt))?;
        let pair = std::fs::read_to_string(&key).with_context(|| at(&key))?;
        let pair = KeyPair::from_pem(&pair).with_context(|| at(&key))?;
        Ok(Self {
            issuer: Issuer::new(authority_params(), pair),
            pem,
        })
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What signs.
    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    fn leaf(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        years: i32,
    ) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, years);
        let pair = KeyPair::generate().context("making a key")?;
        let cert = params
            .signed_by(&pair, &self.issuer)
            .context("signing a certificate")?;
        Ok((cert, pair))
    }

    /// What the TLS listener needs; clients may come without a certificate, and are then nobody.
    pub fn server(&self, addresses: &[IpAddr], domain: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let mut names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        names.push(format!("kubernetes.default.svc.{domain}"));
        let mut params = CertificateParams::new(names).context("names of the certificate")?;
        params.distinguished_name = name("rrun-pods-api", None);
        params
            .subject_alt_names
            .extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        let (cert, pair) = self.leaf(params, ExtendedKeyUsagePurpose::ServerAuth, LONG)?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).context("ca.crt")?)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Handshakes on one machine are cheap; remembered sessions are memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Writes the administrator's kubeconfig, unless a fresh one for this server is there.
    pub fn kubeconfig(&self, path: &Path, server: &str) -> anyhow::Result<()> {
        let ca = BASE64.encode(&self.pem);
        if is_fresh(path, &ca, server) {
            return Ok(());
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name("kubernetes-admin", Some("system:masters"));
        let (cert, pair) = self.leaf(params, ExtendedKeyUsagePurpose::ClientAuth, 2)?;
        let (cert, key) = (
            BASE64.encode(cert.pem()),
            BASE64.encode(pair.serialize_pem()),
        );
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: rrun\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: rrun\n  user:\n    \
             client-certificate-data: {cert}\n    client-key-data: {key}\ncontexts:\n- name: rrun\n  \
             context:\n    cluster: rrun\n    user: rrun\ncurrent-context: rrun\n"
        );
        write_secret(path, &text).with_context(|| path.display().to_string())
    }
}

fn is_fresh(path: &Path, ca: &str, server: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else {
        return false;
    };
    let written = std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let age = written.and_then(|t| SystemTime::now().duration_since(t).ok());
    let line = format!("server: {server}");
    text.contains(ca) && text.lines().any(|l| l.trim() == line) && age.is_none_or(|a| a < RENEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_and_the_kubeconfig_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let config = dir.path().join("kubeconfig");
        first.kubeconfig(&config, "https://127.0.0.1:1").unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.pem(), again.pem());
        again.kubeconfig(&config, "https://127.0.0.1:1").unwrap();
        assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
        again.kubeconfig(&config, "https://127.0.0.1:2").unwrap();
        assert_ne!(std::fs::read_to_string(&config).unwrap(), text);
        again
            .server(&["127.0.0.1".parse().unwrap()], "cluster.local")
            .unwrap();
    }
}
