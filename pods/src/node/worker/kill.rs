//! The end of one container: its hook, its signal, and SIGKILL once its time is over.
//!
//! The time may be shortened while it runs: a forced delete does not wait for what an earlier one
//! allowed. Nothing makes it longer.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::cri;
use super::super::exec::Place;
use super::super::memory::every_container;
use super::super::run::container_reference;
use super::super::runtime::Runtime;
use super::super::{hooks, probe};
use super::{Worker, stuck};

/// What a hook that used up the time leaves to the signal, as the kubelet does.
const LEAST: i64 = 2;

/// Until when a container may take to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// Seconds it was given in all; 0 is SIGKILL at once.
    grace: i64,
    ends: Instant,
}

impl Term {
    pub(super) fn new(grace: i64) -> Self {
        let length = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let now = Instant::now();
        // A grace that no clock can count is as good as none that ends.
        let far = || now + Duration::from_hours(24 * 365);
        let ends = now.checked_add(length).unwrap_or_else(far);
        Self { grace, ends }
    }

    /// Whole seconds that are left, one that has begun included.
    pub(super) fn left(self) -> i64 {
        let left = self.ends.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        seconds.min(self.grace.max(0))
    }

    /// The same, but enough to end in for who comes late, as the kubelet has it; none where none
    /// was given.
    pub(super) fn left_late(self) -> i64 {
        if self.grace <= 0 {
            0
        } else {
            self.left().max(LEAST)
        }
    }

    /// Takes another's end where it is sooner. True where it was.
    pub(super) fn shorten(&mut self, other: Self) -> bool {
        let sooner = other.grace < self.grace && other.ends < self.ends;
        if sooner {
            *self = other;
        }
        sooner
    }
}

impl Worker {
    /// Begins the end of a container, or shortens one that is under way.
    pub(super) fn kill(
        &mut self,
        name: &str,
        id: String,
        message: &str,
        term: Term,
        runtime: &Runtime,
    ) {
        let task = format!("kill/{name}");
        if self.memory.busy.contains(&task) {
            if let Some(under_way) = self.terms.get(name) {
                under_way.send_if_modified(|old| old.shorten(term));
            }
            return;
        }
        let object = container_reference(&self.pod, name);
        self.shared.events.normal(&object, "Killing", message);
        self.probers.stop(Some(name));
        let place = self.place(name, id, runtime);
        let shared = self.shared.clone();
        let (sender, mut term) = watch::channel(term);
        self.terms.insert(name.to_owned(), sender);
        self.spawn(task, false, async move {
            let hooked = match before(&place, &mut term).await {
                Ok(hooked) => hooked,
                Err(why) => {
                    shared.events.warning(&object, "FailedPreStopHook", why);
                    true
                }
            };
            stop(&place, hooked, &mut term).await.map_err(|s| stuck(&s))
        });
    }

    fn place(&self, name: &str, id: String, runtime: &Runtime) -> Place {
        let container = every_container(&self.pod)
            .into_iter()
            .find(|c| c.name == name);
        Place {
            cri: self.shared.cri.clone(),
            id,
            container: container.unwrap_or_else(|| Container {
                name: name.to_owned(),
                ..Container::default()
            }),
            ip: probe::address(runtime, &self.pod),
        }
    }
}

/// Runs the preStop hook, if there is one and time for it. True where one ran.
async fn before(place: &Place, term: &mut watch::Receiver<Term>) -> Result<bool, String> {
    let now = *term.borrow_and_update();
    if now.grace <= 0 || hooks::pre_stop_of(&place.container).is_none() {
        return Ok(false);
    }
    let limit = now.ends.saturating_duration_since(Instant::now());
    let mut hook = pin!(hooks::pre_stop(place, limit));
    loop {
        let ends = term.borrow_and_update().ends;
        tokio::select! {
            done = &mut hook => return done.map(|()| true),
            () = tokio::time::sleep_until(ends) => {
                return Err("PreStopHook did not finish within the grace period".to_owned());
            }
            Ok(()) = term.changed() => {}
        }
    }
}

/// Asks the runtime to stop the container, and asks again with less time when there is less.
async fn stop(place: &Place, hooked: bool, term: &mut watch::Receiver<Term>) -> cri::Result<()> {
    loop {
        let now = *term.borrow_and_update();
        let seconds = if hooked { now.left_late() } else { now.left() };
        tokio::select! {
            done = place.cri.stop(&place.id, seconds) => return done,
            Ok(()) = term.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_only_gets_shorter() {
        let mut term = Term::new(30);
        assert_eq!((term.left(), term.left_late()), (30, 30));
        tokio::time::advance(Duration::from_millis(10_500)).await;
        assert_eq!(term.left(), 20);
        assert!(!term.shorten(Term::new(30)), "the same, asked again");
        assert!(!term.shorten(Term::new(25)), "it would end later");
        assert!(term.shorten(Term::new(5)));
        assert_eq!(term.left(), 5);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!((term.left(), term.left_late()), (0, 2));
        let mut term = Term::new(1_800);
        assert!(term.shorten(Term::new(0)));
        assert_eq!((term.left(), term.left_late()), (0, 0));
        assert_eq!(Term::new(i64::MAX).left(), 24 * 365 * 3600);
    }
}
