//! Manifests and blobs from a registry.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Bytes;

use super::transport::{Answer, chain};
use super::{Call, Client, Remote, header, pause, read_body, remote};
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::store::DOCUMENT_LIMIT;
use crate::{Digest, Error, Result};

/// A connection that gives nothing for this long is broken off and the rest asked for anew.
const STALL: Duration = Duration::from_secs(30);
/// So is one that gives less than this in a minute: a byte now and then is no transfer.
const LEAST: u64 = 64 << 10;
const WINDOW: Duration = Duration::from_mins(1);

impl Client {
    /// The bytes of a manifest or index, verified where the identifier is a digest.
    pub async fn manifest(&self, identifier: &str) -> Result<Bytes> {
        let path = self.path(&format!("manifests/{identifier}"));
        let separator = if identifier.contains(':') { '@' } else { ':' };
        let what = format!("manifest {}{separator}{identifier}", self.repository);
        let accept = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let call = Call::new(Method::GET, &path, what.clone()).header(ACCEPT, accept);
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.unexpected(&call, answer).await);
        }
        let kind = header(answer.headers(), &CONTENT_TYPE).map(str::to_owned);
        let read = read_body(answer.into_body(), DOCUMENT_LIMIT).await;
        let bytes = read.map_err(|why| self.failed(&what, why))?;
        check_kind(&what, kind.as_deref(), &bytes)?;
        if let Ok(expected) = identifier.parse::<Digest>() {
            verify(&format!("{}: {what}", self.registry), &expected, &bytes)?;
        }
        Ok(bytes)
    }

    /// Reads a small blob whole and verifies it.
    pub async fn document(
        &self,
        mut stream: BlobStream,
        digest: &Digest,
        size: u64,
    ) -> Result<Vec<u8>> {
        let what = format!("{}: blob {digest} of {}", self.registry, self.repository);
        if size > DOCUMENT_LIMIT {
            let why = format!("{size} bytes; a document has at most {DOCUMENT_LIMIT}");
            return Err(Error::document(what, why));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        verify(&what, digest, &bytes)?;
        Ok(bytes)
    }

    fn failed(&self, what: &str, why: String) -> Error {
        Error::Registry {
            registry: self.registry.clone(),
            what: what.to_owned(),
            why,
        }
    }
}

/// A document that says it is something else than the registry says may be read as the one here
/// and as the other there (CVE-2021-41190). Types that name no kind of manifest say nothing.
fn check_kind(what: &str, header: Option<&str>, bytes: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        #[serde(default)]
        media_type: String,
    }
    let told = header.unwrap_or_default().split(';').next();
    let told = told.unwrap_or_default().trim().to_ascii_lowercase();
    // What is no such document is refused where it is read.
    let Ok(Kind { media_type }) = serde_json::from_slice(bytes) else {
        return Ok(());
    };
    let known = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
    if media_type.is_empty() || media_type == told || !known.contains(&told.as_str()) {
        return Ok(());
    }
    let why = format!("the registry says it is {told}, and it says {media_type} itself");
    Err(Error::document(what, why))
}

fn verify(what: &str, expected: &Digest, bytes: &[u8]) -> Result<()> {
    let got = Digest::of(bytes);
    if got == *expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: what.to_owned(),
        expected: expected.clone(),
        got,
    })
}

/// A blob in pieces. A broken transfer goes on where it stopped. The digest is the receiver's
/// to verify; the length is not exceeded.
pub(crate) struct BlobStream {
    remote: Arc<Remote>,
    /// Which of the remote's places is asked.
    place: usize,
    digest: Digest,
    size: u64,
    at: u64,
    /// Where it ends: the size, or the end of a range.
    end: u64,
    body: Option<Answer>,
    /// Attempts since [`LEAST`] came, of which this much is there.
    attempts: u32,
    progress: u64,
    /// When the rate was looked at last, and where that was.
    window: (Instant, u64),
    /// Why the transfer broke last, once.
    broken: Option<String>,
}

impl BlobStream {
    /// Starts at `from`, where earlier bytes are there already. Nothing is sent yet.
    pub fn new(remote: Arc<Remote>, digest: Digest, size: u64, from: u64) -> Self {
        Self {
            remote,
            place: 0,
            digest,
            size,
            at: from,
            end: size,
            body: None,
            attempts: 0,
            progress: 0,
            window: (Instant::now(), from),
            broken: None,
        }
    }

    /// Ends before byte `end`. [`Error::Unsupported`] from a registry that knows no ranges.
    pub fn up_to(self, end: u64) -> Self {
        Self { end, ..self }
    }

    /// Why the transfer was taken up again, since this was asked last.
    pub fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }

    /// The next piece, or `None` when the blob is whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.at < self.end {
            let error = match self.limited_piece().await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Broken::Final(error)) => error,
                Err(Broken::Again(why)) => {
                    self.body = None;
                    self.attempts += 1;
                    self.progress = 0;
                    if self.attempts < self.client().attempts {
                        self.broken = Some(why);
                        tokio::time::sleep(pause(self.attempts)).await;
                        continue;
                    }
                    let (at, size, tries) = (self.at, self.size, self.attempts);
                    let why = format!("{why} (at byte {at} of {size}, {tries} attempts)");
                    self.client().failed(&self.what(), why)
                }
            };
            // The next place goes on where this one stopped.
            if self.place + 1 >= self.remote.clients.len() {
                return Err(error);
            }
            remote::tell(&error);
            self.place += 1;
            self.attempts = 0;
            self.body = None;
            self.broken = Some(error.to_string());
        }
        self.drain().await;
        Ok(None)
    }

    fn client(&self) -> &Client {
        &self.remote.clients[self.place]
    }

    fn what(&self) -> String {
        format!("blob {} of {}", self.digest, self.client().repository)
    }

    /// A registry that drips is given up as one that breaks off is.
    async fn limited_piece(&mut self) -> Result<Bytes, Broken> {
        if self.body.is_none() && self.attempts >= self.client().attempts {
            let why = format!("less than {LEAST} bytes in a minute, again and again");
            return Err(again(why));
        }
        self.piece().await
    }

    async fn piece(&mut self) -> Result<Bytes, Broken> {
        let body = match &mut self.body {
            Some(body) => body,
            none => {
                let client = &self.remote.clients[self.place];
                let body = open(client, &self.digest, self.size, self.at..self.end).await?;
                self.window = (Instant::now(), self.at);
                none.insert(body)
            }
        };
        loop {
            let frame = tokio::time::timeout(STALL, body.frame()).await;
            let frame =
                frame.map_err(|_| again(format!("nothing came for {} s", STALL.as_secs())))?;
            let frame = frame.ok_or_else(|| again("the transfer ended early"))?;
            let frame = frame.map_err(|error| again(chain(&error)))?;
            let Ok(mut bytes) = frame.into_data() else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let left = self.end - self.at;
            if bytes.len() as u64 > left {
                bytes.truncate(left as usize);
                self.body = None;
            }
            self.at += bytes.len() as u64;
            self.progress += bytes.len() as u64;
            if self.progress >= LEAST {
                self.attempts = 0;
            }
            if too_slow(&mut self.window, self.at, Instant::now()) {
                // What came is taken; the next piece comes over a new connection.
                self.body = None;
                self.attempts += 1;
                self.progress = 0;
                self.broken = Some(format!("less than {LEAST} bytes in a minute"));
            }
            return Ok(bytes);
        }
    }

    /// Reads the end of the answer, so that the connection can be used again.
    async fn drain(&mut self) {
        if let Some(mut body) = self.body.take() {
            let _ = tokio::time::timeout(Duration::from_millis(100), body.frame()).await;
        }
    }
}

/// Looks at the rate once in a [`WINDOW`].
fn too_slow(window: &mut (Instant, u64), at: u64, now: Instant) -> bool {
    if now.duration_since(window.0) < WINDOW {
        return false;
    }
    let came = at - window.1;
    *window = (now, at);
    came < LEAST
}

pub(super) enum Broken {
    Again(String),
    Final(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

fn again(why: impl Into<String>) -> Broken {
    Broken::Again(why.into())
}

/// Asks for a part of a blob. A registry that does not know ranges gives it from its start, and
/// what is there already is read over.
async fn open(
    client: &Client,
    digest: &Digest,
    size: u64,
    part: Range<u64>,
) -> Result<Answer, Broken> {
    let (at, last) = (part.start, part.end - 1);
    let to_end = part.end == size;
    let path = client.path(&format!("blobs/{digest}"));
    let what = format!("blob {digest} of {}", client.repository);
    let mut call = Call::new(Method::GET, &path, what);
    match (at, to_end) {
        (0, true) => {}
        (_, true) => call = call.header(RANGE, format!("bytes={at}-")),
        (_, false) => call = call.header(RANGE, format!("bytes={at}-{last}")),
    }
    let answer = client.call(&call).await?;
    match answer.status() {
        StatusCode::OK if !to_end => {
            let what = format!("{}: a range of {}", client.registry, call.what);
            Err(Error::unsupported(what, "it gave the whole").into())
        }
        StatusCode::OK => {
            let mut body = answer.into_body();
            let length = hyper::body::Body::size_hint(&body).exact();
            if let Some(length) = length.filter(|&length| length != size) {
                let what = format!("{}: {}", client.registry, call.what);
                return Err(Error::SizeMismatch {
                    what,
                    expected: size,
                    got: length,
                }
                .into());
            }
            skip(&mut body, at).await?;
            Ok(body)
        }
        StatusCode::PARTIAL_CONTENT => {
            let range = super::header(answer.headers(), &CONTENT_RANGE).unwrap_or_default();
            if range != format!("bytes {at}-{last}/{size}") {
                let why = format!("asked for bytes {at}-{last} of {size}, got {range:?}");
                return Err(client.failed(&call.what, why).into());
            }
            Ok(answer.into_body())
        }
        _ => Err(client.unexpected(&call, answer).await.into()),
    }
}

/// Frames do not end where we want: a piece too long is an error that leads to a fresh start.
async fn skip(body: &mut Answer, mut bytes: u64) -> Result<(), Broken> {
    while bytes > 0 {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let frame = frame.map_err(|_| again("the transfer stalled"))?;
        let frame = frame.ok_or_else(|| again("the transfer ended early"))?;
        let frame = frame.map_err(|error| again(chain(&error)))?;
        if let Ok(mut data) = frame.into_data() {
            let over = data.len() as u64;
            if over > bytes {
                let rest = data.split_off(bytes as usize);
                body.put_back(rest);
                return Ok(());
            }
            bytes -= over;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_drips_is_noticed() {
        let start = Instant::now();
        let mut window = (start, 0);
        assert!(!too_slow(&mut window, 1, start + Duration::from_secs(59)));
        assert!(too_slow(&mut window, 100, start + Duration::from_secs(60)));
        assert!(!too_slow(&mut window, 101, start + Duration::from_secs(61)));
        assert!(!too_slow(
            &mut window,
            LEAST + 100,
            start + Duration::from_secs(121)
        ));
    }
}
