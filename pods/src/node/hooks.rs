//! postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::exec::{Act, Failed, Place};

/// No hook runs longer than this unless its pod's grace says less.
const LONGEST: Duration = Duration::from_hours(1);

/// Runs the postStart hook, if any. The error is for the event.
pub async fn post_start(place: &Place) -> Result<(), String> {
    let hook = place
        .container
        .lifecycle
        .as_ref()
        .and_then(|l| l.post_start.as_ref());
    run(place, hook, LONGEST, "PostStartHook").await
}

/// The preStop hook of a container, if any.
pub fn pre_stop_of(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Runs the preStop hook, if any, for at most `grace`.
pub async fn pre_stop(place: &Place, grace: Duration) -> Result<(), String> {
    run(place, pre_stop_of(&place.container), grace, "PreStopHook").await
}

async fn run(
    place: &Place,
    hook: Option<&LifecycleHandler>,
    limit: Duration,
    what: &str,
) -> Result<(), String> {
    let Some(act) = hook.and_then(Act::of_hook) else {
        return Ok(());
    };
    let done = tokio::time::timeout(limit, act.run(place, limit)).await;
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failed::Answer(why) | Failed::Unknown(why))) => Err(format!("{what} failed: {why}")),
        Err(_) => Err(format!(
            "{what} did not finish within {} s",
            limit.as_secs()
        )),
    }
}
