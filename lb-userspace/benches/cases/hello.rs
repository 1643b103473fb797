// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes of a client to a ClientHello.

use std::hint::black_box;

use lb::prelude::hello::{HelloLimits, HelloOutcome, parse};

use super::Case;

/// The most that a configuration admits (`client-hello-max`, `client-hello-wire-max`).
const LIMITS: HelloLimits = HelloLimits { handshake_max: 16 << 10, wire_max: 1 << 20 };

/// server_name (RFC 6066 section 3).
const SERVER_NAME: u16 = 0;
/// application_layer_protocol_negotiation (RFC 7301 section 3.1).
const ALPN: u16 = 16;
/// padding (RFC 7685).
const PADDING: u16 = 21;
/// key_share (RFC 8446 section 4.2.8).
const KEY_SHARE: u16 = 51;

/// X25519, and X25519MLKEM768 with it (draft-ietf-tls-ecdhe-mlkem): bytes of a client's share.
const CLASSICAL_SHARE: usize = 2 + 4 + 32;
const POST_QUANTUM_SHARE: usize = CLASSICAL_SHARE + 4 + 1216;

pub(super) fn cases() -> Vec<Case> {
    let whole = |message: &[u8]| records(message, message.len());
    vec![
        case("hello/517-bytes", 1024, whole(&message(517 - 5, CLASSICAL_SHARE))),
        case("hello/1800-bytes-post-quantum", 1024, whole(&message(1800 - 5, POST_QUANTUM_SHARE))),
        case("hello/16-KiB-in-one-byte-records", 8, records(&message(16 << 10, POST_QUANTUM_SHARE), 1)),
    ]
}

fn case(name: &str, rounds: u64, wire: Vec<u8>) -> Case {
    let mut scratch = Vec::new();
    match parse(&wire, LIMITS, &mut scratch) {
        HelloOutcome::Complete(hello) => assert_eq!(hello.server_name.as_deref(), Some("www.shop.example")),
        outcome => panic!("{name}: {outcome:?}"),
    }
    Case::new(name, rounds, move || {
        black_box(parse(black_box(&wire), LIMITS, &mut scratch));
    })
}

/// A ClientHello message of `len` bytes (RFC 8446 section 4.1.2) as a browser of today sends it: the extensions that it has in number
/// and kind, the server's name in the middle, and padding up to the length.
fn message(len: usize, share_len: usize) -> Vec<u8> {
    let name = b"www.shop.example";
    let server_name = [&[0][..], &len16(name.len()), name].concat();
    // status_request, supported_groups, ec_point_formats, signature_algorithms.
    let first = [(5, vec![1, 0, 0, 0, 0]), (10, vec![0; 12]), (11, vec![1, 0]), (13, vec![0; 18])];
    // signed_certificate_timestamp, extended_master_secret, session_ticket, supported_versions, psk_key_exchange_modes, renegotiation_info.
    let last = [
        (18, vec![]),
        (23, vec![]),
        (35, vec![]),
        (43, vec![4, 3, 4, 3, 3]),
        (45, vec![1, 1]),
        (0xff01, vec![0]),
    ];
    let middle = [
        (SERVER_NAME, [&len16(server_name.len())[..], &server_name].concat()),
        (ALPN, b"\0\x0c\x02h2\x08http/1.1".to_vec()),
        (KEY_SHARE, vec![7; share_len]),
    ];
    let mut extensions: Vec<u8> = first
        .into_iter()
        .chain(middle)
        .chain(last)
        .flat_map(|(kind, content)| extension(kind, &content))
        .collect();
    let fixed = [&[3, 3][..], &[7; 32], &[32], &[9; 32], &len16(32), &[0x13; 32], &[1, 0]].concat();
    let header_len = 4;
    let bare = header_len + fixed.len() + 2 + extensions.len() + extension(PADDING, &[]).len();
    let padding = len.checked_sub(bare).expect("the extensions leave room for the padding's header");
    extensions.extend(extension(PADDING, &vec![0; padding]));
    let body = [&fixed[..], &len16(extensions.len()), &extensions].concat();
    let [_, body_len @ ..] = u32::try_from(body.len()).expect("a short message").to_be_bytes();
    [&[1][..], &body_len, &body].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &len16(content.len()), content].concat()
}

/// A message in records of so many bytes each (RFC 8446 section 5.1).
fn records(message: &[u8], fragment_len: usize) -> Vec<u8> {
    message
        .chunks(fragment_len)
        .flat_map(|part| [&[22, 3, 1][..], &len16(part.len()), part].concat())
        .collect()
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("a short list").to_be_bytes()
}
