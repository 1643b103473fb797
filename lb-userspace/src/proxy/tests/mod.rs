// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors for what the protocol's text says, and properties.

mod properties;
mod read_v1;
mod read_v2;
mod relay;
mod write;

use std::net::SocketAddr;

use lb_common::reason::ProxyReason;

use super::{Endpoints, HeaderOutcome, Received, parse};

/// The default of `proxy-header-max`.
const MAX: usize = 4096;

/// What is found at the beginning of `bytes`. However much of a header is cut off, it is none; and how much is said to be missing is
/// never more than really is, or waiting for it would not end.
#[track_caller]
fn read(bytes: &[u8]) -> Result<Received, ProxyReason> {
    let found = match parse(bytes, MAX) {
        HeaderOutcome::Complete(received) => received,
        HeaderOutcome::Invalid(reason) => return Err(reason),
        HeaderOutcome::NeedMore(more) => panic!("{more} more wanted: {}", bytes.escape_ascii()),
    };
    for end in 0..found.wire_len {
        match parse(&bytes[..end], MAX) {
            HeaderOutcome::NeedMore(more) => {
                assert!((1..=found.wire_len - end).contains(&more), "{end} {more}")
            }
            other => panic!("{other:?} after {end} bytes of {}", bytes.escape_ascii()),
        }
    }
    let behind = [&bytes[..found.wire_len], b"\x16\x03\x01PROXY\r\n"].concat();
    assert_eq!(parse(&behind, MAX), HeaderOutcome::Complete(found.clone()), "bytes behind are nobody's");
    Ok(found)
}

fn endpoints(client: &str, local: &str) -> Option<Endpoints> {
    let of = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Some(Endpoints { client: of(client), local: of(local) })
}
