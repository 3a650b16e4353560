//! Streams between the threads of a pipeline: buffers that are shared and used again.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use hyper::body::{Buf, Bytes};

/// Size of a buffer of unpacked bytes.
pub(super) const BUFFER: usize = 256 << 10;

/// Buffers that were used and may be used again, so that their pages are faulted in once.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    pub fn take(&self) -> Buffer {
        let bytes = self.0.lock().ok().and_then(|mut free| free.pop());
        let bytes = bytes.unwrap_or_else(|| vec![0; BUFFER]);
        Buffer {
            bytes,
            len: 0,
            pool: self.clone(),
        }
    }
}

/// A buffer that returns to its pool.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Pool,
}

impl Buffer {
    /// Reads until the buffer is full or the reader ends.
    pub fn fill(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        while self.len < self.bytes.len() {
            match reader.read(&mut self.bytes[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(mut free) = self.pool.0.lock() {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Reads what arrives on a channel; the end of the channel is the end of the stream.
pub(super) struct ChannelReader {
    receiver: Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    pub fn new(receiver: Receiver<Bytes>) -> Self {
        Self {
            receiver,
            current: Bytes::new(),
        }
    }
}

impl ChannelReader {
    /// The first `n` bytes that are left, fewer only at the end: chunks end where the network
    /// likes, also after one byte.
    pub fn peek(&mut self, n: usize) -> &[u8] {
        while self.current.len() < n {
            let Ok(chunk) = self.receiver.recv() else {
                break;
            };
            self.current = if self.current.is_empty() {
                chunk
            } else {
                Bytes::from([&self.current[..], &chunk].concat())
            };
        }
        &self.current
    }
}

impl BufRead for ChannelReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.receiver.recv() {
                Ok(chunk) => self.current = chunk,
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
