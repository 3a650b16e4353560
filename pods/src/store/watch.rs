//! A reader's position in the history of a resource.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::shard::Shard;
use super::{Event, Selector};

const BATCH: usize = 64;

/// Events of a resource, one after the other. It holds a position, not a queue: a slow reader costs
/// no memory, and one that is slower than the history is told so.
pub struct Watch {
    shard: Arc<Shard>,
    newest: watch::Receiver<u64>,
    namespace: String,
    selector: Selector,
    position: u64,
    ready: VecDeque<Event>,
}

/// Why a watch ends.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WatchError {
    /// Events after the position are no longer known: list again.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// The position.
        asked: u64,
        /// The oldest position that is still good.
        oldest: u64,
    },
    /// The store is gone.
    #[error("the store is closed")]
    Closed,
}

impl Watch {
    pub(super) fn new(
        shard: Arc<Shard>,
        namespace: &str,
        selector: Selector,
        after: u64,
    ) -> Result<Self, WatchError> {
        shard
            .events_after(after, 0)
            .map_err(|oldest| WatchError::Expired {
                asked: after,
                oldest,
            })?;
        let newest = shard.subscribe();
        let (namespace, ready) = (namespace.to_owned(), VecDeque::new());
        Ok(Self {
            shard,
            newest,
            namespace,
            selector,
            position: after,
            ready,
        })
    }

    /// The version up to which everything was seen, for a bookmark.
    pub fn position(&self) -> u64 {
        self.ready.front().map_or(self.position, |e| e.rv - 1)
    }

    /// Waits for the next event. An object that stops being selected gives a deletion, one that
    /// starts being selected a creation. May be dropped at any await without losing an event.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            // Mark the newest version as seen before reading, so that no change is missed.
            self.newest.borrow_and_update();
            let (asked, shard) = (self.position, &self.shard);
            let events = shard
                .events_after(asked, BATCH)
                .map_err(|oldest| WatchError::Expired { asked, oldest })?;
            let Some(last) = events.last() else {
                self.newest
                    .changed()
                    .await
                    .map_err(|_| WatchError::Closed)?;
                continue;
            };
            self.position = last.rv;
            let (namespace, selector) = (&self.namespace, &self.selector);
            self.ready.extend(
                events
                    .into_iter()
                    .filter_map(|e| select(e, namespace, selector)),
            );
        }
    }
}

fn select(event: Event, namespace: &str, selector: &Selector) -> Option<Event> {
    if !namespace.is_empty() && event.after.namespace() != namespace {
        return None;
    }
    if selector.is_all() {
        return Some(event);
    }
    let was = event.before.as_ref().is_some_and(|o| selector.chooses(o));
    let is = !event.deleted && selector.chooses(&event.after);
    match (was, is) {
        (false, false) => None,
        (false, true) => Some(Event {
            before: None,
            ..event
        }),
        (true, false) => Some(Event {
            deleted: true,
            ..event
        }),
        (true, true) => Some(event),
    }
}
