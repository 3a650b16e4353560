//! In-memory pipes between a session's streams and the connection that carries them.

use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

/// Bytes taken from a stream for one frame or message.
pub const CHUNK: usize = 32 << 10;

/// The two ends of a pipe: what the caller gets, and what the connection reads from and writes
/// to. Each holds `buffer` bytes in each direction.
pub fn pipe(
    buffer: usize,
) -> (
    DuplexStream,
    ReadHalf<DuplexStream>,
    WriteHalf<DuplexStream>,
) {
    let (caller, connection) = duplex(buffer);
    let (reader, writer) = split(connection);
    (caller, reader, writer)
}

/// The next bytes that the caller wrote; none once it has half-closed or dropped its end.
pub async fn next_chunk(reader: &mut ReadHalf<DuplexStream>) -> Option<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    match reader.read_buf(&mut chunk).await {
        Ok(count) if count > 0 => Some(chunk),
        _ => None,
    }
}
