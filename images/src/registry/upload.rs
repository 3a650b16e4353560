//! Large blobs to a registry in pieces (distribution-spec, Pushing a blob in chunks), so that a
//! broken upload goes on where it stopped, also after a restart of ours.
//!
//! ```text
//! POST ─▶ PATCH ─▶ PATCH … ─▶ PUT
//!           │ broken: GET the session; it says how much the registry has
//!           └ session gone, or the registry lost count: POST again, from the start
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::push::{OnBytes, piece_body};
use super::{Client, header, pause, percent_encode};
use crate::error::FileContext;
use crate::{Digest, Error, Result, files};

/// Blobs above this size go in pieces of this size. Smaller ones cost one request less whole.
pub(super) const PIECE: u64 = 32 << 20;
const MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const FORMAT_VERSION: u32 = 1;
const SESSION_LIMIT: u64 = 64 << 10;

/// A blob on its way.
pub(crate) struct Upload<'a> {
    pub digest: &'a Digest,
    pub file: &'a Path,
    pub size: u64,
    /// Keeps the session for a later attempt.
    pub session: PathBuf,
    pub on_bytes: OnBytes,
}

/// An upload that the registry knows, and how many bytes it has.
struct Session {
    location: String,
    at: u64,
    piece: u64,
}

impl Session {
    fn keep(&self, upload: &Upload<'_>) -> Result<()> {
        let kept = Kept {
            version: FORMAT_VERSION,
            location: self.location.clone(),
            piece: self.piece,
        };
        let bytes = serde_json::to_vec(&kept).expect("the session is plain");
        files::write_atomic(&upload.session, &bytes)
    }
}

/// `ingest/<digest>.<registry and repository>.partial`
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    location: String,
    piece: u64,
}

/// Why a piece was not taken.
enum Refused {
    /// Ask the registry how far it came.
    Broken(String),
    /// It takes no pieces: send all at once.
    Whole,
    Final(Error),
}

impl Client {
    /// Sends a blob in pieces. False where the registry takes no pieces: nothing is there then.
    pub(super) async fn upload_pieces(&self, upload: &Upload<'_>) -> Result<bool> {
        let mut session = self.kept_session(upload).await;
        let mut attempts = 0;
        loop {
            let current = match session.take() {
                Some(session) => session,
                None => self.new_session(upload).await?,
            };
            let ended = self.go_on(upload, current, &mut attempts).await;
            let why = match ended {
                Ok(()) => {
                    files::remove_all(&upload.session)?;
                    return Ok(true);
                }
                Err(Refused::Whole) => {
                    files::remove_all(&upload.session)?;
                    return Ok(false);
                }
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::Broken(why)) => why,
            };
            attempts += 1;
            if attempts >= self.attempts {
                return Err(Error::Registry {
                    registry: self.registry.clone(),
                    what: format!("{} ({attempts} attempts)", self.upload_name(upload)),
                    why,
                });
            }
            tracing::debug!(attempts, why, "upload broken");
            tokio::time::sleep(pause(attempts)).await;
            session = self.kept_session(upload).await;
        }
    }

    fn upload_name(&self, upload: &Upload<'_>) -> String {
        format!("upload of blob {} of {}", upload.digest, self.repository)
    }

    async fn new_session(&self, upload: &Upload<'_>) -> Result<Session> {
        let path = self.path("blobs/uploads/");
        let call = self
            .pushing(
                Method::POST,
                &path,
                &format!("upload of blob {}", upload.digest),
            )
            .header(CONTENT_LENGTH, 0);
        let answer = self.call(&call).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.unexpected(&call, answer).await);
        }
        let minimum = header(answer.headers(), &MIN_LENGTH).and_then(|text| text.parse().ok());
        let location = header(answer.headers(), &LOCATION).map(str::to_owned);
        let location = location.ok_or_else(|| Error::Registry {
            registry: self.registry.clone(),
            what: call.what.clone(),
            why: "the registry gave no Location".to_owned(),
        })?;
        Ok(Session {
            location,
            at: 0,
            piece: PIECE.max(minimum.unwrap_or(0)),
        })
    }

    /// The session of an earlier attempt, where the registry still has it.
    async fn kept_session(&self, upload: &Upload<'_>) -> Option<Session> {
        let bytes = files::read_limited(&upload.session, SESSION_LIMIT).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        if kept.version != FORMAT_VERSION {
            return None;
        }
        let mut call = self.pushing(Method::GET, &kept.location, &self.upload_name(upload));
        call.once = true;
        let answer = self.call(&call).await.ok()?;
        let known = answer.status() == StatusCode::NO_CONTENT;
        let at = uploaded(answer.headers()).filter(|at| known && *at <= upload.size)?;
        let location = header(answer.headers(), &LOCATION).unwrap_or(&kept.location);
        Some(Session {
            location: location.to_owned(),
            at,
            piece: kept.piece.max(1),
        })
    }

    async fn go_on(
        &self,
        upload: &Upload<'_>,
        mut session: Session,
        attempts: &mut u32,
    ) -> Result<(), Refused> {
        while session.at < upload.size {
            session.keep(upload).map_err(Refused::Final)?;
            self.send_piece(upload, &mut session).await?;
            *attempts = 0;
        }
        self.finish_upload(upload, &session).await
    }

    async fn send_piece(&self, upload: &Upload<'_>, session: &mut Session) -> Result<(), Refused> {
        let (from, length) = (session.at, session.piece.min(upload.size - session.at));
        let target = session.location.clone();
        let body = || {
            let file = std::fs::File::open(upload.file)?;
            piece_body(file, from, length, Arc::clone(&upload.on_bytes))
        };
        let mut call = self
            .pushing(
                Method::PATCH,
                &target,
                &format!("upload of blob {}", upload.digest),
            )
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .header(CONTENT_RANGE, format!("{from}-{}", from + length - 1));
        call.body = Some(&body);
        call.once = true;
        let answer = match self.call(&call).await {
            Ok(answer) => answer,
            Err(Error::Registry { why, .. }) => return Err(Refused::Broken(why)),
            Err(error) => return Err(Refused::Final(error)),
        };
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Refused::Broken("the registry lost count".into()));
            }
            StatusCode::NOT_FOUND if from > 0 => {
                files::remove_all(&upload.session).map_err(Refused::Final)?;
                return Err(Refused::Broken("the registry dropped the upload".into()));
            }
            _ if from == 0 => return Err(Refused::Whole),
            _ => return Err(Refused::Final(self.unexpected(&call, answer).await)),
        }
        let next = uploaded(answer.headers()).unwrap_or(from + length);
        if next <= from || next > upload.size {
            let why = format!(
                "the registry says it has {next} bytes after {}",
                from + length
            );
            files::remove_all(&upload.session).map_err(Refused::Final)?;
            self.cancel(upload, &session.location).await;
            return Err(Refused::Broken(why));
        }
        session.at = next;
        if let Some(location) = header(answer.headers(), &LOCATION) {
            location.clone_into(&mut session.location);
        }
        Ok(())
    }

    async fn finish_upload(&self, upload: &Upload<'_>, session: &Session) -> Result<(), Refused> {
        let target = with_digest(&session.location, upload.digest);
        let mut call = self
            .pushing(
                Method::PUT,
                &target,
                &format!("upload of blob {}", upload.digest),
            )
            .header(CONTENT_LENGTH, 0);
        call.once = true;
        let answer = match self.call(&call).await {
            Ok(answer) => answer,
            Err(Error::Registry { why, .. }) => {
                // It may be that only the answer was lost.
                if self.has_blob(upload.digest).await.unwrap_or(false) {
                    return Ok(());
                }
                return Err(Refused::Broken(why));
            }
            Err(error) => return Err(Refused::Final(error)),
        };
        if answer.status() == StatusCode::CREATED {
            return Ok(());
        }
        files::remove_all(&upload.session).map_err(Refused::Final)?;
        let error = self.unexpected(&call, answer).await;
        self.cancel(upload, &session.location).await;
        Err(Refused::Broken(error.to_string()))
    }

    /// Lets the registry drop what it has of an upload that nobody will go on with. A failure
    /// is the registry's to clear away.
    async fn cancel(&self, upload: &Upload<'_>, location: &str) {
        let mut call = self.pushing(Method::DELETE, location, &self.upload_name(upload));
        call.once = true;
        if let Err(error) = self.call(&call).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "upload not cancelled");
        }
    }
}

/// The upload's address with the digest that ends it.
pub(super) fn with_digest(location: &str, digest: &Digest) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!(
        "{location}{separator}digest={}",
        percent_encode(digest.as_str())
    )
}

/// Bytes that a session has. `Range: 0-9` is ten; `0-0` is what registries write for none, and
/// for one.
fn uploaded(headers: &HeaderMap) -> Option<u64> {
    let text = header(headers, &RANGE)?;
    let (from, to) = text.trim_start_matches("bytes=").split_once('-')?;
    let to: u64 = to.trim().parse().ok()?;
    (from.trim() == "0").then_some(if to == 0 { 0 } else { to.checked_add(1)? })
}

/// Size of a file in bytes.
pub(super) fn size_of(file: &Path) -> Result<u64> {
    Ok(std::fs::metadata(file).at("stat", file)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_says_how_far_it_came() {
        let at = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            uploaded(&headers)
        };
        assert_eq!(at("0-9"), Some(10));
        assert_eq!(at("bytes=0-9"), Some(10));
        assert_eq!(at("0-0"), Some(0));
        for bad in ["", "9", "1-9", "0-x", "0-18446744073709551615"] {
            assert_eq!(at(bad), None, "{bad}");
        }
        let digest = Digest::of(b"");
        assert!(with_digest("/u?_state=x", &digest).starts_with("/u?_state=x&digest=sha256%3A"));
    }
}
