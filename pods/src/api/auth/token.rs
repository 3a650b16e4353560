//! Tokens of ServiceAccounts: JSON Web Tokens (RFC 7519) signed with ES256 by a key that only this
//! process has.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use super::{User, account_of};
use crate::api::client::Client;
use crate::api::{kinds, meta};

/// Seconds that a token lasts where nothing is asked for.
pub const DEFAULT_SECONDS: i64 = 3600;
/// What pods' own volumes ask for: such a token lasts a year, as in Kubernetes, but not longer than
/// its pod.
pub const POD_SECONDS: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// Makes and checks tokens.
pub struct Tokens {
    pair: EcdsaKeyPair,
    id: String,
    issuer: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The object that a token lives and dies with.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    /// `pod`, `secret` or `node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token is to say.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// Its uid.
    pub uid: String,
    /// For whom; empty is the API.
    pub audiences: Vec<String>,
    /// How long it lasts, in seconds.
    pub seconds: i64,
    /// What it is bound to.
    pub bound: Option<Bound>,
}

impl Tokens {
    /// The key kept in a directory, made when there is none.
    pub fn open(dir: &Path, domain: &str) -> anyhow::Result<Self> {
        let path = dir.join("sa.key");
        let at = || path.display().to_string();
        let random = SystemRandom::new();
        if !path.exists() {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            let made = made.map_err(|_| anyhow!("making the key of tokens"))?;
            crate::api::http::tls::write_secret(&path, &BASE64.encode(made.as_ref()))
                .with_context(at)?;
        }
        let text = std::fs::read_to_string(&path).with_context(at)?;
        let bytes = BASE64.decode(text.trim()).with_context(at)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes, &random);
        let pair = pair.map_err(|e| anyhow!("{}: not a key: {e}", path.display()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Self {
            pair,
            id: BASE64.encode(digest),
            issuer: format!("https://kubernetes.default.svc.{domain}"),
        })
    }

    /// Who signs, and the audience that the API is.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token and the second that it ends at. The token may last longer than is told: who asks
    /// for [`POD_SECONDS`] fetches a new one in time, but need not.
    pub fn issue(&self, wanted: &Wanted, now: i64) -> anyhow::Result<(String, i64)> {
        let own = vec![self.issuer.clone()];
        let audiences = if wanted.audiences.is_empty() {
            &own
        } else {
            &wanted.audiences
        };
        let told = now + wanted.seconds;
        let is_api = *audiences == own;
        let end = if wanted.seconds == POD_SECONDS && is_api && wanted.bound.is_some() {
            now + YEAR
        } else {
            told
        };
        let account = json!({"name": wanted.account, "uid": wanted.uid});
        let mut about = json!({"namespace": wanted.namespace, "serviceaccount": account});
        if let Some(bound) = &wanted.bound {
            about[&bound.kind] = json!({"name": bound.name, "uid": bound.uid});
        }
        if end != told {
            about["warnafter"] = json!(told);
        }
        let claims = json!({"aud": audiences, "exp": end, "iat": now, "nbf": now, "iss": self.issuer,
            "jti": meta::uuid(), "kubernetes.io": about,
            "sub": format!("system:serviceaccount:{}:{}", wanted.namespace, wanted.account)});
        let head = json!({"alg": "ES256", "kid": self.id});
        let part = |v: &Value| BASE64.encode(v.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| anyhow!("signing a token"))?;
        Ok((format!("{signed}.{}", BASE64.encode(signature)), end))
    }

    /// The claims of a token that is ours and holds now. An empty audience is the API's.
    pub fn claims(&self, token: &str, audiences: &[String], now: i64) -> Result<Value, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("not a JSON Web Token")?;
        let (head, body) = signed.split_once('.').ok_or("not a JSON Web Token")?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| "not base64".to_owned());
        let json = |bytes: Vec<u8>| -> Result<Value, String> {
            serde_json::from_slice(&bytes).map_err(|_| "not JSON".to_owned())
        };
        // Only one algorithm is known: a head that names another is no choice of the client's.
        if json(decode(head)?)?["alg"] != "ES256" {
            return Err("signed by an unknown algorithm".to_owned());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "invalid signature".to_owned())?;
        let claims = json(decode(body)?)?;
        let second = |key: &str| claims[key].as_i64().unwrap_or(0);
        if now >= second("exp") {
            return Err("token has expired".to_owned());
        }
        if now + 60 < second("nbf") {
            return Err("token is not valid yet".to_owned());
        }
        let own = [self.issuer.clone()];
        let audiences = if audiences.is_empty() {
            &own[..]
        } else {
            audiences
        };
        let for_these = claims["aud"].as_array().into_iter().flatten();
        let mut for_these = for_these.filter_map(Value::as_str);
        if !for_these.any(|a| audiences.iter().any(|b| a == b)) {
            return Err("token is for another audience".to_owned());
        }
        Ok(claims)
    }

    /// Who holds a token: its account, and what it is bound to, must still be there.
    pub fn user(&self, client: &Client, token: &str, audiences: &[String]) -> Result<User, String> {
        let now = jiff::Timestamp::now().as_second();
        let claims = self.claims(token, audiences, now)?;
        let subject = claims["sub"].as_str().unwrap_or_default();
        let (ns, name) = account_of(subject).ok_or("not a token of a ServiceAccount")?;
        let about = &claims["kubernetes.io"];
        let uid = |value: &Value| value["uid"].as_str().unwrap_or_default().to_owned();
        let account = client.find(&kinds::SERVICE_ACCOUNT, ns, name);
        if account.is_none_or(|a| a.uid() != uid(&about["serviceaccount"])) {
            return Err(format!("service account {ns}/{name} has been deleted"));
        }
        for (kind, res, ns) in [
            ("pod", &kinds::POD, ns),
            ("secret", &kinds::SECRET, ns),
            ("node", &kinds::NODE, ""),
        ] {
            let bound = &about[kind];
            let name = bound["name"].as_str().unwrap_or_default();
            if bound.is_null() {
                continue;
            }
            if client
                .find(res, ns, name)
                .is_none_or(|o| o.uid() != uid(bound))
            {
                return Err(format!("the token's {kind} {name} has been deleted"));
            }
        }
        let mut user = User::account(ns, name);
        user.uid = uid(&about["serviceaccount"]);
        Ok(user)
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub fn keys(&self) -> Value {
        // Uncompressed: 4, then 32 bytes of each coordinate.
        let point = self.pair.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..65]);
        json!({"keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id,
                         "x": BASE64.encode(x), "y": BASE64.encode(y)}]})
    }

    /// What OpenID Connect Discovery asks for.
    pub fn discovery(&self) -> Value {
        json!({"issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
               "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
               "id_token_signing_alg_values_supported": ["ES256"]})
    }
}

/// When a token was made and when it ends, read without a look at the signature: for who holds it.
pub fn times(token: &str) -> Option<(i64, i64)> {
    let body = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
    Some((claims["iat"].as_i64()?, claims["exp"].as_i64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            namespace: "ns".into(),
            account: "web".into(),
            uid: "u".into(),
            seconds: 600,
            ..Wanted::default()
        }
    }

    #[test]
    fn tokens_hold_until_they_end_for_their_audience_and_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path(), "cluster.local").unwrap();
        let (token, end) = tokens.issue(&wanted(), 1000).unwrap();
        assert_eq!((end, times(&token)), (1600, Some((1000, 1600))));
        // The same key after a restart.
        let tokens = Tokens::open(dir.path(), "cluster.local").unwrap();
        let claims = tokens.claims(&token, &[], 1599).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:ns:web");
        let why = |token: &str, audience: &[&str], now| {
            let audience: Vec<String> = audience.iter().map(|a| (*a).to_owned()).collect();
            tokens.claims(token, &audience, now).unwrap_err()
        };
        assert_eq!(why(&token, &[], 1600), "token has expired");
        assert_eq!(
            why(&token, &["vault"], 1100),
            "token is for another audience"
        );
        let (head, rest) = token.split_once('.').unwrap();
        let other = BASE64.encode(r#"{"alg":"none"}"#);
        assert_eq!(
            why(&format!("{other}.{rest}"), &[], 1100),
            "signed by an unknown algorithm"
        );
        let (body, signature) = rest.split_once('.').unwrap();
        let forged = String::from_utf8(BASE64.decode(body).unwrap())
            .unwrap()
            .replace("web", "adm");
        let forged = format!("{head}.{}.{signature}", BASE64.encode(forged));
        assert_eq!(why(&forged, &[], 1100), "invalid signature");
        for bad in ["", "a", "a.b", "a.b.c", "..", "é.é.é"] {
            why(bad, &[], 1100);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let stranger = Tokens::open(elsewhere.path(), "cluster.local").unwrap();
        assert_eq!(
            stranger.claims(&token, &[], 1100).unwrap_err(),
            "invalid signature"
        );
    }

    #[test]
    fn a_pods_own_token_lasts_a_year_and_says_when_to_fetch_another() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path(), "cluster.local").unwrap();
        let bound = Some(Bound {
            kind: "pod".into(),
            name: "p".into(),
            uid: "x".into(),
        });
        let wanted = Wanted {
            seconds: POD_SECONDS,
            bound,
            ..wanted()
        };
        let (token, _) = tokens.issue(&wanted, 1000).unwrap();
        let claims = tokens.claims(&token, &[], 5000).unwrap();
        assert_eq!(claims["exp"], 1000 + YEAR);
        assert_eq!(claims["kubernetes.io"]["warnafter"], 4607);
    }
}
