//! Requests that wait for the client that was given their URL.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How long a URL can be used, as with the kubelet's own server.
const LIFETIME: Duration = Duration::from_secs(60);
/// URLs that have been given and not been used.
const MOST: usize = 1000;

/// Requests by token.
#[derive(Debug)]
pub struct Tokens<T> {
    waiting: Mutex<HashMap<String, (T, Instant)>>,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
        }
    }
}

impl<T> Tokens<T> {
    /// Keeps a request, and gives the token that it is to be had for once.
    pub fn put(&self, request: T) -> Result<String> {
        let token = token()?;
        // Inserting and removing leave the map whole even if another thread panicked.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        waiting.retain(|_, (_, until)| *until > now);
        ensure!(
            waiting.len() < MOST,
            "{MOST} streaming requests wait for their clients: try again"
        );
        waiting.insert(token.clone(), (request, now + LIFETIME));
        Ok(token)
    }

    /// The request of a token, which is then forgotten.
    pub fn take(&self, token: &str) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (request, until) = waiting.remove(token)?;
        (until > Instant::now()).then_some(request)
    }
}

/// 128 random bits.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    let mut source = File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_once() {
        let tokens = Tokens::default();
        let token = tokens.put("request").unwrap();
        assert_eq!(tokens.take("other"), None);
        assert_eq!(tokens.take(&token), Some("request"));
        assert_eq!(tokens.take(&token), None);
    }

    #[test]
    fn a_token_expires() {
        let tokens = Tokens::default();
        let token = tokens.put(1).unwrap();
        tokens.waiting.lock().unwrap().get_mut(&token).unwrap().1 = Instant::now();
        assert_eq!(tokens.take(&token), None);
    }

    #[test]
    fn tokens_are_limited() {
        let tokens = Tokens::default();
        for _ in 0..MOST {
            tokens.put(()).unwrap();
        }
        assert!(tokens.put(()).is_err());
    }
}
