// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written is read as what was meant, and nothing that is read does harm.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Content, header, kind};
use super::*;
use crate::config::{ProxyTlvs, ProxyVersion, SendProxy};
use crate::net::canonical;

/// How headers begin.
const STARTS: [&[u8]; 7] = [
    b"",
    b"PROXY ",
    b"PROXY TCP4 ",
    b"PROXY UNKNOWN",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\0\0",
];

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn settings() -> impl Strategy<Value = SendProxy> {
    let v2 = any::<[bool; 4]>().prop_map(|[authority, crc32c, alpn, unique_id]| {
        SendProxy::V2(ProxyTlvs { authority, crc32c, alpn, unique_id })
    });
    prop_oneof![Just(SendProxy::V1), v2]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        settings in settings(),
        client in address(),
        local in address(),
        name in "[a-z0-9.-]{1,253}",
        alpn in vec(any::<u8>(), 1..=255),
        id in vec(any::<u8>(), 1..=128),
    ) {
        let content = Content {
            authority: Some(&name),
            alpn: Some(&alpn),
            unique_id: Some(&id),
            ..Content::of(client, local)
        };
        let received = read(&header(settings, &content)).expect("a header");
        let found = received.endpoints.expect("addresses");
        prop_assert_eq!((canonical(found.client), canonical(found.local)), (canonical(client), canonical(local)));
        prop_assert_eq!(found.client.is_ipv4(), found.local.is_ipv4());
        prop_assert_eq!(received.version, settings.version());
        let tlvs = settings.tlvs();
        prop_assert_eq!(received.has_checksum, tlvs.crc32c);
        prop_assert_eq!(received.tlvs().find(kind::AUTHORITY), tlvs.authority.then_some(name.as_bytes()));
        prop_assert_eq!(received.tlvs().find(kind::ALPN), tlvs.alpn.then_some(&alpn[..]));
        prop_assert_eq!(received.unique_id(), tlvs.unique_id.then_some(&id[..]));

        // Behind another balancer it is the same, checksum included.
        let relayed = Content { received: Some(&received), ..Content::of(found.client, found.local) };
        let again = header(SendProxy::plain(ProxyVersion::V2), &relayed);
        let again = read(&again).expect("a header");
        prop_assert_eq!(&again.tlvs, &received.tlvs);
        prop_assert_eq!(again.has_checksum, received.has_checksum);
    }

    #[test]
    fn any_bytes_have_an_outcome_that_more_bytes_keep(
        start in proptest::sample::select(&STARTS[..]),
        rest in vec(any::<u8>(), 0..300),
        max in 232_usize..400,
    ) {
        let bytes = [start, &rest].concat();
        let whole = parse(&bytes, max);
        if let HeaderOutcome::Complete(received) = &whole {
            prop_assert!(received.wire_len <= bytes.len().min(max));
        }
        for end in 0..bytes.len() {
            match parse(&bytes[..end], max) {
                HeaderOutcome::NeedMore(more) => {
                    prop_assert!(more > 0);
                    // Whoever waits for that much misses nothing.
                    if let HeaderOutcome::Complete(received) = &whole {
                        prop_assert!(end + more <= received.wire_len);
                    }
                }
                decided => prop_assert_eq!(&decided, &whole),
            }
        }
    }
}
