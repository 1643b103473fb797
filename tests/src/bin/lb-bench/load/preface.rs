// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a load server finds at the beginning of a flow: perhaps a PROXY protocol header (HAProxy, doc/proxy-protocol.txt), and
//! the ClientHello whose session id says what to do.

use serde::{Deserialize, Serialize};

use super::hello;

/// The fixed start of a version 2 header.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest version 1 header, line end included.
const V1_MAX: usize = 107;

/// Which PROXY protocol header came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    /// None.
    None,
    /// A line of text.
    V1,
    /// The binary one.
    V2,
}

impl Header {
    /// The byte that stands for it in a server's answer.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// What the server of a flow shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send so many bytes, then close. The first two are [`Header::byte`] and the server's route.
    Source(u64),
    /// Read so many bytes, answer with their number in 8 bytes, then close.
    Sink(u64),
    /// Send back what comes, until the client closes.
    Echo,
}

impl Request {
    /// As the session id of a ClientHello.
    pub fn to_session_id(self) -> [u8; 32] {
        let (kind, bytes) = match self {
            Self::Source(bytes) => (1, bytes),
            Self::Sink(bytes) => (2, bytes),
            Self::Echo => (3, 0),
        };
        let mut id = [0x5a; 32];
        id[0] = kind;
        id[1..9].copy_from_slice(&bytes.to_be_bytes());
        id
    }

    fn from_session_id(id: &[u8]) -> Option<Self> {
        let bytes = u64::from_be_bytes(id.get(1..9)?.try_into().ok()?);
        match id[0] {
            1 => Some(Self::Source(bytes)),
            2 => Some(Self::Sink(bytes)),
            3 => Some(Self::Echo),
            _ => None,
        }
    }
}

/// What the first bytes of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// Its beginning.
    NeedMore,
    /// Nothing that a client of ours sends through a balancer that works.
    Invalid,
    /// All of it.
    Complete {
        /// What came before the ClientHello.
        header: Header,
        /// What the ClientHello asks for.
        request: Request,
        /// Bytes of header and hello.
        length: usize,
    },
}

impl Preface {
    /// Reads the first bytes of a flow.
    pub fn parse(bytes: &[u8]) -> Self {
        let Some(first) = bytes.first() else { return Self::NeedMore };
        let (header, header_length) = match first {
            b'\r' => (Header::V2, v2_length(bytes)),
            b'P' => (Header::V1, v1_length(bytes)),
            _ => (Header::None, Length::Of(0)),
        };
        match header_length {
            Length::NeedMore => Self::NeedMore,
            Length::Invalid => Self::Invalid,
            Length::Of(length) => hello_after(bytes, header, length),
        }
    }
}

enum Length {
    NeedMore,
    Invalid,
    Of(usize),
}

fn v2_length(bytes: &[u8]) -> Length {
    let Some((start, rest)) = bytes.split_at_checked(16) else { return Length::NeedMore };
    if !start.starts_with(V2_SIGNATURE) {
        return Length::Invalid;
    }
    let length = usize::from(u16::from_be_bytes([start[14], start[15]]));
    if rest.len() < length { Length::NeedMore } else { Length::Of(16 + length) }
}

fn v1_length(bytes: &[u8]) -> Length {
    match bytes.windows(2).position(|pair| pair == b"\r\n") {
        Some(position) if position + 2 <= V1_MAX && bytes.starts_with(b"PROXY ") => Length::Of(position + 2),
        None if bytes.len() < V1_MAX => Length::NeedMore,
        _ => Length::Invalid,
    }
}

fn hello_after(bytes: &[u8], header: Header, start: usize) -> Preface {
    let wire = &bytes[start..];
    if wire.first().is_some_and(|kind| *kind != 22) {
        return Preface::Invalid;
    }
    if wire.len() < hello::SIZE {
        return Preface::NeedMore;
    }
    let request = Request::from_session_id(&wire[hello::SESSION_ID]);
    request.map_or(Preface::Invalid, |request| Preface::Complete {
        header,
        request,
        length: start + hello::SIZE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_found_behind_any_header() {
        let request = Request::Sink(1 << 40);
        let hello = hello::client_hello("a.example", request);
        let v1 = b"PROXY TCP4 10.1.0.2 10.1.0.1 40000 443\r\n".to_vec();
        let v2 = [&V2_SIGNATURE[..], &[0x21, 0x11, 0, 12], &[1; 12]].concat();
        for (header, prefix) in [(Header::None, vec![]), (Header::V1, v1), (Header::V2, v2)] {
            let wire = [prefix, hello.clone()].concat();
            for cut in 0..wire.len() {
                assert_eq!(Preface::parse(&wire[..cut]), Preface::NeedMore, "{header:?} cut at {cut}");
            }
            let complete = Preface::Complete { header, request, length: wire.len() };
            assert_eq!(Preface::parse(&wire), complete);
            assert_eq!(Preface::parse(&[&wire[..], b"more"].concat()), complete);
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        let wrong_request = hello::client_hello("a.example", Request::Echo)
            .into_iter()
            .enumerate()
            .map(|(index, byte)| if index == hello::SESSION_ID.start { 9 } else { byte })
            .collect::<Vec<_>>();
        for wire in [&b"GET / HTTP/1.1"[..], &[b'P'; 200], &[b'\r'; 16], &wrong_request] {
            assert_eq!(Preface::parse(wire), Preface::Invalid);
        }
    }
}
