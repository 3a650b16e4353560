//! A file from any URL, for ADD in a Dockerfile.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::header::LAST_MODIFIED;
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt;

use super::fetch::Broken;
use super::transport::{TlsSettings, chain};
use super::{Auth, Call, Client, Origin, Transport, attempts, header, pause};
use crate::error::FileContext;
use crate::{Credentials, Digest, Error, Hasher, RegistryOptions, Result};

/// Longest time without a byte.
const STALL: Duration = Duration::from_secs(30);

/// What to fetch.
pub(crate) struct Download<'a> {
    /// http or https.
    pub url: &'a str,
    /// A file, which is made or replaced.
    pub to: &'a Path,
    /// Bytes.
    pub limit: u64,
    /// http is allowed; else only of loopback addresses and registries that have no TLS.
    pub plain: bool,
}

/// What came.
pub(crate) struct Downloaded {
    pub digest: Digest,
    pub modified: Option<SystemTime>,
}

/// Fetches a file without credentials. Redirects are followed, from TLS only to TLS; what breaks
/// off is begun again, as often as the options say.
pub(crate) async fn download(job: &Download<'_>, options: &RegistryOptions) -> Result<Downloaded> {
    let bad = |why| Error::Reference {
        input: job.url.to_owned(),
        why,
    };
    let url: Uri = job.url.parse().map_err(|_| bad("it is no URL"))?;
    let origin = Origin::of(&url).ok_or_else(|| bad("it is no http or https URL"))?;
    let client = Client::of_origin(origin, options, job.plain)?;
    if !client.origin.tls && !client.allows_plain(&client.origin) {
        return Err(bad(
            "it has no TLS: give --checksum=sha256:… or an https URL",
        ));
    }
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut attempt = 1;
    loop {
        match client.file(path, job).await {
            Ok(downloaded) => return Ok(downloaded),
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Again(why)) if attempt >= client.attempts => {
                return Err(Error::Registry {
                    registry: client.registry,
                    what: format!("GET {} ({attempt} attempts)", job.url),
                    why,
                });
            }
            Err(Broken::Again(_)) => {
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}

impl Client {
    /// A server of files.
    fn of_origin(origin: Origin, options: &RegistryOptions, plain: bool) -> Result<Self> {
        let authority = origin.authority();
        let mut allowed = options.plain_http.clone();
        if plain && !origin.tls {
            allowed.push(authority.clone());
        }
        Ok(Self {
            registry: authority,
            repository: String::new(),
            plain: allowed,
            transport: Transport::new(&TlsSettings {
                ca_files: options.ca_files.clone(),
                ..TlsSettings::default()
            })?,
            auth: Auth::new(Credentials::Anonymous),
            prefix: String::new(),
            query: String::new(),
            headers: Vec::new(),
            attempts: attempts(options),
            pulls: true,
            resolves: true,
            pushes: false,
            origin,
        })
    }

    async fn file(&self, path: &str, job: &Download<'_>) -> Result<Downloaded, Broken> {
        let mut call = Call::new(Method::GET, path, job.url.to_owned());
        call.actions = "";
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.unexpected(&call, answer).await.into());
        }
        let modified = header(answer.headers(), &LAST_MODIFIED);
        let modified = modified.and_then(|text| httpdate::parse_http_date(text).ok());
        let mut body = answer.into_body();
        let mut file = File::create(job.to).at("create", job.to)?;
        let (mut hasher, mut bytes) = (Hasher::default(), 0);
        while let Some(frame) = tokio::time::timeout(STALL, body.frame())
            .await
            .map_err(|_| Broken::Again(format!("nothing came for {} s", STALL.as_secs())))?
        {
            let frame = frame.map_err(|error| Broken::Again(chain(&error)))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            bytes += data.len() as u64;
            if bytes > job.limit {
                let why = format!("longer than {} bytes", job.limit);
                return Err(Error::document(job.url, why).into());
            }
            hasher.update(&data);
            file.write_all(&data).at("write", job.to)?;
        }
        Ok(Downloaded {
            digest: hasher.finish().0,
            modified,
        })
    }
}
