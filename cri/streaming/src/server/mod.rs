//! Server side: decides on an upgrade request and turns the upgraded connection into a session.
//!
//! ```ignore
//! let upgrade = server::remote_command(&mut request, options, &Limits::default())?;
//! tokio::spawn(async move {
//!     let session = upgrade.session.await?;      // after the response has been sent
//!     // copy session.stdin / stdout / stderr, follow session.resize …
//!     session.finish(Status::exited(code)).await
//! });
//! return upgrade.response.map(|()| body)
//! ```

use std::future::Future;
use std::pin::Pin;

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::Error;

mod negotiate;
mod port_forward;
mod remote_command;

pub use port_forward::{Forwarded, PortForward, port_forward};
pub use remote_command::{RemoteCommand, remote_command};

/// An accepted upgrade: the response that the HTTP server must send, and the session that begins
/// once it has been sent.
pub struct Upgrade<S> {
    /// `101 Switching Protocols` with the negotiated protocol; give it any empty body.
    pub response: Response<()>,
    /// Ends when the client has opened its streams, at most [`crate::Limits::creation`] later.
    pub session: Pin<Box<dyn Future<Output = Result<S, Error>> + Send>>,
}

async fn upgraded(on: OnUpgrade) -> Result<TokioIo<Upgraded>, Error> {
    let upgraded = on.await;
    upgraded
        .map(TokioIo::new)
        .map_err(|error| Error::io("the upgrade", std::io::Error::other(error)))
}
