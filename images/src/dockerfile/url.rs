//! ADD of URLs: a file fetched at build time, and verified where its digest is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Failed;
use super::context::Item;
use super::parse::Copy;
use super::steps::Build;
use crate::error::FileContext;
use crate::registry::{Download, download};
use crate::{Error, Result};

/// Longest file that is fetched, in bytes.
const LIMIT: u64 = 4 << 30;

impl Build<'_> {
    /// Fetches the URLs of an ADD below `dir`. As with Docker, a file has mode 0600, the time of
    /// its `Last-Modified`, and is not unpacked.
    pub fn fetch(
        &self,
        copy: &Copy,
        dir: &Path,
        at: &Path,
        directory: bool,
    ) -> Result<Vec<Item>, Failed> {
        let mut items = Vec::new();
        for (number, url) in copy.urls.iter().enumerate() {
            let to = if directory {
                at.join(file_name(url)?)
            } else {
                at.to_owned()
            };
            let file = dir.join(number.to_string());
            let job = Download {
                url,
                to: &file,
                limit: LIMIT,
                // Nothing vouches for what comes without TLS but a digest.
                plain: copy.checksum.is_some(),
            };
            let runtime = tokio::runtime::Handle::current();
            let fetched = runtime.block_on(download(&job, &self.options.registry))?;
            if let Some(expected) = &copy.checksum
                && fetched.digest != *expected
            {
                return Err(Failed::Store(Error::DigestMismatch {
                    what: url.clone(),
                    expected: expected.clone(),
                    got: fetched.digest,
                }));
            }
            dress(&file, fetched.modified)?;
            items.push(Item::file(&file, &to));
        }
        Ok(items)
    }
}

fn dress(file: &Path, modified: Option<std::time::SystemTime>) -> Result<()> {
    let open = fs::File::options().write(true).open(file);
    let time = modified.unwrap_or(std::time::UNIX_EPOCH);
    open.and_then(|file| file.set_modified(time))
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o600)))
        .at("set time and mode of", file)
}

/// What a file is called in a directory: the last part of the URL's path.
fn file_name(url: &str) -> Result<String, String> {
    let bad = || format!("{url}: its path has no file name: give the destination one");
    let url: http::Uri = url.parse().map_err(|_| bad())?;
    let name = url.path().rsplit('/').next().unwrap_or_default();
    let good = !name.is_empty() && !matches!(name, "." | "..") && name.len() <= 255;
    good.then(|| name.to_owned()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_what_its_url_ends_with() {
        assert_eq!(
            file_name("https://a.example/b/c.txt?d=/e").unwrap(),
            "c.txt"
        );
        for bad in [
            "https://a.example",
            "https://a.example/b/",
            "https://a.example/..",
        ] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }
}
