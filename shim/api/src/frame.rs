//! ttrpc's framing, without IO: a ten-byte header (length and stream id as big-endian u32, type,
//! flags), then data of at most 4 MiB.

use crate::pb::ttrpc::{Request, Response};
use crate::status::Status;
use prost::Message;

/// Bytes of a frame's header.
pub const HEADER: usize = 10;
/// Most bytes of data in a frame that either side accepts.
pub const MAX_DATA: usize = 4 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a stream; an odd stream id.
    Request,
    /// Ends a stream.
    Response,
    /// A streaming call's data, which no service of ours has.
    Data,
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pairs a response with its request.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Flags, by kind; zero for unary calls.
    pub flags: u8,
    /// An encoded [`Request`] or [`Response`].
    pub data: Vec<u8>,
}

/// A broken byte stream; the connection cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The length field is above [`MAX_DATA`].
    #[error("ttrpc frame of {0} bytes, of which at most {MAX_DATA} are allowed")]
    TooLong(usize),
    /// The type field is not 1, 2 or 3.
    #[error("ttrpc frame of unknown type {0}")]
    Kind(u8),
    /// The data is not the message that the type says.
    #[error("ttrpc frame that does not decode: {0}")]
    Message(#[from] prost::DecodeError),
}

/// A header that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of data that follow.
    pub length: usize,
    /// Pairs a response with its request.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Flags, by kind.
    pub flags: u8,
}

impl Header {
    /// Parses and checks the ten bytes before a frame's data.
    pub fn parse(bytes: [u8; HEADER]) -> Result<Self, Error> {
        let word = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |word: &[u8; 4]| u32::from_be_bytes(*word))
        };
        let length = word(0) as usize;
        if length > MAX_DATA {
            return Err(Error::TooLong(length));
        }
        let kind = match bytes[8] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            other => return Err(Error::Kind(other)),
        };
        Ok(Self {
            length,
            stream: word(4),
            kind,
            flags: bytes[9],
        })
    }
}

/// Takes the first whole frame off the front of `buffer`; `None` until there is one.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Frame>, Error> {
    let Some(head) = buffer.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let head = Header::parse(*head)?;
    let end = HEADER + head.length;
    if buffer.len() < end {
        return Ok(None);
    }
    let data = buffer[HEADER..end].to_vec();
    buffer.drain(..end);
    Ok(Some(Frame {
        stream: head.stream,
        kind: head.kind,
        flags: head.flags,
        data,
    }))
}

fn encode(stream: u32, kind: u8, message: &impl Message) -> Result<Vec<u8>, Error> {
    let length = message.encoded_len();
    if length > MAX_DATA {
        return Err(Error::TooLong(length));
    }
    let mut out = Vec::with_capacity(HEADER + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    message.encode(&mut out).expect("a Vec grows as needed");
    Ok(out)
}

/// The bytes of a request frame.
pub fn request(stream: u32, request: &Request) -> Result<Vec<u8>, Error> {
    encode(stream, 1, request)
}

/// The bytes of a response frame. An answer that is too long becomes an error status, as a client
/// has to be told something.
pub fn response(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let message = match result {
        Ok(payload) => Response {
            status: None,
            payload,
        },
        Err(status) => Response {
            status: Some(status.into()),
            payload: Vec::new(),
        },
    };
    encode(stream, 2, &message).unwrap_or_else(|error| {
        let status = Status::internal(error.to_string()).into();
        let message = Response {
            status: Some(status),
            payload: Vec::new(),
        };
        encode(stream, 2, &message).expect("one line is below the limit")
    })
}

/// What a response's data says.
pub fn open_response(data: &[u8]) -> Result<Result<Vec<u8>, Status>, Error> {
    let response = Response::decode(data)?;
    Ok(match response.status {
        Some(status) if status.code != 0 => Err(status.into()),
        _ => Ok(response.payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;
    use proptest::prelude::*;

    fn sample() -> Request {
        Request {
            service: "s".into(),
            method: "m".into(),
            payload: vec![1, 2, 3],
            timeout_nano: 7,
            metadata: vec![],
        }
    }

    #[test]
    fn a_frame_cut_at_every_byte_is_read_whole_or_not_at_all() {
        let bytes = request(5, &sample()).unwrap();
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            assert_eq!(take(&mut buffer), Ok(None), "cut at {cut}");
            buffer.extend_from_slice(&bytes[cut..]);
            let frame = take(&mut buffer).unwrap().unwrap();
            assert_eq!(
                (frame.stream, frame.kind, frame.flags),
                (5, Kind::Request, 0)
            );
            assert_eq!(Request::decode(&frame.data[..]).unwrap(), sample());
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn the_header_is_ttrpcs() {
        let bytes = request(
            1,
            &Request {
                service: "ab".into(),
                ..Request::default()
            },
        )
        .unwrap();
        assert_eq!(bytes, [0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn lengths_and_types_out_of_range_are_refused() {
        let mut long = vec![0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0];
        assert_eq!(take(&mut long), Err(Error::TooLong(0xff00_0000)));
        let mut odd = vec![0, 0, 0, 0, 0, 0, 0, 1, 9, 0];
        assert_eq!(take(&mut odd), Err(Error::Kind(9)));
    }

    #[test]
    fn an_answer_above_the_limit_becomes_an_error() {
        let mut bytes = response(1, Ok(vec![0; MAX_DATA + 1]));
        let frame = take(&mut bytes).unwrap().unwrap();
        let error = open_response(&frame.data).unwrap().unwrap_err();
        assert_eq!(error.code, Code::Internal);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            while let Ok(Some(frame)) = take(&mut bytes) {
                let _ = Request::decode(&frame.data[..]);
                let _ = open_response(&frame.data);
            }
        }
    }
}
