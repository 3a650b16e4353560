//! The objects of one resource and what happened to them lately.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::{Key, List, Object, Selector};

/// Bounds of the history of one resource: events, and bytes of JSON that they keep alive.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 1 << 20;
/// Kept whatever their size, so that a watcher has time to fetch what it is told of.
const MIN_EVENTS: usize = 64;

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct Event {
    /// Resource version of the change.
    pub rv: u64,
    /// The object before; absent when it was created.
    pub before: Option<Arc<Object>>,
    /// The object after; for a deletion its last state, at the version of the deletion.
    pub after: Arc<Object>,
    /// Whether the object is gone.
    pub deleted: bool,
}

impl Event {
    fn given(&self) -> Self {
        Self {
            before: self.before.as_ref().map(Object::given),
            after: self.after.given(),
            ..*self
        }
    }
}

pub(super) struct Shard {
    state: RwLock<State>,
    newest: watch::Sender<u64>,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    history: VecDeque<Event>,
    bytes: usize,
    /// Events up to here are no longer in the history.
    forgotten: u64,
}

impl Shard {
    pub fn new(floor: u64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            bytes: 0,
            forgotten: floor,
        };
        Self {
            state: RwLock::new(state),
            newest: watch::Sender::new(floor),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn load(&self, key: &Key, object: Arc<Object>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.objects.insert(key.path.clone(), object.stored());
    }

    pub fn get(&self, path: &str) -> Option<Arc<Object>> {
        self.read().objects.get(path).map(Object::given)
    }

    pub fn list(&self, namespace: &str, selector: &Selector, published: impl Fn() -> u64) -> List {
        let state = self.read();
        // Under the lock: nothing of this resource up to either version is missing from the index.
        let resource_version = (*self.newest.borrow()).max(published());
        let wanted = |o: &Arc<Object>| -> Option<Arc<Object>> {
            let chosen = selector.is_all() || selector.chooses(&o.given());
            chosen.then(|| o.given())
        };
        let items = if namespace.is_empty() {
            state.objects.values().filter_map(wanted).collect()
        } else {
            let prefix = format!("{namespace}/");
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            let range = state
                .objects
                .range::<str, _>(from)
                .take_while(|(k, _)| k.starts_with(&prefix));
            range.filter_map(|(_, o)| wanted(o)).collect()
        };
        List {
            items,
            resource_version,
        }
    }

    /// Shows a change to readers and watchers.
    pub fn publish(&self, path: &Arc<str>, event: Event) {
        let rv = event.rv;
        let mut guard = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        let after = event.after.stored();
        if event.deleted {
            state.objects.remove(path);
        } else {
            state.objects.insert(path.clone(), after.clone());
        }
        // The history keeps no trees: `slim` shares the JSON only.
        let slim = Event {
            before: event.before.map(|o| o.slim()),
            after: after.slim(),
            ..event
        };
        state.bytes += slim.after.weight();
        state.history.push_back(slim);
        while state.history.len() > MAX_EVENTS
            || (state.bytes > MAX_BYTES && state.history.len() > MIN_EVENTS)
        {
            let Some(old) = state.history.pop_front() else {
                break;
            };
            state.bytes -= old.after.weight();
            state.forgotten = old.rv;
        }
        self.newest.send_replace(rv);
    }

    /// Up to `max` events after a version, or the oldest version that may be asked for.
    pub fn events_after(&self, after: u64, max: usize) -> Result<Vec<Event>, u64> {
        let state = self.read();
        if after < state.forgotten {
            return Err(state.forgotten);
        }
        let from = state.history.partition_point(|e| e.rv <= after);
        let events = state.history.range(from..).take(max);
        Ok(events.map(Event::given).collect())
    }

    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
