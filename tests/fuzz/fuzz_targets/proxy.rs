// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes where a PROXY header must come first: nothing panics, an outcome is the same however the bytes arrive, nobody waits for
//! bytes that a header does not have, and what a header says survives being written for a server, in either version.
#![no_main]

use lb::config::{ProxyTlvs, ProxyVersion, SendProxy};
use lb::net::canonical;
use lb::proxy::{Content, HeaderOutcome, Received, header, kind, parse};
use libfuzzer_sys::fuzz_target;

/// The most that `proxy-header-max` can be.
const MAX: usize = 16 + 65_535;

/// A limit that inputs reach.
const SMALL: usize = 232;

/// Prefixes looked at for one input: all of a short one, evenly spread ones of a long one.
const PREFIXES: usize = 256;

fuzz_target!(|wire: &[u8]| {
    for max in [SMALL, MAX] {
        let whole = parse(wire, max);
        let step = wire.len().div_ceil(PREFIXES).max(1);
        for end in (0..wire.len()).step_by(step) {
            check_prefix(&wire[..end], &whole, max);
        }
        if let HeaderOutcome::Complete(received) = &whole {
            assert!(received.wire_len <= wire.len().min(max));
            check_relay(received);
        }
    }
});

/// What is decided stays so, and what is missing is no more than there is.
fn check_prefix(prefix: &[u8], whole: &HeaderOutcome, max: usize) {
    match parse(prefix, max) {
        HeaderOutcome::NeedMore(more) => {
            assert!(more > 0);
            if let HeaderOutcome::Complete(received) = whole {
                assert!(prefix.len() + more <= received.wire_len);
            }
        }
        decided => assert_eq!(&decided, whole),
    }
}

/// The header for a server says the same.
fn check_relay(received: &Received) {
    let Some(ends) = received.endpoints else { return };
    let content = Content { received: Some(received), ..Content::of(ends.client, ends.local) };
    for settings in [
        SendProxy::V1,
        SendProxy::plain(ProxyVersion::V2),
        SendProxy::V2(ProxyTlvs { authority: true, crc32c: true, alpn: true, unique_id: true }),
    ] {
        let written = header(settings, &content);
        let HeaderOutcome::Complete(again) = parse(&written, MAX) else {
            panic!("{}", written.escape_ascii());
        };
        let found = again.endpoints.expect("addresses");
        assert_eq!(
            (canonical(found.client), canonical(found.local)),
            (canonical(ends.client), canonical(ends.local))
        );
        let is_small = received.wire_len < MAX - 1024;
        if settings.version() == ProxyVersion::V2 && is_small {
            assert!(again.tlvs().iter().eq(received.tlvs().iter()), "{}", written.escape_ascii());
        }
        assert!(again.tlvs().iter().all(|tlv| !matches!(tlv.kind, kind::CRC32C | kind::NOOP)));
    }
}
