//! An asynchronous ttrpc client with the Task API's methods. One connection carries any number of
//! calls at once; a call that is dropped or timed out is forgotten, not cancelled at the shim.

mod task;

use crate::frame::{self, HEADER, Header, Kind};
use crate::pb::ttrpc::Request;
use crate::status::Status;
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the shim: it is gone, or never was.
    #[error("connect to shim at {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address is not of the form `unix:///path` or `/path`.
    #[error("shim address {0:?} is not a unix socket")]
    Address(String),
    /// The connection ended before the answer came. The call may or may not have been done.
    #[error("shim {method}: connection lost: {reason}")]
    Lost {
        /// The method called.
        method: &'static str,
        /// What ended the connection.
        reason: String,
    },
    /// No answer in time. The call may still be done later.
    #[error("shim {method}: no answer within {after:?}")]
    Timeout {
        /// The method called.
        method: &'static str,
        /// The time-out.
        after: Duration,
    },
    /// The shim's answer does not decode.
    #[error("shim {method}: {source}")]
    Protocol {
        /// The method called.
        method: &'static str,
        /// What is wrong with it.
        source: frame::Error,
    },
    /// The shim refused or failed.
    #[error("shim {method}: {status}")]
    Status {
        /// The method called.
        method: &'static str,
        /// Its answer.
        status: Status,
    },
}

impl Error {
    /// The shim's own answer, where the failure is one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether the shim says that what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status()
            .is_some_and(|s| s.code == crate::Code::NotFound)
    }

    /// Whether there is no shim behind the connection (any more).
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Lost { .. })
    }
}

type Answer = Result<Vec<u8>, Status>;

/// Calls that wait for an answer, by stream id; `Err` once the connection has ended.
type Waiting = Result<HashMap<u32, oneshot::Sender<Answer>>, String>;

struct Shared {
    waiting: Mutex<Waiting>,
    next: AtomicU32,
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    timeout: Duration,
}

/// A connection to one shim. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _closes: Arc<CloseOnDrop>,
}

struct CloseOnDrop(tokio::task::AbortHandle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes a waiting call out of the table if its future is dropped before the answer.
struct Forget<'a>(&'a Shared, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Ok(waiting) = self.0.lock().as_mut() {
            waiting.remove(&self.1);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Time-out of calls that do not name their own; runtime programs and freezers can be slow.
    pub const TIMEOUT: Duration = Duration::from_mins(10);

    /// Connects to a shim's address, as its bootstrap gave it (`unix:///path`), or to a path.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if !path.starts_with('/') {
            return Err(Error::Address(address.to_owned()));
        }
        let path = Path::new(path);
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| Error::Connect {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self::over(stream, Self::TIMEOUT))
    }

    /// Speaks over a connected stream; `timeout` is for the calls that do not name their own.
    pub fn over(stream: UnixStream, timeout: Duration) -> Self {
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Ok(HashMap::new())),
            next: AtomicU32::new(1),
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            timeout,
        });
        let task = tokio::spawn(read_all(reader, shared.clone()));
        Self {
            shared,
            _closes: Arc::new(CloseOnDrop(task.abort_handle())),
        }
    }

    /// Whether the connection still stands. A call on one that does not fails at once.
    pub fn is_connected(&self) -> bool {
        self.shared.lock().is_ok()
    }

    /// One unary call. Without a time-out it waits until the connection ends.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        service: &'static str,
        method: &'static str,
        request: &Q,
        timeout: Option<Duration>,
    ) -> Result<A, Error> {
        let call = self.exchange(service, method, request.encode_to_vec(), timeout);
        let answer = match timeout {
            Some(after) => tokio::time::timeout(after, call)
                .await
                .unwrap_or(Err(Error::Timeout { method, after }))?,
            None => call.await?,
        };
        let payload = answer.map_err(|status| Error::Status { method, status })?;
        A::decode(&payload[..]).map_err(|e| Error::Protocol {
            method,
            source: e.into(),
        })
    }

    async fn exchange(
        &self,
        service: &str,
        method: &'static str,
        payload: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Answer, Error> {
        let stream = self.shared.next.fetch_add(2, Ordering::Relaxed);
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: timeout.map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX)),
            metadata: Vec::new(),
        };
        let bytes = frame::request(stream, &request)
            .map_err(|source| Error::Protocol { method, source })?;
        let (sender, receiver) = oneshot::channel();
        match self.shared.lock().as_mut() {
            Ok(waiting) => waiting.insert(stream, sender),
            Err(reason) => {
                return Err(Error::Lost {
                    method,
                    reason: reason.clone(),
                });
            }
        };
        let _forget = Forget(&self.shared, stream);
        self.write(bytes).await.map_err(|e| Error::Lost {
            method,
            reason: e.to_string(),
        })?;
        receiver.await.map_err(|_| {
            let reason = self
                .shared
                .lock()
                .as_ref()
                .err()
                .cloned()
                .unwrap_or_default();
            Error::Lost { method, reason }
        })
    }

    /// Writes a frame whole even if the caller goes away in the middle of it: half a frame would
    /// break the connection for everybody.
    async fn write(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut writer = self.shared.writer.clone().lock_owned().await;
        // Nearly always the socket takes it at once.
        let sent = match writer.try_write(&bytes) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let task = tokio::spawn(async move { writer.write_all(&bytes[sent..]).await });
        task.await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}

/// Hands each response to the call that waits for it, until the connection ends.
async fn read_all(reader: OwnedReadHalf, shared: Arc<Shared>) {
    let reason = read_frames(reader, &shared).await;
    // Dropping the senders wakes every call that still waits.
    *shared.lock() = Err(reason);
}

async fn read_frames(reader: OwnedReadHalf, shared: &Shared) -> String {
    // Header and data in one read: nearly every answer is shorter than this.
    let mut reader = BufReader::with_capacity(512, reader);
    loop {
        let mut head = [0; HEADER];
        if let Err(error) = reader.read_exact(&mut head).await {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => "closed by the shim".to_owned(),
                _ => error.to_string(),
            };
        }
        let head = match Header::parse(head) {
            Ok(head) => head,
            Err(error) => return error.to_string(),
        };
        let mut data = vec![0; head.length];
        if let Err(error) = reader.read_exact(&mut data).await {
            return error.to_string();
        }
        if head.kind != Kind::Response {
            continue;
        }
        let answer = match frame::open_response(&data) {
            Ok(answer) => answer,
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let sender = shared
            .lock()
            .as_mut()
            .ok()
            .and_then(|w| w.remove(&head.stream));
        if let Some(sender) = sender {
            // A caller that has gone away needs no answer.
            let _ = sender.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::task;
    use crate::service::TASK_V3;

    async fn serve(mut stream: UnixStream) {
        let mut buffer = Vec::new();
        let mut held = Vec::new();
        while stream.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
            while let Some(frame) = frame::take(&mut buffer).unwrap() {
                let request = Request::decode(&frame.data[..]).unwrap();
                let answer = match request.method.as_str() {
                    "State" => Err(Status::not_found("no such task")),
                    "Wait" => {
                        held.push(frame.stream);
                        continue;
                    }
                    "Shutdown" => return,
                    _ => Ok(task::StartResponse { pid: frame.stream }.encode_to_vec()),
                };
                stream
                    .write_all(&frame::response(frame.stream, answer))
                    .await
                    .unwrap();
                // An answer out of order, after a later one.
                for stream_id in held.drain(..) {
                    let wait = task::WaitResponse {
                        exit_status: stream_id,
                        exited_at: None,
                    };
                    let bytes = frame::response(stream_id, Ok(wait.encode_to_vec()));
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }
    }

    fn pair() -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(serve(theirs));
        Client::over(ours, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let client = pair();
        let other = client.clone();
        let wait =
            tokio::spawn(async move { other.wait(&task::WaitRequest::default(), None).await });
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = client.start(&task::StartRequest::default()).await.unwrap();
        assert_eq!(start.pid, 3);
        assert_eq!(wait.await.unwrap().unwrap().exit_status, 1);
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_code() {
        let error = pair()
            .state(&task::StateRequest::default())
            .await
            .unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.to_string(), "shim State: no such task");
    }

    #[tokio::test]
    async fn no_answer_ends_at_the_time_out_and_is_forgotten() {
        let client = pair();
        let request = task::WaitRequest::default();
        let error = client
            .wait(&request, Some(Duration::from_millis(10)))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(client.shared.lock().as_ref().unwrap().is_empty());
        assert!(client.start(&task::StartRequest::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_connection_ends_every_call() {
        let client = pair();
        let other = client.clone();
        let wait =
            tokio::spawn(async move { other.wait(&task::WaitRequest::default(), None).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let down = client
            .call::<_, ()>(TASK_V3, "Shutdown", &task::ShutdownRequest::default(), None)
            .await
            .unwrap_err();
        assert!(down.is_gone(), "{down}");
        assert!(wait.await.unwrap().unwrap_err().is_gone());
        assert!(!client.is_connected());
        assert!(
            client
                .start(&task::StartRequest::default())
                .await
                .unwrap_err()
                .is_gone()
        );
    }
}
