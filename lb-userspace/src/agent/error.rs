// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps the agent from starting, and the exit code for it.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::exit;
use crate::net::ListenError;

/// Why the agent could not start. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A frontend's address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin surface's address.
    #[error("admin: cannot listen on {address}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The log's target.
    #[error("log: cannot open the target {target}")]
    Log {
        /// As configured.
        target: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The limit of open files leaves no connection.
    #[error(
        "the limit of open files ({limit}) is too low: at least {needed} are needed for one connection: raise it (`ulimit -n`, LimitNOFILE=)"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
        /// What one connection needs with what is always open.
        needed: u64,
    },
    /// Threads, descriptors, epoll instances, signal handlers, random bytes.
    #[error("cannot start {what}")]
    System {
        /// What.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// The exit code for it (sysexits(3)).
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Listen(ListenError::NoPermission { .. }) => exit::NO_PERMISSION,
            Self::Admin { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::NO_PERMISSION
            }
            Self::Listen(_) | Self::Admin { .. } => exit::UNAVAILABLE,
            Self::Log { .. } => exit::CANNOT_CREATE,
            Self::Descriptors { .. } | Self::System { .. } => exit::OS_ERROR,
        })
    }

    /// Makes an error of what the kernel said to the start of this.
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whose_turn_it_is() {
        let check = |error: StartError, code: u8| {
            assert_eq!(format!("{:?}", error.exit_code()), format!("{:?}", ExitCode::from(code)), "{error}");
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let admin = |kind: io::ErrorKind| StartError::Admin { address, source: kind.into() };
        check(StartError::system("signal handlers")(io::ErrorKind::Other.into()), 71);
        check(StartError::Descriptors { limit: 9, needed: 50 }, 71);
        check(StartError::Log { target: "off".into(), source: io::ErrorKind::NotFound.into() }, 73);
        check(admin(io::ErrorKind::AddrInUse), 69);
        check(admin(io::ErrorKind::PermissionDenied), 77);
        check(ListenError::Taken { frontend: "f".into(), address }.into(), 69);
        check(ListenError::NoPermission { frontend: "f".into(), address }.into(), 77);
    }
}
