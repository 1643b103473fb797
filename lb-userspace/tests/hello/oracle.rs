// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rustls' server side makes of the same bytes, and what that says about ours. The fuzz target `hello` uses this file too.

use lb::prelude::hello::{HelloLimits, HelloOutcome, parse};
use rustls::server::Acceptor;

/// The largest limits that the configuration can ask for: what is left out because of its size is not compared.
pub(crate) const LIMITS: HelloLimits = HelloLimits { handshake_max: 16 * 1024, wire_max: 128 * 1024 };

/// What rustls says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted { name: Option<String>, alpn: Vec<Vec<u8>> },
    NeedsMore,
    Refused(String),
}

/// What we say.
pub(crate) fn ours(wire: &[u8]) -> HelloOutcome {
    parse(wire, LIMITS, &mut Vec::new())
}

/// Asks rustls, its name normalised as ours is.
pub(crate) fn rustls(mut wire: &[u8]) -> Verdict {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.read_tls(&mut wire) {
            Ok(0) => return Verdict::NeedsMore,
            Ok(_) => {}
            Err(error) => return Verdict::Refused(error.to_string()),
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(|name| name.trim_end_matches('.').to_lowercase());
                let alpn = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect());
                return Verdict::Accepted { name, alpn: alpn.unwrap_or_default() };
            }
            Err((error, _)) => return Verdict::Refused(error.to_string()),
        }
    }
}

/// Compares both on one input; true if rustls accepts it.
pub(crate) fn compare(wire: &[u8]) -> bool {
    let (ours, theirs) = (ours(wire), rustls(wire));
    let shown = || format!("ours {ours:?}, rustls {theirs:?}: {}", wire.escape_ascii());
    match (&theirs, &ours) {
        (Verdict::Accepted { name, alpn }, HelloOutcome::Complete(hello)) => {
            assert_eq!(&hello.server_name, name, "{}", shown());
            assert_eq!(&hello.alpn.iter().collect::<Vec<_>>(), alpn, "{}", shown());
            true
        }
        // rustls takes up to 64 KiB.
        (Verdict::Accepted { .. }, HelloOutcome::TooLarge) => {
            assert!(wire.len() > LIMITS.handshake_max, "{}", shown());
            true
        }
        (Verdict::Accepted { .. }, _) => panic!("{}", shown()),
        (Verdict::NeedsMore, HelloOutcome::NeedMore(_)) | (Verdict::Refused(_), _) => false,
        // rustls judges whole records, we judge bytes: whatever comes in the rest of the record, it will not accept.
        (Verdict::NeedsMore, _) => {
            let filled = [wire, &[0; 1 << 16]].concat();
            assert!(matches!(rustls(&filled), Verdict::Refused(_)), "{}", shown());
            false
        }
    }
}

/// Everything that arrives earlier is either waited for, and never too long, or judged as the whole is.
pub(crate) fn check_prefix(wire: &[u8], end: usize) {
    for limits in [LIMITS, HelloLimits { handshake_max: 250, wire_max: 300 }] {
        let outcome = |end: usize| parse(&wire[..end], limits, &mut Vec::new());
        let shown = || format!("{end} of {}", wire.escape_ascii());
        match outcome(end) {
            HelloOutcome::NeedMore(bytes) => {
                assert!(bytes > 0, "{}", shown());
                let nearly = outcome(wire.len().min(end + bytes - 1));
                assert!(!matches!(nearly, HelloOutcome::Complete(_)), "{bytes} behind {}", shown());
            }
            early => assert_eq!(early, outcome(wire.len()), "{}", shown()),
        }
    }
}
