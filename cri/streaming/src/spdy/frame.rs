//! Frames of SPDY/3.1 (draft 3.1, section 2.2 and 2.6): bytes to values and back, without IO.

use super::headers::{Deflate, Headers, Inflate};

/// The version that control frames carry.
const VERSION: u16 = 3;
/// Longest payload of a control frame that is taken, in bytes.
pub const LONGEST_CONTROL: usize = 32 << 10;
/// Longest payload of a data frame on the wire (24 bits).
pub const LONGEST_DATA: usize = (1 << 24) - 1;
/// FLAG_FIN of SYN_STREAM, SYN_REPLY, HEADERS and data frames: the sender half-closes.
pub const FIN: u8 = 1;
const STREAM_ID: u32 = 0x7fff_ffff;

/// The eight bytes that every frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A control frame, whose payload is read whole.
    Control {
        /// SYN_STREAM 1 to WINDOW_UPDATE 9.
        kind: u16,
        /// Flags of the frame.
        flags: u8,
        /// Bytes of payload that follow.
        length: usize,
    },
    /// A data frame, whose payload may be read in pieces.
    Data {
        /// The stream that the data is for.
        stream: u32,
        /// The sender half-closes the stream after this frame.
        fin: bool,
        /// Bytes of payload that follow.
        length: usize,
    },
}

impl Head {
    /// Takes the first eight bytes of a frame apart.
    pub fn parse(bytes: [u8; 8]) -> Result<Self, &'static str> {
        let [a, b, c, d, flags, length @ ..] = bytes;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        if first & !STREAM_ID == 0 {
            let stream = first & STREAM_ID;
            let fin = flags & FIN != 0;
            return match stream {
                0 => Err("a data frame for stream 0"),
                stream => Ok(Self::Data {
                    stream,
                    fin,
                    length,
                }),
            };
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err("a control frame of another version than 3");
        }
        if length > LONGEST_CONTROL {
            return Err("a control frame of more than 32 KiB");
        }
        let kind = first as u16;
        Ok(Self::Control {
            kind,
            flags,
            length,
        })
    }

    /// The first eight bytes of a data frame.
    pub fn data(stream: u32, fin: bool, length: usize) -> [u8; 8] {
        debug_assert!(length <= LONGEST_DATA, "callers cut data to the frame size");
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&(stream & STREAM_ID).to_be_bytes());
        bytes[4..].copy_from_slice(&(length as u32).to_be_bytes());
        bytes[4] = u8::from(fin);
        bytes
    }
}

/// Why a stream is reset (RST_STREAM, section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The peer broke the protocol on this stream.
    ProtocolError = 1,
    /// A frame for a stream that does not exist.
    InvalidStream = 2,
    /// The stream was refused before anything was done.
    RefusedStream = 3,
    /// The opener needs the stream no more.
    Cancel = 5,
}

/// A control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Opens a stream.
    SynStream {
        /// Odd from clients, even from servers.
        stream: u32,
        /// The sender half-closes at once.
        fin: bool,
        /// What the stream is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream of the SYN_STREAM.
        stream: u32,
        /// The sender half-closes at once.
        fin: bool,
        /// Unused by Kubernetes.
        headers: Headers,
    },
    /// Ends a stream in both directions.
    Reset {
        /// The stream.
        stream: u32,
        /// A number of [`Reset`], or one that we do not know.
        status: u32,
    },
    /// Tells settings; only the initial window of streams is looked at.
    Settings {
        /// SETTINGS_INITIAL_WINDOW_SIZE (7) in bytes, where given.
        initial_window: Option<u32>,
    },
    /// Asks for an echo, or is one.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// The sender takes no more streams.
    GoAway {
        /// The last stream that the sender took.
        last: u32,
        /// 0 in order, 1 protocol error, 2 internal error.
        status: u32,
    },
    /// More headers for a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// The sender half-closes after this frame.
        fin: bool,
    },
    /// Lets the receiver of this frame send `delta` bytes more.
    WindowUpdate {
        /// The stream, or 0 for the session.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// A kind of frame that is ignored (NOOP, CREDENTIAL and unknown ones).
    Other,
}

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const INITIAL_WINDOW_SIZE: u32 = 7;

impl Control {
    /// Takes a control frame's payload apart. `inflate` is the connection's; an error means that
    /// the connection must be given up.
    pub fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflate: &mut Inflate,
    ) -> Result<Self, &'static str> {
        let fin = flags & FIN != 0;
        let mut fields = Fields(payload);
        let frame = match kind {
            SYN_STREAM => {
                let stream = fields.stream()?;
                // The associated stream, the priority and the slot: Kubernetes uses none.
                fields.skip(6)?;
                let headers = inflate.block(fields.rest())?;
                Self::SynStream {
                    stream,
                    fin,
                    headers,
                }
            }
            SYN_REPLY => {
                let stream = fields.stream()?;
                let headers = inflate.block(fields.rest())?;
                Self::SynReply {
                    stream,
                    fin,
                    headers,
                }
            }
            HEADERS => {
                let stream = fields.stream()?;
                // Inflated all the same: the blocks of a connection are one zlib stream.
                inflate.block(fields.rest())?;
                Self::Headers { stream, fin }
            }
            RST_STREAM => Self::Reset {
                stream: fields.stream()?,
                status: fields.number()?,
            },
            SETTINGS => Self::settings(&mut fields)?,
            PING => Self::Ping {
                id: fields.number()?,
            },
            GOAWAY => Self::GoAway {
                last: fields.number()? & STREAM_ID,
                status: fields.number()?,
            },
            WINDOW_UPDATE => Self::WindowUpdate {
                stream: fields.number()? & STREAM_ID,
                delta: fields.number()? & STREAM_ID,
            },
            _ => {
                fields.rest();
                Self::Other
            }
        };
        if fields.0.is_empty() {
            Ok(frame)
        } else {
            Err("a control frame longer than its fields")
        }
    }

    fn settings(fields: &mut Fields<'_>) -> Result<Self, &'static str> {
        let mut initial_window = None;
        for _ in 0..fields.number()? {
            let id = fields.number()? & 0x00ff_ffff;
            let value = fields.number()?;
            if id == INITIAL_WINDOW_SIZE {
                initial_window = Some(value & STREAM_ID);
            }
        }
        Ok(Self::Settings { initial_window })
    }

    /// The whole frame in bytes. Frames must be written in the order in which they were encoded:
    /// header blocks are one zlib stream.
    pub fn encode(&self, deflate: &mut Deflate) -> Vec<u8> {
        let numbers = |list: &[u32]| {
            list.iter()
                .flat_map(|n| n.to_be_bytes())
                .collect::<Vec<_>>()
        };
        let (kind, fin, payload) = match self {
            Self::SynStream {
                stream,
                fin,
                headers,
            } => {
                let mut payload = numbers(&[*stream, 0]);
                payload.extend_from_slice(&[0, 0]);
                payload.extend_from_slice(&deflate.block(headers));
                (SYN_STREAM, *fin, payload)
            }
            Self::SynReply {
                stream,
                fin,
                headers,
            } => {
                let mut payload = numbers(&[*stream]);
                payload.extend_from_slice(&deflate.block(headers));
                (SYN_REPLY, *fin, payload)
            }
            Self::Headers { stream, fin } => {
                let mut payload = numbers(&[*stream]);
                payload.extend_from_slice(&deflate.block(&Headers::new()));
                (HEADERS, *fin, payload)
            }
            Self::Reset { stream, status } => (RST_STREAM, false, numbers(&[*stream, *status])),
            Self::Settings { initial_window } => {
                let payload = match initial_window {
                    Some(window) => numbers(&[1, INITIAL_WINDOW_SIZE, *window]),
                    None => numbers(&[0]),
                };
                (SETTINGS, false, payload)
            }
            Self::Ping { id } => (PING, false, numbers(&[*id])),
            Self::GoAway { last, status } => (GOAWAY, false, numbers(&[*last, *status])),
            Self::WindowUpdate { stream, delta } => {
                (WINDOW_UPDATE, false, numbers(&[*stream, *delta]))
            }
            Self::Other => return Vec::new(),
        };
        let mut frame = Vec::with_capacity(8 + payload.len());
        frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
        frame.extend_from_slice(&kind.to_be_bytes());
        let length = payload.len() as u32 | u32::from(fin) << 24;
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&payload);
        frame
    }
}

/// The rest of a control frame's payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u32, &'static str> {
        let (number, rest) = self
            .0
            .split_first_chunk()
            .ok_or("a control frame cut short")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn stream(&mut self) -> Result<u32, &'static str> {
        match self.number()? & STREAM_ID {
            0 => Err("a control frame for stream 0"),
            stream => Ok(stream),
        }
    }

    fn skip(&mut self, count: usize) -> Result<(), &'static str> {
        self.0 = self.0.get(count..).ok_or("a control frame cut short")?;
        Ok(())
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(frame: &Control) -> Result<Control, &'static str> {
        let bytes = frame.encode(&mut Deflate::new());
        let head = *bytes.first_chunk::<8>().expect("a frame has a head");
        let Head::Control {
            kind,
            flags,
            length,
        } = Head::parse(head)?
        else {
            return Err("not a control frame");
        };
        assert_eq!(length, bytes.len() - 8);
        Control::parse(kind, flags, &bytes[8..], &mut Inflate::new())
    }

    fn frames() -> impl Strategy<Value = Control> {
        let stream = 1..=STREAM_ID;
        let headers = "[a-z]{1,8}".prop_map(|value| Headers::new().with("streamtype", &value));
        prop_oneof![
            (stream.clone(), any::<bool>(), headers.clone()).prop_map(|(stream, fin, headers)| {
                Control::SynStream {
                    stream,
                    fin,
                    headers,
                }
            }),
            (stream.clone(), any::<bool>(), headers).prop_map(|(stream, fin, headers)| {
                Control::SynReply {
                    stream,
                    fin,
                    headers,
                }
            }),
            (stream.clone(), any::<bool>())
                .prop_map(|(stream, fin)| Control::Headers { stream, fin }),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, status)| Control::Reset { stream, status }),
            prop::option::of(0..=STREAM_ID)
                .prop_map(|initial_window| Control::Settings { initial_window }),
            any::<u32>().prop_map(|id| Control::Ping { id }),
            (0..=STREAM_ID, any::<u32>())
                .prop_map(|(last, status)| Control::GoAway { last, status }),
            (0..=STREAM_ID, 0..=STREAM_ID)
                .prop_map(|(stream, delta)| Control::WindowUpdate { stream, delta }),
        ]
    }

    #[test]
    fn a_data_head_is_as_the_draft_draws_it() {
        assert_eq!(Head::data(5, true, 0x01_0203), [0, 0, 0, 5, 1, 1, 2, 3]);
    }

    /// Bytes of a SYN_STREAM for stream 1 without headers, but for the header block.
    #[test]
    fn a_syn_stream_is_as_the_draft_draws_it() {
        let frame = Control::SynStream {
            stream: 1,
            fin: true,
            headers: Headers::new(),
        };
        let bytes = frame.encode(&mut Deflate::new());
        assert_eq!(bytes[..5], [0x80, 3, 0, 1, 1]);
        assert_eq!(bytes[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn stream_0_and_other_versions_are_refused() {
        assert!(Head::parse([0; 8]).is_err());
        assert!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(Head::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn a_settings_count_beyond_the_frame_is_refused() {
        let payload = [0xff; 12];
        assert!(Control::parse(SETTINGS, 0, &payload, &mut Inflate::new()).is_err());
    }

    proptest! {
        #[test]
        fn every_control_frame_survives(frame in frames()) {
            prop_assert_eq!(round(&frame), Ok(frame));
        }

        #[test]
        fn every_data_head_survives(stream in 1..=STREAM_ID, fin: bool, length in 0..=LONGEST_DATA) {
            let head = Head::parse(Head::data(stream, fin, length));
            prop_assert_eq!(head, Ok(Head::Data { stream, fin, length }));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(
            head: [u8; 8], kind in 0u16..12, payload in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = Head::parse(head);
            let _ = Control::parse(kind, head[4], &payload, &mut Inflate::new());
        }
    }
}
