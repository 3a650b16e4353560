//! Lists that a registry gives in pages (distribution-spec, Listing Tags, Listing Referrers).

use http::header::LINK;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Bytes;

use super::transport::Answer;
use super::{Call, Client, read_body};
use crate::store::DOCUMENT_LIMIT;
use crate::{Error, Result};

/// Pages of a list that are read.
const PAGES: usize = 100;
/// Bytes of all of them, which are held until the last is there.
const LIST_LIMIT: u64 = 4 * DOCUMENT_LIMIT;

impl Client {
    /// The body of a list's first page, and of those that its Link leads to.
    pub(super) async fn pages(
        &self,
        call: &Call<'_>,
        first: Response<Answer>,
    ) -> Result<Vec<Bytes>> {
        let (mut pages, mut left) = (Vec::new(), LIST_LIMIT);
        let mut answer = first;
        loop {
            if answer.status() != StatusCode::OK {
                return Err(self.unexpected(call, answer).await);
            }
            let next = next_page(answer.headers());
            let bytes = read_body(answer.into_body(), DOCUMENT_LIMIT).await;
            let bytes = bytes.map_err(|why| Error::document(&call.what, why))?;
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                let why = format!("its pages are longer than {LIST_LIMIT} bytes");
                Error::document(&call.what, why)
            })?;
            pages.push(bytes);
            let Some(target) = next else {
                return Ok(pages);
            };
            if pages.len() >= PAGES {
                let why = format!("more than {PAGES} pages");
                return Err(Error::document(&call.what, why));
            }
            let mut page = Call::new(call.method.clone(), &target, call.what.clone());
            page.headers.clone_from(&call.headers);
            answer = self.call(&page).await?;
        }
    }
}

/// `</v2/…?last=…>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter();
    let mut links = links.filter_map(|value| value.to_str().ok()?.trim().strip_prefix('<'));
    links.find_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let parameters = parameters.replace(['"', ' '], "");
        let next = parameters
            .split(';')
            .any(|p| p.eq_ignore_ascii_case("rel=next"));
        next.then(|| target.to_owned())
    })
}
