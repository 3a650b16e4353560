//! Entries of a transparency log (Rekor, version 1 and 2), verified without asking it.
//!
//! The first version promises with its signature that it takes an entry, and when. The second gives a proof
//! that it is in the log, and no time.

use std::fmt::Write as _;

use serde::Serialize;

use super::body::Body;
use super::checkpoint::Proof;
use super::encode;
use super::key::PublicKey;
use super::material::Signer;
use super::root::Period;
use super::signature::Signature;

/// A log that is believed.
#[derive(Debug)]
pub(super) struct Log {
    pub key: PublicKey,
    name: Option<Name>,
    valid: Period,
}

/// What entries and signed notes call it.
#[derive(Debug)]
struct Name {
    origin: String,
    /// The first bytes of a signature in a note.
    note_key: Vec<u8>,
    /// Hexadecimal.
    id: String,
}

impl Log {
    /// Of whom only the key is known.
    pub fn of_key(key: PublicKey) -> Self {
        Self {
            key,
            name: None,
            valid: Period::ALWAYS,
        }
    }

    pub fn named(key: PublicKey, origin: &str, note_key: &[u8], id: &[u8], valid: Period) -> Self {
        let name = Name {
            origin: origin.to_owned(),
            note_key: note_key.to_vec(),
            id: hex(id),
        };
        Self {
            key,
            name: Some(name),
            valid,
        }
    }

    /// Whether a signature of a note says that it is of this log.
    pub fn signs_as(&self, name: &str, note_key: &[u8]) -> bool {
        let same = |own: &Name| own.origin == name && own.note_key == note_key;
        self.name.as_ref().is_none_or(same)
    }

    /// Whether it was to be believed at all of these times (seconds since 1970).
    pub fn was_good(&self, times: &[u64]) -> bool {
        times.iter().all(|time| self.valid.has(*time))
    }

    fn promised(&self, entry: &LogEntry, promise: &[u8], time: u64) -> bool {
        let same = |name: &Name| name.id == entry.log_id;
        self.name.as_ref().is_none_or(same)
            && self.valid.has(time)
            && self.key.verifies(promise, &entry.promise)
    }
}

/// As logs are named.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A log's promise, and its proof where it came along.
#[derive(Debug, Default)]
pub(super) struct LogEntry {
    /// What was logged.
    pub body: Vec<u8>,
    /// Seconds since 1970.
    pub integrated_time: i64,
    /// Hexadecimal digest of the log's key.
    pub log_id: String,
    pub log_index: i64,
    /// The log's signature of all that (SignedEntryTimestamp).
    pub promise: Vec<u8>,
    pub proof: Option<Proof>,
}

/// In the order that the log signs it: canonical JSON has its keys sorted.
#[derive(Serialize)]
struct Promised<'a> {
    body: &'a str,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logID")]
    log_id: &'a str,
    #[serde(rename = "logIndex")]
    log_index: i64,
}

impl LogEntry {
    /// That one of the logs has this very signature; and the time, in seconds since 1970, where the
    /// log says one. `times` are others that are vouched for, at which the log must be believed too.
    pub fn verify(
        &self,
        logs: &[Log],
        signature: &Signature,
        signer: Signer<'_>,
        times: &[u64],
    ) -> Result<Option<u64>, String> {
        let bad = |what: &str| format!("its log entry {what}");
        let time = self.promised(logs).map_err(bad)?;
        match &self.proof {
            Some(proof) => {
                let times: Vec<u64> = times.iter().copied().chain(time).collect();
                proof.verify(logs, &self.body, &times).map_err(bad)?;
            }
            None if time.is_none() => {
                return Err(bad(
                    "has no promise of the log (SignedEntryTimestamp) and no proof",
                ));
            }
            None => {}
        }
        let logged = Body::parse(&self.body).ok_or_else(|| bad("is malformed"))?;
        if !logged.is_of(signature, signer) {
            return Err(bad("is of another signature"));
        }
        Ok(time)
    }

    /// The time of the log's promise, where it made one.
    fn promised(&self, logs: &[Log]) -> Result<Option<u64>, &'static str> {
        if self.promise.is_empty() {
            return Ok(None);
        }
        let promised = Promised {
            body: &encode(&self.body),
            integrated_time: self.integrated_time,
            log_id: &self.log_id,
            log_index: self.log_index,
        };
        let promised = serde_json::to_vec(&promised).expect("the entry is plain");
        let time = u64::try_from(self.integrated_time).map_err(|_| "has no time")?;
        if !logs.iter().any(|log| log.promised(self, &promised, time)) {
            return Err("is not of the policy's log");
        }
        Ok(Some(time))
    }
}
