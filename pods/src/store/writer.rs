//! The one thread that changes anything.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::oneshot;

use super::disk::{Disk, Record};
use super::{DiskError, Event, Expect, Key, Object, Shared, Snapshot, Write, WriteError};

/// Writes that share one transaction, at most.
const MAX_BATCH: usize = 512;

type Reply = oneshot::Sender<Result<Arc<Object>, WriteError>>;

pub(super) enum Request {
    /// A change.
    Write(Write, Reply),
    /// Everything on disk, after the changes before it.
    Snapshot(oneshot::Sender<Result<Snapshot, WriteError>>),
    /// Whether writes would be taken now.
    Check(oneshot::Sender<Result<(), WriteError>>),
    /// Ends the thread.
    Stop,
}

pub(super) fn spawn(
    shared: Arc<Shared>,
    disk: Disk,
    requests: mpsc::Receiver<Request>,
) -> JoinHandle<()> {
    let thread = std::thread::Builder::new()
        .name("store".into())
        .stack_size(512 << 10);
    thread
        .spawn(move || {
            Writer {
                shared,
                disk,
                unsure: HashSet::new(),
                refused: None,
            }
            .run(&requests);
        })
        .expect("a thread at start-up")
}

struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    /// After a failed commit nobody knows what the disk has of it: these are written again, as they
    /// are in the index, with the next one.
    unsure: HashSet<Key>,
    /// The last commit, where it failed.
    refused: Option<Refused>,
}

struct Refused {
    why: Arc<DiskError>,
    /// What there was to write.
    bytes: u64,
}

/// Accepted, not yet visible.
struct Accepted {
    key: Key,
    event: Event,
    durable: bool,
    reply: Reply,
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let (mut batch, mut other, mut next) = (Vec::new(), None, Some(first));
            while let Some(request) = next {
                match request {
                    Request::Write(write, reply) => batch.push((write, reply)),
                    request => {
                        other = Some(request);
                        break;
                    }
                }
                let room = batch.len() < MAX_BATCH;
                next = room.then(|| requests.try_recv().ok()).flatten();
            }
            self.commit(batch);
            match other {
                Some(Request::Snapshot(reply)) => drop(reply.send(self.snapshot())),
                Some(Request::Check(reply)) => {
                    drop(reply.send(self.check().map_err(WriteError::Disk)));
                }
                Some(Request::Stop) => return,
                _ => {}
            }
        }
    }

    fn snapshot(&mut self) -> Result<Snapshot, WriteError> {
        let failed = |e| WriteError::Disk(Arc::new(e));
        let (stored, _) = self.disk.load().map_err(failed)?;
        let objects = stored.into_iter().map(|(key, o)| (key, o.json().to_vec()));
        Ok(Snapshot {
            version: self.shared.published.load(Ordering::Relaxed),
            objects: objects.collect(),
        })
    }

    /// Writes nothing unless the last commit failed: then it is found out whether another would.
    fn check(&mut self) -> Result<(), Arc<DiskError>> {
        let room = self.disk.room();
        if room.is_some_and(|(read_only, _)| read_only) {
            return Err(Arc::new(self.disk.read_only()));
        }
        let Some(refused) = &self.refused else {
            return Ok(());
        };
        if room.is_some_and(|(_, free)| free < refused.bytes) {
            return Err(refused.why.clone());
        }
        let again = self.again();
        self.disk.probe(again.iter().map(record))?;
        self.unsure.clear();
        self.refused = None;
        Ok(())
    }

    fn commit(&mut self, batch: Vec<(Write, Reply)>) {
        let mut rv = self.shared.published.load(Ordering::Relaxed);
        let mut pending: HashMap<Key, Option<Arc<Object>>> = HashMap::new();
        let mut accepted = Vec::with_capacity(batch.len());
        for (write, reply) in batch {
            let before = match pending.get(&write.key) {
                Some(state) => state.clone(),
                None => self.shared.shard(&write.key.resource).get(&write.key.path),
            };
            let Write {
                key,
                expect,
                value,
                durable,
            } = write;
            match apply(expect, value, before, rv + 1) {
                Ok(event) => {
                    rv += 1;
                    pending.insert(key.clone(), (!event.deleted).then(|| event.after.clone()));
                    accepted.push(Accepted {
                        key,
                        event,
                        durable,
                        reply,
                    });
                }
                Err(e) => drop(reply.send(Err(e))),
            }
        }
        let again = if accepted.is_empty() {
            Vec::new()
        } else {
            self.again()
        };
        let records = accepted.iter().filter(|a| a.durable).map(Accepted::record);
        match self
            .disk
            .commit(again.iter().map(record).chain(records), rv)
        {
            Ok(()) => {
                self.unsure.clear();
                // What is kept in memory alone tells nothing of the disk.
                if accepted.iter().any(|a| a.durable) {
                    self.refused = None;
                }
                self.publish(accepted, rv);
            }
            Err(e) => self.refuse(accepted, e),
        }
    }

    /// What must be written again, as it is now.
    fn again(&self) -> Vec<(Key, Option<Arc<Object>>)> {
        let all = self.unsure.iter().cloned();
        all.map(|k| (self.shared.shard(&k.resource).get(&k.path), k))
            .map(|(o, k)| (k, o))
            .collect()
    }

    fn refuse(&mut self, accepted: Vec<Accepted>, e: DiskError) {
        let e = Arc::new(e);
        tracing::error!("store: {e}");
        let sizes = accepted.iter().map(|a| a.event.after.json().len() as u64);
        self.refused = Some(Refused {
            why: e.clone(),
            bytes: sizes.sum(),
        });
        for a in accepted {
            if a.durable {
                self.unsure.insert(a.key);
            }
            let _ = a.reply.send(Err(WriteError::Disk(e.clone())));
        }
    }

    fn publish(&self, accepted: Vec<Accepted>, rv: u64) {
        if accepted.iter().any(|a| a.durable) {
            crate::rest::note();
        }
        let mut replies = Vec::with_capacity(accepted.len());
        for a in accepted {
            let object = a.event.after.clone();
            self.shared
                .shard(&a.key.resource)
                .publish(&a.key.path, a.event);
            replies.push((a.reply, object));
        }
        self.shared.published.store(rv, Ordering::Release);
        for (reply, object) in replies {
            let _ = reply.send(Ok(object));
        }
    }
}

fn record((key, object): &(Key, Option<Arc<Object>>)) -> Record<'_> {
    Record {
        key,
        json: object.as_ref().map(|o| &o.json()[..]),
    }
}

impl Accepted {
    fn record(&self) -> Record<'_> {
        Record {
            key: &self.key,
            json: (!self.event.deleted).then(|| &self.event.after.json()[..]),
        }
    }
}

fn apply(
    expect: Expect,
    value: Option<Value>,
    before: Option<Arc<Object>>,
    rv: u64,
) -> Result<Event, WriteError> {
    match (expect, &before) {
        (Expect::Absent, Some(_)) => return Err(WriteError::Exists),
        (Expect::Version(_), None) => return Err(WriteError::Missing),
        (Expect::Version(v), Some(o)) if o.resource_version() != v => {
            return Err(WriteError::Stale);
        }
        _ => {}
    }
    let (value, deleted) = match (value, &before) {
        (Some(v), _) => (v, false),
        (None, Some(o)) => (o.value().clone(), true),
        (None, None) => return Err(WriteError::Missing),
    };
    let after = versioned(value, rv);
    Ok(Event {
        rv,
        before,
        after,
        deleted,
    })
}

fn versioned(mut value: Value, rv: u64) -> Arc<Object> {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("resourceVersion".into(), Value::String(rv.to_string()));
    }
    Object::from_value(rv, value)
}
