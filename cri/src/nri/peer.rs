//! One plugin's connection: two ttrpc connections over one socket. Each payload is preceded by
//! eight bytes, the connection's number and the payload's length as big-endian u32. On connection
//! 1 the runtime calls the plugin, on 2 the plugin calls the runtime.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::BoxFuture;
use rrun_task_api::frame::{self, HEADER, Kind, MAX_DATA};
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::prost::Message;
use rrun_task_api::{Code, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The plugins' library reads a connection through a buffer of this size, and takes no payload
/// that is larger than what it reads into: a frame's first payload has to fit.
const FIRST: usize = 4096;

/// What a plugin asks of the runtime, by method and payload.
pub type Serve = dyn Fn(String, Vec<u8>) -> BoxFuture<'static, Answer> + Send + Sync;
type Answer = Result<Vec<u8>, Status>;

/// Why a call to a plugin has no result.
#[derive(Debug)]
pub enum Failure {
    /// The plugin's own answer.
    Refused(Status),
    /// The connection ended, no answer came in time, or it does not decode.
    Gone(String),
}

/// The connection. It ends when this is dropped.
pub struct Peer {
    shared: Arc<Shared>,
    reader: tokio::task::AbortHandle,
}

struct Shared {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    /// Calls that wait, by stream; `None` once the connection has ended.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Answer>>>>,
    next: AtomicU32,
    ended: watch::Sender<bool>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.waiting() = None;
        self.ended.send_replace(true);
    }

    async fn write(&self, connection: u32, frame: &[u8]) -> std::io::Result<()> {
        let (first, rest) = frame.split_at(frame.len().min(FIRST));
        let mut bytes = Vec::with_capacity(frame.len() + 16);
        for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
            bytes.extend_from_slice(&connection.to_be_bytes());
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        self.writer.lock().await.write_all(&bytes).await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reader.abort();
        self.shared.end();
    }
}

impl Peer {
    /// Speaks over a connected stream; `serve` answers what the plugin asks.
    pub fn over(stream: UnixStream, serve: Arc<Serve>) -> Self {
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Shared {
            writer: tokio::sync::Mutex::new(writer),
            waiting: Mutex::new(Some(HashMap::new())),
            next: AtomicU32::new(1),
            ended: watch::Sender::new(false),
        });
        let reading = shared.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = read(reader, &reading, &serve).await {
                tracing::debug!("an NRI plugin's connection: {error:#}");
            }
            reading.end();
        });
        Self {
            shared,
            reader: task.abort_handle(),
        }
    }

    /// Whether the connection has ended.
    pub fn is_ended(&self) -> bool {
        *self.shared.ended.borrow()
    }

    /// Waits for the end of the connection.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.shared.ended.subscribe();
        async move {
            // An error means that the other side of the channel is gone, which is an end too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Ends the connection.
    pub fn end(&self) {
        self.reader.abort();
        self.shared.end();
    }

    /// Calls the plugin.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Failure> {
        let answer = tokio::time::timeout(limit, self.exchange(method, request, limit)).await;
        let late = || Failure::Gone(format!("no answer to {method} within {limit:?}"));
        let payload = answer.map_err(|_| late())??;
        A::decode(&payload[..]).map_err(|e| Failure::Gone(format!("answer to {method}: {e}")))
    }

    async fn exchange(
        &self,
        method: &str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let stream = self.shared.next.fetch_add(2, Ordering::Relaxed);
        let request = Request {
            service: PLUGIN_SERVICE.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let gone = |why: String| Failure::Gone(format!("{method}: {why}"));
        let bytes = frame::request(stream, &request).map_err(|e| gone(e.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        match self.shared.waiting().as_mut() {
            Some(waiting) => waiting.insert(stream, sender),
            None => return Err(gone("the connection has ended".to_owned())),
        };
        // In a task of its own: a caller that goes away in the middle leaves no half frame.
        let shared = self.shared.clone();
        let written = tokio::spawn(async move { shared.write(PLUGIN, &bytes).await }).await;
        if let Ok(Err(error)) = written {
            return Err(gone(error.to_string()));
        }
        let answer = receiver.await;
        let answer = answer.map_err(|_| gone("the connection has ended".to_owned()))?;
        answer.map_err(Failure::Refused)
    }
}

/// Reads until the connection ends.
async fn read(mut reader: OwnedReadHalf, shared: &Arc<Shared>, serve: &Arc<Serve>) -> Result<()> {
    let mut buffers = [Vec::new(), Vec::new()];
    loop {
        let connection = reader.read_u32().await?;
        let length = reader.read_u32().await? as usize;
        if length > HEADER + MAX_DATA {
            bail!("a payload of {length} bytes, of which at most {MAX_DATA} are allowed");
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        let buffer = match connection {
            PLUGIN => &mut buffers[0],
            RUNTIME => &mut buffers[1],
            // Nobody listens there.
            _ => continue,
        };
        buffer.extend_from_slice(&payload);
        while let Some(frame) = frame::take(buffer)? {
            match (connection, frame.kind) {
                (PLUGIN, Kind::Response) => answered(shared, frame.stream, &frame.data)?,
                (RUNTIME, Kind::Request) => answer(shared, serve, frame.stream, &frame.data)?,
                _ => {}
            }
        }
    }
}

fn answered(shared: &Shared, stream: u32, data: &[u8]) -> Result<()> {
    let answer = frame::open_response(data)?;
    let sender = shared.waiting().as_mut().and_then(|w| w.remove(&stream));
    if let Some(sender) = sender {
        // A caller that has gone away needs no answer.
        let _ = sender.send(answer);
    }
    Ok(())
}

fn answer(shared: &Arc<Shared>, serve: &Arc<Serve>, stream: u32, data: &[u8]) -> Result<()> {
    let request = Request::decode(data)?;
    let (shared, serve) = (shared.clone(), serve.clone());
    tokio::spawn(async move {
        let answer = if request.service == RUNTIME_SERVICE {
            serve(request.method, request.payload).await
        } else {
            let message = format!("no service {:?} here", request.service);
            Err(Status::new(Code::Unimplemented, message))
        };
        // A plugin that has gone away needs no answer.
        let _ = shared
            .write(RUNTIME, &frame::response(stream, answer))
            .await;
    });
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A plugin that answers by a function and asks nothing.
    pub async fn plugin(
        mut stream: UnixStream,
        mut answer: impl FnMut(&str, Vec<u8>) -> Option<Answer>,
    ) {
        let mut buffer = Vec::new();
        loop {
            let Ok(connection) = stream.read_u32().await else {
                return;
            };
            let length = stream.read_u32().await.unwrap() as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            assert_eq!(connection, PLUGIN);
            assert!(!buffer.is_empty() || length <= FIRST);
            buffer.extend_from_slice(&payload);
            while let Some(frame) = frame::take(&mut buffer).unwrap() {
                let request = Request::decode(&frame.data[..]).unwrap();
                assert_eq!(request.service, PLUGIN_SERVICE);
                let Some(answer) = answer(&request.method, request.payload) else {
                    continue;
                };
                // In small pieces, as a stream may deliver anything.
                for part in frame::response(frame.stream, answer).chunks(7) {
                    stream.write_u32(PLUGIN).await.unwrap();
                    stream.write_u32(part.len() as u32).await.unwrap();
                    stream.write_all(part).await.unwrap();
                }
            }
        }
    }

    fn nothing() -> Arc<Serve> {
        Arc::new(|_, _| Box::pin(async { Ok(vec![]) }))
    }

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_call_of_any_size_gets_its_answer() {
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(plugin(far, |_, payload| Some(Ok(payload))));
        let peer = Peer::over(near, nothing());
        for size in [0, 100, 4083, 4084, 5000, 300_000] {
            let text = "x".repeat(size);
            let answer: String = peer.call("Echo", &text, LIMIT).await.unwrap();
            assert_eq!(answer.len(), size);
        }
    }

    #[tokio::test]
    async fn silence_and_an_end_are_told_from_a_refusal() {
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(plugin(far, |method, _| match method {
            "Refuse" => Some(Err(Status::invalid("no"))),
            _ => None,
        }));
        let peer = Peer::over(near, nothing());
        let refused = peer.call::<_, ()>("Refuse", &(), LIMIT).await.unwrap_err();
        assert!(matches!(refused, Failure::Refused(s) if s.message == "no"));
        let short = Duration::from_millis(20);
        let silent = peer.call::<_, ()>("Silent", &(), short).await.unwrap_err();
        assert!(matches!(silent, Failure::Gone(why) if why.contains("within")));
        peer.end();
        let ended = peer.call::<_, ()>("Refuse", &(), LIMIT).await.unwrap_err();
        assert!(matches!(ended, Failure::Gone(why) if why.contains("ended")));
        peer.ended().await;
    }

    #[tokio::test]
    async fn a_plugin_can_call_the_runtime() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let serve: Arc<Serve> =
            Arc::new(|method, _| Box::pin(async move { Ok(method.encode_to_vec()) }));
        let _peer = Peer::over(near, serve);
        let request = Request {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            ..Request::default()
        };
        let bytes = frame::request(7, &request).unwrap();
        far.write_u32(RUNTIME).await.unwrap();
        far.write_u32(bytes.len() as u32).await.unwrap();
        far.write_all(&bytes).await.unwrap();
        assert_eq!(far.read_u32().await.unwrap(), RUNTIME);
        let mut buffer = vec![0; far.read_u32().await.unwrap() as usize];
        far.read_exact(&mut buffer).await.unwrap();
        let frame = frame::take(&mut buffer).unwrap().unwrap();
        assert_eq!(frame.stream, 7);
        let payload = frame::open_response(&frame.data).unwrap().unwrap();
        assert_eq!(String::decode(&payload[..]).unwrap(), "RegisterPlugin");
    }

    #[tokio::test]
    async fn a_hostile_length_ends_the_connection() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let peer = Peer::over(near, nothing());
        far.write_all(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])
            .await
            .unwrap();
        tokio::time::timeout(LIMIT, peer.ended()).await.unwrap();
    }
}
