//! The frames of an attach stream: one byte of stream, four bytes of big-endian length, data.

/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// Most bytes of data in a frame that either side accepts.
pub const MAX_DATA: usize = 1 << 20;

/// Which stream a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// To the process. Without data: close its standard input.
    Stdin = 0,
    /// From the process.
    Stdout = 1,
    /// From the process.
    Stderr = 2,
    /// From the shim: all output has been sent.
    End = 3,
}

/// A broken byte stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first byte is above 3.
    #[error("attach frame of unknown stream {0}")]
    Stream(u8),
    /// The length is above [`MAX_DATA`].
    #[error("attach frame of {0} bytes, of which at most {MAX_DATA} are allowed")]
    TooLong(usize),
}

/// Parses a header into stream and length of data.
pub fn parse(head: [u8; HEADER]) -> Result<(Stream, usize), Error> {
    let [stream, a, b, c, d] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_DATA {
        return Err(Error::TooLong(length));
    }
    let stream = match stream {
        0 => Stream::Stdin,
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        3 => Stream::End,
        other => return Err(Error::Stream(other)),
    };
    Ok((stream, length))
}

/// The header of a frame with `length` bytes of data, at most [`MAX_DATA`].
pub fn header(stream: Stream, length: usize) -> [u8; HEADER] {
    debug_assert!(length <= MAX_DATA);
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [stream as u8, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr, Stream::End] {
            assert_eq!(parse(header(stream, 70_000)), Ok((stream, 70_000)));
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(parse([4, 0, 0, 0, 0]), Err(Error::Stream(4)));
        assert_eq!(parse([1, 0xff, 0, 0, 0]), Err(Error::TooLong(0xff00_0000)));
    }
}
