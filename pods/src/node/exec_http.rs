//! Probes and hooks over HTTP and HTTPS.

use std::pin::pin;
use std::sync::{Arc, LazyLock};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::exec::{Failed, LONGEST_BODY, Place, bracketed, connect, port};

/// The URL that is asked.
pub(super) fn url(place: &Place, get: &HTTPGetAction) -> Result<String, Failed> {
    let port = port(&place.container, &get.port)?;
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&place.ip);
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!(
        "{scheme}://{}:{port}{slash}{path}",
        bracketed(host)
    ))
}

/// GET; the error is what the kubelet would say.
pub(super) async fn http(place: &Place, get: &HTTPGetAction) -> Result<(), Failed> {
    let number = port(&place.container, &get.port)?;
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(&place.ip);
    let url = url(place, get)?;
    let failed = |error: &dyn std::fmt::Display| Failed::Answer(format!("Get \"{url}\": {error}"));
    let stream = connect(host, number).await.map_err(|error| match error {
        Failed::Answer(why) => failed(&why),
        Failed::Unknown(_) => error,
    })?;
    let request =
        request(get, &bracketed(host), number).map_err(|e| Failed::Unknown(e.to_string()))?;
    let code = if get.scheme.as_deref() == Some("HTTPS") {
        let name = server_name(get, host);
        let config = Arc::clone(&UNVERIFIED);
        let stream = TlsConnector::from(config).connect(name, stream).await;
        ask(stream.map_err(|e| failed(&e))?, request).await
    } else {
        ask(stream, request).await
    };
    let code = code.map_err(|e| failed(&e))?;
    if (200..400).contains(&code) {
        return Ok(());
    }
    Err(Failed::Answer(format!(
        "HTTP probe failed with statuscode: {code}"
    )))
}

/// Sends the request and gives the code of the answer, whose body is read and forgotten: a server
/// that cannot finish its answer may take that badly.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<u16, hyper::Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async move {
        let answer = sender.send_request(request).await?;
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LONGEST_BODY);
        drop(body.collect().await);
        Ok(code)
    };
    // In this task, so that a probe that is given up on leaves nothing behind.
    let mut asked = pin!(asked);
    tokio::select! {
        code = &mut asked => code,
        over = connection => match over {
            Ok(()) => asked.await,
            Err(error) => Err(error),
        },
    }
}

/// The name that is asked for in the handshake: that of a Host header, else the host's.
fn server_name(get: &HTTPGetAction, host: &str) -> ServerName<'static> {
    let mut headers = get.http_headers.iter().flatten();
    let named = headers.find(|h| h.name.eq_ignore_ascii_case("host"));
    let named = named.map(|h| h.value.split(':').next().unwrap_or_default().to_owned());
    let name = named.and_then(|name| ServerName::try_from(name).ok());
    let own = || ServerName::try_from(host.to_owned()).ok();
    name.or_else(own)
        .unwrap_or_else(|| ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])))
}

/// Of TLS without a look at the certificate: the kubelet's probes do not verify it either.
static UNVERIFIED: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

/// Takes any certificate; what is signed by it must still be so.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn request(
    get: &HTTPGetAction,
    host: &str,
    port: u16,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut builder = http::Request::get(format!("{slash}{path}"));
    let mut named = false;
    for header in get.http_headers.iter().flatten() {
        named |= header.name.eq_ignore_ascii_case("host");
        builder = builder.header(&header.name, &header.value);
    }
    if !named {
        builder = builder.header("Host", format!("{host}:{port}"));
    }
    builder
        .header("User-Agent", "kube-probe/1.36")
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Empty::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::tls::Authority;
    use crate::node::cri::Cri;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn an_https_probe_asks_over_tls_and_does_not_judge_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let config = authority.server(&[], "cluster.local").unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for code in ["200 OK", "500 No"] {
                let (io, _) = listener.accept().await.unwrap();
                let mut io = acceptor.accept(io).await.unwrap();
                let mut request = vec![0; 4096];
                let length = io.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /ready "));
                let answer = format!("HTTP/1.1 {code}\r\ncontent-length: 0\r\n\r\n");
                io.write_all(answer.as_bytes()).await.unwrap();
                io.shutdown().await.unwrap();
            }
        });
        let place = Place {
            cri: Cri::new("/nonexistent").unwrap(),
            id: String::new(),
            container: k8s_openapi::api::core::v1::Container::default(),
            ip: "127.0.0.1".into(),
        };
        let get = HTTPGetAction {
            path: Some("/ready".into()),
            port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port.into()),
            scheme: Some("HTTPS".into()),
            ..HTTPGetAction::default()
        };
        assert_eq!(http(&place, &get).await, Ok(()));
        let failed = "HTTP probe failed with statuscode: 500".to_owned();
        assert_eq!(http(&place, &get).await, Err(Failed::Answer(failed)));
    }
}
