//! Work side by side.

use tokio::task::JoinSet;

use crate::{Error, Result};

/// Waits for all tasks. The first error ends the others; `what` names a task that panicked.
pub(crate) async fn all_of(mut tasks: JoinSet<Result<()>>, what: &str) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tasks.shutdown().await;
                return Err(error);
            }
            Err(error) => return Err(Error::Worker(format!("{what}: {error}"))),
        }
    }
    Ok(())
}
