//! GetContainerEvents.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use rrun_cri_api::v1;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

use super::Items;
use crate::daemon::Daemon;
use crate::error::Result;

/// Everything from now on, until the client goes away. A client that is too slow is told that it
/// missed something, so that it lists again.
pub async fn handle(
    daemon: &Arc<Daemon>,
    _: v1::GetEventsRequest,
) -> Result<Items<v1::ContainerEventResponse>> {
    let events = daemon.events.subscribe();
    let items = stream::unfold(Some(events), |events| async {
        let mut events = events?;
        match events.recv().await {
            Ok(event) => Some((Ok(event), Some(events))),
            Err(RecvError::Lagged(count)) => {
                let why = format!("{count} events were missed: list again, then subscribe again");
                Some((Err(Status::data_loss(why)), None))
            }
            Err(RecvError::Closed) => None,
        }
    });
    Ok(items.boxed())
}
