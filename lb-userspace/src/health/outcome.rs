// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can come of a check.

mod tls;

use std::error::Error;
use std::{fmt, io};

use rustix::io::Errno;

pub use tls::TlsFailure;

/// What came of one check. Its text is the reason in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was established, and no more was asked for.
    Connected,
    /// The server answered with a status that was expected.
    Status(u16),
    /// The TLS handshake was done, and no more was asked for.
    Encrypted,
    /// Every step of the script came true.
    Scripted,
    /// No process listens there (ECONNREFUSED).
    Refused,
    /// No way leads there, or a firewall on the way says no.
    Unreachable,
    /// The check was not over within its time.
    Timeout,
    /// The server reset the connection.
    Reset,
    /// The server closed the connection without an answer.
    Closed,
    /// The server answered with a status that was not expected.
    BadStatus(u16),
    /// The server answered with something else than an HTTP/1 response.
    NotHttp,
    /// The body of the answer does not hold what it should, as far as it was read.
    BadBody,
    /// The TLS handshake failed.
    Tls(TlsFailure),
    /// The server sent something, and not what a step of the script, counted from 1, expects.
    Unexpected {
        /// Which step.
        step: u8,
    },
    /// No check: traffic failed so many times in a row.
    Traffic {
        /// How many times.
        errors: u32,
    },
    /// This host had no file descriptor, port or memory for the check, which says nothing about the server.
    LocalResources,
}

/// What an [`Outcome`] says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Passed,
    /// It is not.
    Failed,
    /// Nothing: the check did not take place.
    Unknown,
}

impl Outcome {
    /// What it says about the server.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Connected | Self::Encrypted | Self::Scripted | Self::Status(_) => Verdict::Passed,
            Self::LocalResources => Verdict::Unknown,
            Self::Refused
            | Self::Unreachable
            | Self::Timeout
            | Self::Reset
            | Self::Closed
            | Self::BadStatus(_)
            | Self::BadBody
            | Self::NotHttp
            | Self::Tls(_)
            | Self::Unexpected { .. }
            | Self::Traffic { .. } => Verdict::Failed,
        }
    }

    /// What a failed system call on the check's socket means (connect(2), tcp(7)).
    pub(super) fn of_io(error: &io::Error) -> Self {
        let Some(errno) = Errno::from_io_error(error) else {
            if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
                return Self::Tls(TlsFailure::of(error));
            }
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            return if is_end { Self::Closed } else { Self::Reset };
        };
        match errno {
            Errno::CONNREFUSED => Self::Refused,
            Errno::TIMEDOUT => Self::Timeout,
            Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => Self::Reset,
            Errno::MFILE
            | Errno::NFILE
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::ADDRNOTAVAIL
            | Errno::ADDRINUSE
            | Errno::AGAIN => Self::LocalResources,
            // ENETUNREACH, EHOSTUNREACH, EACCES, EPERM, EAFNOSUPPORT, … all say that packets cannot go there.
            _ => Self::Unreachable,
        }
    }

    /// What it means that an HTTP exchange failed. The cause may be several errors deep: a request that was never sent is
    /// "canceled" because of what the connection ran into.
    pub(super) fn of_http(error: &hyper::Error) -> Self {
        let mut outcome = Self::NotHttp;
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Self::of_io(error);
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                let is_end = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
                outcome = if is_end { Self::Closed } else { Self::NotHttp };
            }
            cause = error.source();
        }
        outcome
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Encrypted => "TLS established",
            Self::Scripted => "script done",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::BadStatus(status) => return write!(f, "bad status {status}"),
            Self::NotHttp => "not HTTP",
            Self::BadBody => "body without what is expected",
            Self::Tls(failure) => return failure.fmt(f),
            Self::Unexpected { step } => return write!(f, "unexpected answer in step {step}"),
            Self::Traffic { errors } => return write!(f, "{errors} errors of traffic in a row"),
            Self::LocalResources => "local resources",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_socket() {
        #[track_caller]
        fn check(error: impl Into<io::Error>, expected: Outcome, verdict: Verdict) {
            let outcome = Outcome::of_io(&error.into());
            assert_eq!((outcome, outcome.verdict()), (expected, verdict));
        }
        check(Errno::CONNREFUSED, Outcome::Refused, Verdict::Failed);
        check(Errno::HOSTUNREACH, Outcome::Unreachable, Verdict::Failed);
        check(Errno::NETUNREACH, Outcome::Unreachable, Verdict::Failed);
        check(Errno::PERM, Outcome::Unreachable, Verdict::Failed);
        check(Errno::TIMEDOUT, Outcome::Timeout, Verdict::Failed);
        check(Errno::CONNRESET, Outcome::Reset, Verdict::Failed);
        check(Errno::PIPE, Outcome::Reset, Verdict::Failed);
        check(io::ErrorKind::UnexpectedEof, Outcome::Closed, Verdict::Failed);
        check(Errno::MFILE, Outcome::LocalResources, Verdict::Unknown);
        check(Errno::NFILE, Outcome::LocalResources, Verdict::Unknown);
        check(Errno::ADDRNOTAVAIL, Outcome::LocalResources, Verdict::Unknown);
        check(Errno::NOBUFS, Outcome::LocalResources, Verdict::Unknown);
    }

    #[test]
    fn words_in_the_log() {
        #[track_caller]
        fn check(outcome: Outcome, expected: &str) {
            assert_eq!(outcome.to_string(), expected);
        }
        check(Outcome::Connected, "connected");
        check(Outcome::Status(204), "status 204");
        check(Outcome::BadStatus(503), "bad status 503");
        check(Outcome::NotHttp, "not HTTP");
        check(Outcome::Tls(TlsFailure::Expired), "certificate expired");
        check(Outcome::Unexpected { step: 2 }, "unexpected answer in step 2");
        check(Outcome::Traffic { errors: 10 }, "10 errors of traffic in a row");
        check(Outcome::LocalResources, "local resources");
    }
}
