// SPDX-License-Identifier: MIT OR Apache-2.0
//! The closed lists of reasons. Each is the one source for configuration keys, metric labels and log fields.

/// Defines a fieldless enum with its labels, so that list, label and count cannot drift apart.
macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// The word for it in configuration, metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// Its position in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

labelled! {
    /// Why the bytes a client sent first do not name a backend. Each has its own policy (`on-…`) and counter.
    HelloReason {
        /// A valid ClientHello without a usable server name.
        NoName => "no-name",
        /// A valid ClientHello whose name no route matches.
        UnknownName => "unknown-name",
        /// The first bytes cannot begin a TLS ClientHello.
        NotTls => "not-tls",
        /// It began as TLS and then broke the grammar.
        Malformed => "malformed",
        /// Longer than the configured caps.
        TooLarge => "too-large",
        /// Not complete when the deadline passed.
        Timeout => "timeout",
    }
}

labelled! {
    /// How the bytes of an established flow are carried.
    PathKind {
        /// splice(2) through a pooled pipe.
        Splice => "splice",
        /// read and write through a buffer.
        Copy => "copy",
    }
}

labelled! {
    /// Why a connection ended. Exactly one a connection, in log and metrics.
    CloseReason {
        /// Both directions ended with a FIN and every byte was delivered.
        Finished => "finished",
        /// The client reset the connection or stopped acknowledging after a backend was connected.
        ClientReset => "client-reset",
        /// The server reset the connection or stopped acknowledging.
        ServerReset => "server-reset",
        /// No byte moved either way for `idle-timeout`.
        IdleTimeout => "idle-timeout",
        /// One direction had ended and the other stayed silent for `half-close-timeout`.
        HalfCloseTimeout => "half-close-timeout",
        /// The policy for a [`HelloReason`] was `reject`.
        HelloRejected => "hello-rejected",
        /// The client left before its ClientHello was complete.
        HelloAborted => "hello-aborted",
        /// The memory for pending ClientHellos was used up and this client was the one to go.
        HelloEvicted => "hello-evicted",
        /// The client left while a server was being connected.
        ConnectAborted => "connect-aborted",
        /// Every try to connect a server was refused or failed.
        ConnectFailed => "connect-failed",
        /// The last try to connect a server ran into `connect-timeout`.
        ConnectTimeout => "connect-timeout",
        /// No server of the backend was up.
        NoServer => "no-server",
        /// Every server that was up had `max-connections`.
        ServersFull => "servers-full",
        /// The process ran out of file descriptors, ports or memory for the server's side.
        Resources => "resources",
        /// The agent stopped before the connection did.
        Shutdown => "shutdown",
    }
}

impl CloseReason {
    /// HAProxy's two-letter termination state for the TCP log format (HAProxy configuration manual, section 8.5).
    pub const fn termination_state(self) -> &'static str {
        match self {
            Self::Finished => "--",
            Self::ClientReset => "CD",
            Self::ServerReset => "SD",
            Self::IdleTimeout | Self::HalfCloseTimeout => "cD",
            Self::HelloRejected => "PR",
            Self::HelloAborted => "CR",
            Self::HelloEvicted => "RR",
            Self::ConnectAborted => "CC",
            Self::ConnectFailed | Self::NoServer => "SC",
            Self::ConnectTimeout => "sC",
            Self::ServersFull | Self::Resources => "RC",
            Self::Shutdown => "KD",
        }
    }
}

labelled! {
    /// What a server is good for at this moment.
    ServerState {
        /// Takes connections.
        Up => "up",
        /// Failed its checks: takes none.
        Down => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_indexes_match() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(CloseReason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
            assert_eq!(reason.termination_state().len(), 2);
        }
        assert_eq!(HelloReason::ALL.len(), 6);
    }
}
