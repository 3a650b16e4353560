//! Drives controllers: watches feed a queue of keys, one key is looked at after the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::queue::Queue;
use crate::api::{Client, Res, Status, kinds};
use crate::clock;
use crate::store::{Object, Selector};

/// `(namespace, name)` of the object that a controller looks after.
pub type Key = (String, String);

/// What a change of an object means: the keys to look at.
pub type Mapper = fn(&Client, &Object) -> Vec<Key>;

/// A controller.
pub trait Controller: Send + Sync + 'static {
    /// As in logs and managedFields.
    const NAME: &'static str;

    /// The kinds whose changes concern it.
    fn watches(&self) -> Vec<(Res, Mapper)>;

    /// What a change of a custom resource means, of whatever kind, to a controller of all kinds.
    fn watches_customs(&self) -> Option<Mapper> {
        None
    }

    /// Compares and writes. `Some` asks to be called again after that time.
    fn reconcile(&self, key: &Key)
    -> impl Future<Output = Result<Option<Duration>, Status>> + Send;
}

/// The object itself.
pub fn itself(_: &Client, object: &Object) -> Vec<Key> {
    vec![(object.namespace().to_owned(), object.name().to_owned())]
}

/// The object's managing owner, where it is of this kind.
pub fn owner(object: &Object, kind: &str) -> Option<Key> {
    let owner = object.controller()?;
    let name = owner["name"].as_str()?;
    (owner["kind"] == kind).then(|| (object.namespace().to_owned(), name.to_owned()))
}

/// Every object of a kind in the namespace of another.
pub fn all_in_namespace(client: &Client, res: Res, object: &Object) -> Vec<Key> {
    let list = client.list(res, object.namespace(), &Selector::all());
    let keys = list
        .items
        .iter()
        .map(|o| (o.namespace().to_owned(), o.name().to_owned()));
    keys.collect()
}

/// Runs a controller until the store is closed.
pub fn spawn<C: Controller>(client: &Client, controller: C) -> JoinHandle<()> {
    let (sender, keys) = mpsc::unbounded_channel();
    for (res, mapper) in controller.watches() {
        tokio::spawn(feed(client.clone(), res, mapper, sender.clone()));
    }
    if let Some(mapper) = controller.watches_customs() {
        tokio::spawn(feed_customs(client.clone(), mapper, sender));
    }
    tokio::spawn(work(controller, keys))
}

/// Feeds from every custom kind, those that come later too.
async fn feed_customs(client: Client, mapper: Mapper, out: mpsc::UnboundedSender<Key>) {
    let mut fed: Vec<String> = Vec::new();
    let mut changes = client.changes(&kinds::CUSTOM_RESOURCE_DEFINITION, "", Selector::all());
    while changes.next().await.is_some() {
        for res in client.custom_kinds().iter().copied() {
            if !fed.contains(&res.qualified()) {
                fed.push(res.qualified());
                tokio::spawn(feed(client.clone(), res, mapper, out.clone()));
            }
        }
    }
}

async fn feed(client: Client, res: Res, mapper: Mapper, out: mpsc::UnboundedSender<Key>) {
    let mut changes = client.changes(res, "", Selector::all());
    while let Some(event) = changes.next().await {
        for key in mapper(&client, event.object()) {
            if out.send(key).is_err() {
                return;
            }
        }
    }
}

async fn work<C: Controller>(controller: C, mut keys: mpsc::UnboundedReceiver<Key>) {
    let mut queue = Queue::default();
    // The one timer of each key that asked to be called again: a later answer replaces it.
    let mut timers: HashMap<Key, Instant> = HashMap::new();
    let mut clock = clock::sets();
    loop {
        while let Ok(key) = keys.try_recv() {
            queue.add(key);
        }
        let now = Instant::now();
        if let Some(key) = queue.take(now) {
            match controller.reconcile(&key).await {
                Ok(again) => {
                    queue.done(&key);
                    schedule(&mut queue, &mut timers, key, again, now);
                }
                Err(status) => {
                    let wait = queue.failed(&key, now);
                    let (ns, name) = &key;
                    tracing::debug!(
                        controller = C::NAME,
                        "{ns}/{name}: {} (again in {wait:?})",
                        status.message
                    );
                }
            }
            continue;
        }
        let wake = queue.next_wake(now);
        tokio::select! {
            key = keys.recv() => match key {
                Some(key) => queue.add(key),
                None => return,
            },
            () = pause(wake) => {}
            // Whoever waits for an instant may have waited for the wrong time.
            Ok(()) = clock.changed() => timers.drain().for_each(|(key, _)| queue.add(key)),
        }
    }
}

fn schedule(
    queue: &mut Queue<Key>,
    timers: &mut HashMap<Key, Instant>,
    key: Key,
    again: Option<Duration>,
    now: Instant,
) {
    timers.retain(|_, at| *at > now);
    let Some(at) = again.map(|after| now + after) else {
        return;
    };
    // A timer that is due earlier leads to a look that sets the next one.
    if timers.get(&key).is_none_or(|set| *set > at) {
        timers.insert(key.clone(), at);
        queue.add_at(key, at);
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::Store;

    struct Patient(Arc<AtomicUsize>);

    impl Controller for Patient {
        const NAME: &'static str = "patient";

        fn watches(&self) -> Vec<(Res, Mapper)> {
            vec![(&kinds::CONFIG_MAP, itself)]
        }

        async fn reconcile(&self, _: &Key) -> Result<Option<Duration>, Status> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Some(Duration::from_hours(24)))
        }
    }

    #[tokio::test]
    async fn who_waits_for_an_instant_looks_again_when_the_clock_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::over(Store::open(dir.path()).unwrap());
        crate::api::bootstrap::objects(&client).await.unwrap();
        let map = serde_json::json!({"metadata": {"name": "m"}});
        let made = client.create(&kinds::CONFIG_MAP, "default", map).await;
        made.unwrap();
        let looks = Arc::new(AtomicUsize::new(0));
        let task = spawn(&client, Patient(looks.clone()));
        let reach = async |count| {
            while looks.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, reach(1)).await.unwrap();
        clock::tell();
        tokio::time::timeout(limit, reach(2)).await.unwrap();
        task.abort();
    }
}
