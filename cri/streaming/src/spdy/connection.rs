//! A SPDY connection: frames to streams and back, by one reading and one writing task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, DuplexStream,
    ReadHalf, WriteHalf, split,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::SPDY_3_1;
use super::flow::Flow;
use super::frame::{Control, Head, LONGEST_CONTROL, Reset};
use super::headers::{Deflate, Headers, Inflate};
use crate::copy::Clock;
use crate::link::Link;
use crate::pipe::{CHUNK, next_chunk, pipe};
use crate::{Error, Limits};

/// Data frames that wait to be sent.
const QUEUE: usize = 16;
/// Control frames that wait to be sent. Reading never waits for writing, or two peers that both
/// write would wait for each other for ever; a peer that asks for more answers than this without
/// reading any is given up.
const ANSWERS: usize = 1024;
/// Status of GOAWAY.
const PROTOCOL_ERROR: u32 = 1;

/// Which side of a connection we are: clients open odd streams, servers even ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened the connection.
    Client,
    /// The peer opened the connection.
    Server,
}

/// Decides by a stream's headers whether the stream is taken.
pub type Admit = fn(&Headers) -> bool;

/// One stream.
pub struct Stream {
    /// Number on the wire.
    pub id: u32,
    /// What the opener said of it.
    pub headers: Headers,
    /// Its bytes in both directions; `shutdown` half-closes.
    pub io: DuplexStream,
    /// Ends when everything that was written has been given to the connection.
    pub sender: JoinHandle<()>,
}

/// For the writing task, in order.
enum Out {
    Data {
        stream: u32,
        fin: bool,
        data: Vec<u8>,
    },
    /// GOAWAY with this status, then the end of our direction.
    Close(u32),
}

type Inbound = Arc<tokio::sync::Mutex<Option<WriteHalf<DuplexStream>>>>;

/// What the connection knows of a stream.
struct Entry {
    inbound: Inbound,
    pump: AbortHandle,
    /// Waits for SYN_REPLY or RST_STREAM.
    opened: Option<oneshot::Sender<bool>>,
    peer_done: bool,
    own_done: bool,
}

struct Shared {
    limits: Limits,
    queue: mpsc::Sender<Out>,
    /// Goes before the queue.
    control: mpsc::Sender<Control>,
    streams: Mutex<HashMap<u32, Entry>>,
    flow: Flow,
    clock: Clock,
    /// The last stream that the peer opened.
    last: AtomicU32,
}

/// Opens streams on a connection.
#[derive(Clone)]
pub struct Opener {
    shared: Arc<Shared>,
    /// The next number; locked while SYN_STREAM is queued, because numbers must rise on the wire.
    next: Arc<tokio::sync::Mutex<u32>>,
}

/// A connection. Dropping it closes it.
pub struct Connection {
    /// The tasks.
    pub link: Link,
    /// Opens streams.
    pub opener: Opener,
    accepted: mpsc::Receiver<Stream>,
}

impl Connection {
    /// Begins to speak SPDY on `io`. Streams of the peer that `admit` does not want are refused.
    pub fn new<IO>(io: IO, role: Role, limits: &Limits, admit: Admit) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (reader, writer) = split(io);
        let (queue, queued) = mpsc::channel(QUEUE);
        let (control, controls) = mpsc::channel(ANSWERS);
        let (accept, accepted) = mpsc::channel(limits.streams.max(1));
        let (gone, is_gone) = watch::channel(false);
        let shared = Arc::new(Shared {
            limits: *limits,
            queue,
            control,
            streams: Mutex::default(),
            flow: Flow::new(),
            clock: Clock::new(),
            last: AtomicU32::new(0),
        });
        let writing = tokio::spawn(write(writer, controls, queued, shared.clone()));
        let reading = Reading {
            shared: shared.clone(),
            reader: BufReader::with_capacity(CHUNK, reader),
            inflate: Inflate::new(),
            role,
            admit,
            accept,
        };
        let reading = tokio::spawn(reading.run(gone));
        let next = Arc::new(tokio::sync::Mutex::new(match role {
            Role::Client => 1,
            Role::Server => 2,
        }));
        Self {
            link: Link::new(is_gone, vec![writing, reading]),
            opener: Opener { shared, next },
            accepted,
        }
    }

    /// The next stream that the peer opened; none when the peer is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Tells the peer that we are done, and waits until it is gone, but not for ever.
    pub async fn close(self) {
        let _ = self.opener.shared.queue.send(Out::Close(0)).await;
        self.link.part().await;
    }
}

impl Opener {
    /// Opens a stream and waits until the peer has taken it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Error> {
        let closed = || Error::io("open a stream", std::io::ErrorKind::BrokenPipe.into());
        let (opened, taken) = oneshot::channel();
        let stream = {
            let mut next = self.next.lock().await;
            let id = *next;
            *next += 2;
            let stream = self.shared.add(id, headers.clone(), Some(opened));
            let frame = Control::SynStream {
                stream: id,
                fin: false,
                headers,
            };
            self.shared
                .control
                .send(frame)
                .await
                .map_err(|_| closed())?;
            stream
        };
        let limit = self.shared.limits.creation;
        match timeout(limit, taken).await {
            Ok(Ok(true)) => Ok(stream),
            Ok(Ok(false)) => Err(Error::Protocol {
                protocol: SPDY_3_1,
                message: "the peer refused a stream".to_owned(),
            }),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::Timeout {
                what: "opening a stream",
                limit,
            }),
        }
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        // Every change of the map is one call; a panic elsewhere leaves it whole.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        self: &Arc<Self>,
        id: u32,
        headers: Headers,
        opened: Option<oneshot::Sender<bool>>,
    ) -> Stream {
        let (io, reader, writer) = pipe(self.limits.buffer);
        self.flow.add(id);
        // Locked before the pump begins: it marks its end in the entry.
        let mut streams = self.streams();
        let sender = tokio::spawn(pump(self.clone(), id, reader));
        let entry = Entry {
            inbound: Arc::new(tokio::sync::Mutex::new(Some(writer))),
            pump: sender.abort_handle(),
            opened,
            peer_done: false,
            own_done: false,
        };
        streams.insert(id, entry);
        Stream {
            id,
            headers,
            io,
            sender,
        }
    }

    /// Notes that one direction of a stream has ended; a stream without directions is forgotten.
    fn done(&self, id: u32, mark: impl FnOnce(&mut Entry)) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            mark(entry);
            if entry.peer_done && entry.own_done {
                streams.remove(&id);
                self.flow.remove(id);
            }
        }
    }

    fn forget(&self, id: u32) {
        if let Some(entry) = self.streams().remove(&id) {
            entry.pump.abort();
            if let Some(opened) = entry.opened {
                let _ = opened.send(false);
            }
        }
        self.flow.remove(id);
    }
}

/// Sends what the caller writes to a stream.
async fn pump(shared: Arc<Shared>, stream: u32, mut reader: ReadHalf<DuplexStream>) {
    while let Some(chunk) = next_chunk(&mut reader).await {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            let Some(count) = shared.flow.reserve(stream, rest.len()).await else {
                return;
            };
            let (data, after) = rest.split_at(count);
            rest = after;
            let out = Out::Data {
                stream,
                fin: false,
                data: data.to_vec(),
            };
            if shared.queue.send(out).await.is_err() {
                return;
            }
        }
    }
    let _ = shared
        .queue
        .send(Out::Data {
            stream,
            fin: true,
            data: Vec::new(),
        })
        .await;
    shared.done(stream, |entry| entry.own_done = true);
}

/// Writes frames, control frames first, and flushes when there is no more to write.
async fn write<W: AsyncWrite>(
    writer: WriteHalf<W>,
    mut controls: mpsc::Receiver<Control>,
    mut queue: mpsc::Receiver<Out>,
    shared: Arc<Shared>,
) {
    let mut writer = BufWriter::with_capacity(CHUNK, writer);
    let mut deflate = Deflate::new();
    loop {
        let written = tokio::select! {
            biased;
            Some(frame) = controls.recv() => writer.write_all(&frame.encode(&mut deflate)).await,
            Some(out) = queue.recv() => match out {
                Out::Data { stream, fin, data } => {
                    match writer.write_all(&Head::data(stream, fin, data.len())).await {
                        Ok(()) => writer.write_all(&data).await,
                        error => error,
                    }
                }
                Out::Close(status) => {
                    let last = shared.last.load(Ordering::Relaxed);
                    let frame = Control::GoAway { last, status };
                    // A peer that is gone already needs no farewell.
                    let _ = writer.write_all(&frame.encode(&mut deflate)).await;
                    let _ = writer.shutdown().await;
                    return;
                }
            },
            else => return,
        };
        shared.clock.moved();
        let flushed = match written {
            Ok(()) if controls.is_empty() && queue.is_empty() => writer.flush().await,
            written => written,
        };
        if flushed.is_err() {
            return;
        }
    }
}

/// The reading task's own things.
struct Reading<R> {
    shared: Arc<Shared>,
    reader: BufReader<ReadHalf<R>>,
    inflate: Inflate,
    role: Role,
    admit: Admit,
    accept: mpsc::Sender<Stream>,
}

/// Why reading ended.
enum End {
    /// The connection is closed, by whomever.
    Closed,
    /// The peer sent what it must not.
    Broken,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

impl From<&'static str> for End {
    fn from(_: &'static str) -> Self {
        Self::Broken
    }
}

impl<R: AsyncRead> Reading<R> {
    async fn run(mut self, gone: watch::Sender<bool>) {
        let shared = self.shared.clone();
        let idle = shared.limits.idle;
        let end = tokio::select! {
            end = self.frames() => end,
            () = shared.clock.idle(idle) => End::Closed,
        };
        if let End::Broken = end {
            // If the peer does not even read, the message may be left out.
            let _ = shared.queue.try_send(Out::Close(PROTOCOL_ERROR));
        }
        let entries: Vec<_> = shared.streams().drain().collect();
        for (id, entry) in entries {
            entry.pump.abort();
            shared.flow.remove(id);
        }
        let _ = gone.send(true);
    }

    async fn frames(&mut self) -> End {
        loop {
            if let Err(end) = self.frame().await {
                return end;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), End> {
        let mut head = [0; 8];
        self.reader.read_exact(&mut head).await?;
        self.shared.clock.moved();
        match Head::parse(head)? {
            Head::Data {
                stream,
                fin,
                length,
            } => self.data(stream, fin, length).await,
            Head::Control {
                kind,
                flags,
                length,
            } => {
                debug_assert!(length <= LONGEST_CONTROL, "Head::parse refuses longer ones");
                let mut payload = vec![0; length];
                self.reader.read_exact(&mut payload).await?;
                let frame = Control::parse(kind, flags, &payload, &mut self.inflate)?;
                self.control(frame).await
            }
        }
    }

    /// Gives a data frame to its stream piece by piece, however long it is. A stream whose reader
    /// is slow holds the connection up, as TCP would.
    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<(), End> {
        let inbound = self
            .shared
            .streams()
            .get(&stream)
            .map(|entry| entry.inbound.clone());
        let mut left = length;
        let mut piece = vec![0; length.min(CHUNK)];
        while left > 0 {
            let count = left.min(CHUNK);
            self.reader.read_exact(&mut piece[..count]).await?;
            self.shared.clock.moved();
            left -= count;
            // Data for a stream that we have ended may be under way: it is passed over.
            if let Some(inbound) = &inbound {
                let mut inbound = inbound.lock().await;
                if let Some(writer) = inbound.as_mut()
                    && writer.write_all(&piece[..count]).await.is_err()
                {
                    *inbound = None;
                }
            }
        }
        self.grant(stream, length)?;
        if fin {
            self.peer_done(stream).await;
        }
        Ok(())
    }

    /// Lets the peer send as much again.
    fn grant(&mut self, stream: u32, length: usize) -> Result<(), End> {
        let (stream_delta, session_delta) = self.shared.flow.received(stream, length);
        for (stream, delta) in [(stream, stream_delta), (0, session_delta)] {
            if let Some(delta) = delta {
                self.tell(Control::WindowUpdate { stream, delta })?;
            }
        }
        Ok(())
    }

    async fn peer_done(&mut self, stream: u32) {
        let inbound = self
            .shared
            .streams()
            .get(&stream)
            .map(|entry| entry.inbound.clone());
        if let Some(inbound) = inbound
            && let Some(mut writer) = inbound.lock().await.take()
        {
            let _ = writer.shutdown().await;
        }
        self.shared.done(stream, |entry| entry.peer_done = true);
    }

    async fn control(&mut self, frame: Control) -> Result<(), End> {
        match frame {
            Control::SynStream {
                stream,
                fin,
                headers,
            } => {
                self.syn_stream(stream, headers)?;
                if fin {
                    self.peer_done(stream).await;
                }
            }
            Control::SynReply { stream, fin, .. } => {
                let opened = self
                    .shared
                    .streams()
                    .get_mut(&stream)
                    .and_then(|e| e.opened.take());
                if let Some(opened) = opened {
                    let _ = opened.send(true);
                }
                if fin {
                    self.peer_done(stream).await;
                }
            }
            Control::Headers { stream, fin: true } => self.peer_done(stream).await,
            Control::Reset { stream, .. } => {
                self.peer_done(stream).await;
                self.shared.forget(stream);
            }
            Control::Ping { id } if (id % 2 == 1) == (self.role == Role::Server) => {
                self.tell(Control::Ping { id })?;
            }
            Control::Settings {
                initial_window: Some(window),
            } => {
                self.shared.flow.set_initial(window);
            }
            Control::WindowUpdate { stream, delta } => self.shared.flow.granted(stream, delta),
            // After GOAWAY the peer goes on with the streams that there are, then closes.
            _ => {}
        }
        Ok(())
    }

    fn syn_stream(&mut self, stream: u32, headers: Headers) -> Result<(), End> {
        let peer_is_odd = self.role == Role::Server;
        let last = self.shared.last.load(Ordering::Relaxed);
        if (stream % 2 == 1) != peer_is_odd || stream <= last {
            // A number of our side, or one that does not rise.
            return Err(End::Broken);
        }
        self.shared.last.store(stream, Ordering::Relaxed);
        let room = self.shared.streams().len() < self.shared.limits.streams;
        if !room || !(self.admit)(&headers) {
            let status = Reset::RefusedStream as u32;
            return self.tell(Control::Reset { stream, status });
        }
        let accepted = self.shared.add(stream, headers, None);
        if self.accept.try_send(accepted).is_err() {
            self.shared.forget(stream);
            let status = Reset::RefusedStream as u32;
            return self.tell(Control::Reset { stream, status });
        }
        self.tell(Control::SynReply {
            stream,
            fin: false,
            headers: Headers::new(),
        })
    }

    fn tell(&self, frame: Control) -> Result<(), End> {
        self.shared.control.try_send(frame).map_err(|_| End::Broken)
    }
}
