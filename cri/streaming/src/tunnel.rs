//! A byte stream carried in the binary messages of a WebSocket, whose borders mean nothing.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::Limits;
use crate::copy::Clock;
use crate::link::Link;
use crate::pipe::{next_chunk, pipe};

/// Begins to carry the given stream; the link ends with the WebSocket.
pub async fn tunnel<IO>(io: IO, role: Role, limits: &Limits) -> (DuplexStream, Link)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits.message))
        .max_frame_size(Some(limits.message));
    let socket = WebSocketStream::from_raw_socket(io, role, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    let (caller, mut reader, mut writer) = pipe(limits.buffer);
    let (gone, is_gone) = watch::channel(false);
    let clock = Arc::new(Clock::new());
    let moved = clock.clone();
    let writing = tokio::spawn(async move {
        while let Some(chunk) = next_chunk(&mut reader).await {
            if sink.send(Message::binary(chunk)).await.is_err() {
                return;
            }
            moved.moved();
        }
        let _ = sink.close().await;
    });
    let idle = limits.idle;
    let reading = tokio::spawn(async move {
        let carry = async {
            while let Some(Ok(message)) = stream.next().await {
                clock.moved();
                if let Message::Binary(bytes) = message
                    && writer.write_all(&bytes).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = carry => {}
            () = clock.idle(idle) => {}
        }
        let _ = gone.send(true);
    });
    (caller, Link::new(is_gone, vec![writing, reading]))
}
