//! Channels on a WebSocket: each message begins with the number of its channel, as a byte or, in
//! the base64 protocols, as a digit before base64 text.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::Limits;
use crate::copy::Clock;
use crate::link::Link;
use crate::pipe::{next_chunk, pipe};

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// The status of the session.
pub const ERROR: u8 = 3;
/// Sizes of the terminal.
pub const RESIZE: u8 = 4;
/// In v5: the channel whose number follows is half-closed.
pub const CLOSE: u8 = 255;
/// Messages that wait to be sent.
const QUEUE: usize = 8;

/// How messages are written, and what they may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// base64 text instead of bytes.
    pub base64: bool,
    /// Channels can be half-closed (v5).
    pub close: bool,
}

impl Framing {
    /// A message for `channel`.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let digit = char::from(b'0' + channel % 10);
            return Message::text(format!("{digit}{}", STANDARD.encode(data)));
        }
        let mut bytes = Vec::with_capacity(data.len() + 1);
        bytes.push(channel);
        bytes.extend_from_slice(data);
        Message::binary(bytes)
    }

    /// The channel and the data of a message.
    pub fn decode(self, message: &Bytes) -> Result<(u8, Bytes), &'static str> {
        let channel = *message.first().ok_or("a message without a channel")?;
        let data = message.slice(1..);
        if !self.base64 {
            return Ok((channel, data));
        }
        if !channel.is_ascii_digit() {
            return Err("a channel that is no digit");
        }
        let data = STANDARD
            .decode(&data)
            .map_err(|_| "a message that is not base64")?;
        Ok((channel - b'0', Bytes::from(data)))
    }
}

type Inbound = BTreeMap<u8, WriteHalf<DuplexStream>>;

/// Channels that are being laid on a WebSocket.
pub struct Channels {
    framing: Framing,
    role: Role,
    buffer: usize,
    inbound: Inbound,
    sender: mpsc::Sender<Message>,
    queue: mpsc::Receiver<Message>,
}

impl Channels {
    /// None yet.
    pub fn new(framing: Framing, role: Role, limits: &Limits) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            framing,
            role,
            buffer: limits.buffer,
            inbound: Inbound::new(),
            sender,
            queue,
        }
    }

    /// A channel that the peer writes to.
    pub fn from_peer(&mut self, channel: u8) -> DuplexStream {
        let (caller, _, writer) = pipe(self.buffer);
        self.inbound.insert(channel, writer);
        caller
    }

    /// A channel that we write to. The task ends when everything has been given to the connection.
    pub fn to_peer(&mut self, channel: u8) -> (DuplexStream, JoinHandle<()>) {
        let (caller, reader, _) = pipe(self.buffer);
        (caller, self.pump(channel, reader))
    }

    /// A channel that both write to.
    pub fn both(&mut self, channel: u8) -> (DuplexStream, JoinHandle<()>) {
        let (caller, reader, writer) = pipe(self.buffer);
        self.inbound.insert(channel, writer);
        (caller, self.pump(channel, reader))
    }

    fn pump(&self, channel: u8, mut reader: ReadHalf<DuplexStream>) -> JoinHandle<()> {
        let (framing, sender) = (self.framing, self.sender.clone());
        // Only clients half-close: client-go complains of a channel 255 from the server.
        let close = framing.close && self.role == Role::Client;
        tokio::spawn(async move {
            while let Some(chunk) = next_chunk(&mut reader).await {
                if sender.send(framing.encode(channel, &chunk)).await.is_err() {
                    return;
                }
            }
            if close {
                let _ = sender.send(Message::binary(vec![CLOSE, channel])).await;
            }
        })
    }

    /// Sends one message before all others.
    pub fn greet(&self, channel: u8, data: &[u8]) {
        // There is room: nothing has been queued yet, and greetings are fewer than QUEUE.
        let _ = self.sender.try_send(self.framing.encode(channel, data));
    }

    /// While this is held, the end of all channels to the peer does not close the connection.
    pub fn keep_open(&self) -> mpsc::Sender<Message> {
        self.sender.clone()
    }

    /// Begins to carry the channels. The connection is closed in order when all channels to the
    /// peer have been half-closed.
    pub async fn run<IO>(self, io: IO, limits: &Limits) -> Link
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self {
            framing,
            role,
            inbound,
            sender,
            queue,
            ..
        } = self;
        drop(sender);
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits.message))
            .max_frame_size(Some(limits.message));
        let socket = WebSocketStream::from_raw_socket(io, role, Some(config)).await;
        let (sink, stream) = socket.split();
        let clock = Arc::new(Clock::new());
        let (gone, is_gone) = watch::channel(false);
        let writing = tokio::spawn(write(sink, queue, clock.clone()));
        let idle = limits.idle;
        let reading = tokio::spawn(async move {
            tokio::select! {
                () = read(stream, inbound, framing, &clock) => {}
                () = clock.idle(idle) => {}
            }
            let _ = gone.send(true);
        });
        Link::new(is_gone, vec![writing, reading])
    }
}

async fn write<IO>(
    mut sink: SplitSink<WebSocketStream<IO>, Message>,
    mut queue: mpsc::Receiver<Message>,
    clock: Arc<Clock>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = queue.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
        clock.moved();
    }
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = sink.send(Message::Close(Some(normal))).await;
}

/// Gives the peer's messages to their channels until the peer is gone or breaks the protocol.
async fn read<IO>(
    mut stream: SplitStream<WebSocketStream<IO>>,
    mut inbound: Inbound,
    framing: Framing,
    clock: &Clock,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        clock.moved();
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            // tungstenite answers pings and closes by itself while it is read.
            _ => continue,
        };
        let Ok((channel, data)) = framing.decode(&bytes) else {
            return;
        };
        if framing.close && channel == CLOSE {
            if let Some(mut writer) = data.first().and_then(|closed| inbound.remove(closed)) {
                let _ = writer.shutdown().await;
            }
            continue;
        }
        // Channels that nobody asked for, and those whose reader is gone, are passed over.
        if let Some(writer) = inbound.get_mut(&channel)
            && writer.write_all(&data).await.is_err()
        {
            inbound.remove(&channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BINARY: Framing = Framing {
        base64: false,
        close: false,
    };
    const BASE64: Framing = Framing {
        base64: true,
        close: false,
    };

    #[test]
    fn messages_are_as_kubernetes_documents_them() {
        assert_eq!(
            BINARY.encode(0, b"foo\n"),
            Message::binary(vec![0, 102, 111, 111, 10])
        );
        assert_eq!(BASE64.encode(0, b"foo\n"), Message::text("0Zm9vCg=="));
    }

    #[test]
    fn broken_messages_are_refused() {
        assert!(BINARY.decode(&Bytes::new()).is_err());
        assert!(BASE64.decode(&Bytes::from_static(b"xZm9v")).is_err());
        assert!(BASE64.decode(&Bytes::from_static(b"0!")).is_err());
    }

    proptest! {
        #[test]
        fn every_message_survives(base64: bool, channel in 0u8..10, data: Vec<u8>) {
            let framing = Framing { base64, close: false };
            let message = framing.encode(channel, &data).into_data();
            prop_assert_eq!(framing.decode(&message), Ok((channel, Bytes::from(data))));
        }
    }
}
