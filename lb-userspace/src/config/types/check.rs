// SPDX-License-Identifier: MIT OR Apache-2.0
//! `check`: how servers are probed.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;
use rustls::pki_types::CertificateDer;

use super::ProxyVersion;

/// `check`
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// `type`, with what belongs to it.
    pub probe: Probe,
    /// TLS below the probe: types `tls` and `https`, and `script` with `tls = true`.
    pub tls: Option<CheckTls>,
    /// `port`: another than the server's.
    pub port: Option<u16>,
    /// `interval`: from the start of one check to the start of the next.
    pub interval: Duration,
    /// `fast-interval`: the same while results speak against the server's state.
    pub fast_interval: Duration,
    /// `down-interval`: the same while the server is down.
    pub down_interval: Duration,
    /// `timeout`: for a whole check.
    pub timeout: Duration,
    /// `rise`: successes in a row that bring a server up.
    pub rise: NonZeroU32,
    /// `fall`: failures in a row that take a server down.
    pub fall: NonZeroU32,
    /// `jitter`: percent of the interval, 0 to 50, by which each interval is randomly longer or shorter.
    pub jitter_percent: u8,
    /// `send-proxy`: a PROXY header goes first that says that nobody is relayed. Default: as the backend's, unless the check has its
    /// own port.
    pub send_proxy: Option<ProxyVersion>,
    /// `observe`: what traffic says about the server; `None`: nothing.
    pub observe: Option<Observe>,
}

/// What a check does once connected.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// `tcp`, `tls`: connecting is enough, and with TLS the handshake.
    Tcp,
    /// `http`, `https`: an HTTP/1.1 request whose answer counts.
    Http {
        /// `method`: default GET.
        method: String,
        /// `path`: default /.
        path: String,
        /// `host`: the Host header; default: the server's address.
        host: Option<String>,
        /// `headers`: further ones, in the order of their names.
        headers: Vec<(String, String)>,
        /// `expect`: status codes as inclusive ranges; default 200–399.
        expect: Vec<(u16, u16)>,
        /// `expect-body`: what the body must hold.
        body: Option<BytePattern>,
    },
    /// `script`: what to send and what must come, at least one step.
    Script(Vec<ScriptStep>),
}

/// A step of `script`.
#[derive(Clone, Debug, PartialEq)]
pub enum ScriptStep {
    /// `send`, `send-hex`
    Send(Vec<u8>),
    /// `expect`, `expect-hex`, `expect-regex`: must come behind what earlier steps have matched.
    Expect(BytePattern),
}

/// What bytes are searched for.
#[derive(Clone, Debug)]
pub enum BytePattern {
    /// These bytes; not empty.
    Bytes(Vec<u8>),
    /// `~`: a regular expression over bytes: `.` and classes stand for single bytes, not for characters.
    Regex(Regex),
}

/// `sni`, `alpn`, `verify`, `ca-file` of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckTls {
    /// `sni`: the name sent, which the certificate must be for; `None`: none is sent, and the certificate must be for the address.
    pub sni: Option<String>,
    /// `alpn`: the protocols offered; empty: none.
    pub alpn: Vec<String>,
    /// Whom the certificate must come from; `None`: `verify = "none"`.
    pub authorities: Option<Authorities>,
}

/// The certificates of a `ca-file`, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorities {
    /// `ca-file` as written.
    pub file: String,
    /// Its certificates; each is one that a chain can end in.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// `observe = "connections"`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observe {
    /// `error-limit`: failed connects, or connections that the server resets before it sends a byte, in a row.
    pub error_limit: NonZeroU32,
    /// `on-error`: what happens at the limit.
    pub on_error: OnError,
}

/// `on-error` (HAProxy configuration manual, section 5.2). Whatever it is, the next check comes within `fast-interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// `fast-interval`: nothing more.
    FastInterval,
    /// `fail-check`: counts as a failed check.
    FailCheck,
    /// `sudden-death`: counts as all failed checks but one: the next one that fails takes the server down.
    SuddenDeath,
    /// `mark-down`: the server is down.
    MarkDown,
}

impl BytePattern {
    /// Whether it is text, and `bytes` hold it and did not up to `before`. A regular expression may say something of the end, so it is
    /// for the whole alone.
    pub fn is_text_in(&self, bytes: &[u8], before: usize) -> bool {
        let Self::Bytes(wanted) = self else { return false };
        memchr::memmem::find(&bytes[before.saturating_sub(wanted.len().saturating_sub(1))..], wanted)
            .is_some()
    }

    /// Where the first match in `bytes` ends.
    pub fn find_end(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Bytes(wanted) => memchr::memmem::find(bytes, wanted).map(|at| at + wanted.len()),
            Self::Regex(regex) => regex.find(bytes).map(|found| found.end()),
        }
    }
}

impl PartialEq for BytePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}
