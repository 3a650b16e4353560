//! Blobs and manifests to a registry.

use std::path::Path;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderName, Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::io::AsyncReadExt;

use super::transport::{RequestBody, full};
use super::upload::{self, Upload};
use super::{Call, Client, header, percent_encode};
use crate::{Digest, Error, Result};

const CHUNK: usize = 256 << 10;
const DOCKER_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The registry took note of what the manifest refers to.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const ACTIONS: &str = "pull,push";

/// What is told of the bytes that pass.
pub(crate) type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

impl Client {
    /// True where the repository has the blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(&format!("blobs/{digest}"));
        let call = self.pushing(Method::HEAD, &path, &format!("blob {digest}"));
        let answer = self.call(&call).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.unexpected(&call, answer).await),
        }
    }

    pub(super) fn pushing<'a>(&self, method: Method, path: &'a str, what: &str) -> Call<'a> {
        let mut call = Call::new(method, path, format!("{what} of {}", self.repository));
        call.actions = ACTIONS;
        call
    }

    /// Uploads a blob from a file, unless the registry has it or can take it from another
    /// repository (`from`). Returns true where nothing was sent. `sessions` keeps what a broken
    /// upload of a large blob goes on from.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        file: &Path,
        from: Option<&str>,
        sessions: &Path,
        on_bytes: OnBytes,
    ) -> Result<bool> {
        if self.has_blob(digest).await? {
            return Ok(true);
        }
        let size = upload::size_of(file)?;
        if size > upload::PIECE {
            if let Some(from) = from
                && self.start_upload(digest, Some(from)).await?.is_none()
            {
                return Ok(true);
            }
            let place = format!("{}/{}", self.registry, self.repository);
            let place = Digest::of(place.as_bytes());
            let session = format!("{}.{}.partial", digest.hex(), &place.hex()[..16]);
            let upload = Upload {
                digest,
                file,
                size,
                session: sessions.join(session),
                on_bytes: Arc::clone(&on_bytes),
            };
            if self.upload_pieces(&upload).await? {
                return Ok(false);
            }
        }
        let Some(location) = self.start_upload(digest, from).await? else {
            return Ok(true);
        };
        let target = upload::with_digest(&location, digest);
        let body = || piece_body(std::fs::File::open(file)?, 0, size, Arc::clone(&on_bytes));
        let mut call = self
            .pushing(Method::PUT, &target, &format!("upload of blob {digest}"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size);
        call.body = Some(&body);
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::CREATED {
            return Err(self.unexpected(&call, answer).await);
        }
        Ok(false)
    }

    /// Where to upload to, or `None` where the registry mounted the blob.
    async fn start_upload(&self, digest: &Digest, from: Option<&str>) -> Result<Option<String>> {
        let mut path = self.path("blobs/uploads/");
        if let Some(from) = from {
            let (digest, from) = (percent_encode(digest.as_str()), percent_encode(from));
            let join = if path.contains('?') { '&' } else { '?' };
            path = format!("{path}{join}mount={digest}&from={from}");
        }
        let call = self
            .pushing(Method::POST, &path, &format!("upload of blob {digest}"))
            .header(CONTENT_LENGTH, 0);
        let answer = self.call(&call).await?;
        match answer.status() {
            StatusCode::CREATED => Ok(None),
            StatusCode::ACCEPTED => {
                if let Some(location) = header(answer.headers(), &LOCATION) {
                    Ok(Some(location.to_owned()))
                } else {
                    let why = "the registry gave no Location".to_owned();
                    Err(Error::Registry {
                        registry: self.registry.clone(),
                        what: call.what,
                        why,
                    })
                }
            }
            _ => Err(self.unexpected(&call, answer).await),
        }
    }

    /// Puts a manifest under a tag or digest and verifies what the registry says of it.
    pub async fn push_manifest(
        &self,
        identifier: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let path = self.path(&format!("manifests/{identifier}"));
        let body = || Ok(full(bytes.to_vec()));
        let mut call = self
            .pushing(Method::PUT, &path, &format!("manifest {identifier}"))
            .header(CONTENT_TYPE, media_type)
            .header(CONTENT_LENGTH, bytes.len());
        call.body = Some(&body);
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::CREATED {
            return Err(self.unexpected(&call, answer).await);
        }
        let got =
            header(answer.headers(), &DOCKER_DIGEST).and_then(|text| text.parse::<Digest>().ok());
        let expected = Digest::of(bytes);
        match got.filter(|got| *got != expected) {
            Some(got) => Err(Error::DigestMismatch {
                what: call.what,
                expected,
                got,
            }),
            None if answer.headers().contains_key(OCI_SUBJECT) => Ok(()),
            None => self.note_referrer(media_type, bytes).await,
        }
    }
}

/// A part of a file, read off the runtime's threads.
pub(super) fn piece_body(
    mut file: std::fs::File,
    from: u64,
    length: u64,
    on_bytes: OnBytes,
) -> std::io::Result<RequestBody> {
    use std::io::Seek;
    file.seek(std::io::SeekFrom::Start(from))?;
    let file = tokio::fs::File::from_std(file).take(length);
    let pieces = futures_util::stream::try_unfold((file, on_bytes), |(mut file, on_bytes)| async {
        let mut buffer = vec![0; CHUNK];
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Ok(None);
        }
        buffer.truncate(n);
        on_bytes(n as u64);
        Ok(Some((Frame::data(Bytes::from(buffer)), (file, on_bytes))))
    });
    Ok(BodyExt::boxed(StreamBody::new(Box::pin(pieces))))
}
