// SPDX-License-Identifier: MIT OR Apache-2.0
//! The closed lists of reasons. Each is the one source for configuration keys, metric labels and log fields.

use crate::labelled::labelled;

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
    /// Why what came from an address of `accept-proxy-from` is no PROXY header. Each has its own counter.
    ProxyReason {
        /// The first bytes begin no header of either version.
        Missing => "missing",
        /// It began as a header and then broke the protocol, a length that does not fit included.
        Malformed => "malformed",
        /// Longer than `proxy-header-max`, or a line of version 1 longer than 107 bytes.
        TooLarge => "too-large",
        /// Not complete when the deadline passed.
        Timeout => "timeout",
        /// Its CRC32C is not that of its bytes.
        Checksum => "checksum",
        /// A binary header of another version than 2.
        UnsupportedVersion => "unsupported-version",
    }
}

labelled! {
    /// How the bytes of an established flow are carried.
    PathKind {
        /// From interface to interface, by BPF programs that translate packets: the balancer has no socket any more.
        Packet => "packet",
        /// From socket to socket inside the kernel, by a BPF program.
        Sockmap => "sockmap",
        /// splice(2) through a pooled pipe.
        Splice => "splice",
        /// read and write through a buffer.
        Copy => "copy",
    }
}

labelled! {
    /// Why a flow that wants a path inside the kernel is carried by user space instead. Each has its own counter.
    FallbackReason {
        /// The path is off: see `lb_path_available`.
        Unavailable => "unavailable",
        /// A peer had closed or reset before the flow could be handed over.
        NotEstablished => "not-established",
        /// As many flows as there is room for are inside.
        Full => "full",
        /// The memory that flows inside may hold is used up.
        Memory => "memory",
        /// Part of a segment was taken before, as a PROXY header, and the rest waits.
        PartlyTaken => "partly-taken",
        /// A peer is on this host: what it writes in one call, the kernel hands over before anything else gets a processor.
        LocalPeer => "local-peer",
        /// The kernel refused for another reason.
        Kernel => "kernel",
    }
}

labelled! {
    /// Why a flow that wants path `packet` is carried by user space instead, besides what [`crate::packet::reason::Untranslatable`] says of its
    /// two connections. Each has its own counter.
    PacketObstacle {
        /// The path is off: see `lb_path_available`.
        Unavailable => "unavailable",
        /// The connection to the server has no port that stays its own: all of `packet-ports` are taken towards it.
        NoPort => "no-port",
        /// A peer is on this host: its packets take another way.
        LocalPeer => "local-peer",
        /// This host translates addresses or ports of one of its connections: on the wire they are others than sockets know.
        Nat => "nat",
        /// As many flows as there is room for take the path.
        Full => "full",
        /// Not all of its segments come by an interface at which they are seen.
        Unseen => "unseen",
        /// Its packets leave by an interface to which the routes do not lead: a mark has chosen it, which redirected packets do not have.
        Unrouted => "unrouted",
        /// A connection was over, or half of it, when the flow could have left.
        NotEstablished => "not-established",
        /// It ended before both ends had paused for long enough, though they were asked to, or did so too often for too short.
        Restless => "restless",
        /// The kernel refused for another reason.
        Kernel => "kernel",
    }
}

labelled! {
    /// Why a path inside the kernel is available, or not.
    Availability {
        /// It has passed its self-test.
        Available => "available",
        /// Nothing in the configuration asks for it.
        NotConfigured => "not-configured",
        /// The process lacks a capability in the initial user namespace.
        NoPrivilege => "no-privilege",
        /// bpf(2) is forbidden by a seccomp filter or a security module.
        Forbidden => "forbidden",
        /// The process lacks CAP_PERFMON alone: what waits inside the kernel could not be bounded.
        NoPerfmon => "no-perfmon",
        /// The kernel does not describe its types (BTF): likewise.
        NoBtf => "no-btf",
        /// The kernel lacks what it needs.
        Kernel => "kernel",
        /// The kernel does not do what it should.
        SelfTest => "self-test",
        /// The kernel gives the ports of path `packet` to others.
        Ports => "ports",
        /// Path `packet` cannot see the packets of an interface.
        Interfaces => "interfaces",
        /// What another agent has left of path `packet` cannot be taken over, or belongs to one that is running.
        State => "state",
        /// The first flows on path `packet` got nowhere.
        NoProgress => "no-progress",
    }
}

labelled! {
    /// Why a connection ended. Exactly one a connection, in log and metrics.
    CloseReason {
        /// Both directions ended with a FIN, and every byte was taken by the kernel that delivers it.
        Finished => "finished",
        /// The client reset the connection or stopped acknowledging after a backend was connected.
        ClientReset => "client-reset",
        /// The server reset the connection or stopped acknowledging.
        ServerReset => "server-reset",
        /// The server had sent everything and its FIN, and then refused what the client sent after it: a client that says goodbye
        /// (TLS close_notify) to a server that has closed.
        ServerClosed => "server-closed",
        /// No byte moved either way for `idle-timeout`.
        IdleTimeout => "idle-timeout",
        /// One direction had ended and the other stayed silent for `half-close-timeout`.
        HalfCloseTimeout => "half-close-timeout",
        /// The server was marked down, and its `on-marked-down` ends its sessions then.
        ServerDown => "server-down",
        /// A server that is no backup was marked up, and its `on-marked-up` ends the sessions of backup servers then.
        ActiveServerUp => "active-server-up",
        /// What came from an address of `accept-proxy-from` is no PROXY header, for a [`ProxyReason`].
        ProxyRejected => "proxy-rejected",
        /// The client of a connection that has to begin with a PROXY header left before that was complete.
        ProxyAborted => "proxy-aborted",
        /// The policy for a [`HelloReason`] was `reject`.
        HelloRejected => "hello-rejected",
        /// The client left before its ClientHello was complete.
        HelloAborted => "hello-aborted",
        /// The memory for pending ClientHellos and PROXY headers was used up and this client was the one to go.
        HelloEvicted => "hello-evicted",
        /// The client left while a server was being connected.
        ConnectAborted => "connect-aborted",
        /// Every try to connect a server was refused or failed.
        ConnectFailed => "connect-failed",
        /// The last try to connect a server ran into `connect-timeout`.
        ConnectTimeout => "connect-timeout",
        /// No server of the backend was up.
        NoServer => "no-server",
        /// The client left while it waited for a place on a server.
        QueueAborted => "queue-aborted",
        /// No place on a server came free within `queue-timeout`.
        QueueTimeout => "queue-timeout",
        /// Every server that was up had `max-connections`, and the queue was full or there is none.
        ServersFull => "servers-full",
        /// The process ran out of file descriptors, ports or memory for the server's side.
        Resources => "resources",
        /// The path that the configuration requires could not take it.
        PathUnavailable => "path-unavailable",
        /// What was on its way inside the kernel did not arrive.
        PathFailed => "path-failed",
        /// What one end sent could not be translated on path `packet`, and nothing moved any more.
        Untranslatable => "untranslatable",
        /// The agent stopped before the connection did.
        Shutdown => "shutdown",
    }
}

labelled! {
    /// What came of asking DNS for a name.
    ResolutionResult {
        /// There are addresses.
        Success => "success",
        /// The name does not exist (RFC 1035 section 4.1.1, RCODE 3).
        NxDomain => "nxdomain",
        /// The name exists and has no record of the kind asked for.
        Empty => "empty",
        /// No server answered in time.
        Timeout => "timeout",
        /// The servers answered that they cannot or do not want to (SERVFAIL, REFUSED and others), or could not be reached; or some
        /// know of nothing and others gave no answer.
        Failure => "failure",
    }
}

impl CloseReason {
    /// HAProxy's two-letter termination state for the TCP log format (HAProxy configuration manual, section 8.5);
    /// `is_server_silent`: if a timeout ended the connection, it was the server that let it pass.
    pub const fn termination_state(self, is_server_silent: bool) -> &'static str {
        match self {
            Self::Finished | Self::ServerClosed => "--",
            Self::ClientReset => "CD",
            Self::ServerReset => "SD",
            Self::IdleTimeout | Self::HalfCloseTimeout if is_server_silent => "sD",
            Self::IdleTimeout | Self::HalfCloseTimeout => "cD",
            Self::ServerDown => "DD",
            Self::ActiveServerUp => "UD",
            Self::ProxyRejected | Self::HelloRejected => "PR",
            Self::ProxyAborted | Self::HelloAborted => "CR",
            Self::HelloEvicted => "RR",
            Self::ConnectAborted => "CC",
            Self::QueueAborted => "CQ",
            Self::QueueTimeout => "sQ",
            Self::ConnectFailed | Self::NoServer => "SC",
            Self::ConnectTimeout => "sC",
            Self::ServersFull | Self::Resources | Self::PathUnavailable => "RC",
            Self::PathFailed | Self::Untranslatable => "ID",
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
    extern crate std;
    use std::format;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn labels_are_distinct_and_indexes_match() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(CloseReason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
            assert_eq!(reason.termination_state(false).len(), 2);
        }
        assert_eq!(HelloReason::ALL.len(), 6);
    }

    #[test]
    fn the_readme_lists_every_reason_with_its_code() {
        let text = include_str!("../../README.md");
        let (_, rest) = text.split_once("<!-- reasons:begin -->").expect("the beginning of the table");
        let (table, _) = rest.split_once("<!-- reasons:end -->").expect("its end");
        let rows: Vec<_> =
            table.lines().filter(|line| line.starts_with("| `") && !line.contains("HAProxy")).collect();
        assert_eq!(rows.len(), CloseReason::ALL.len());
        for (row, reason) in rows.into_iter().zip(CloseReason::ALL) {
            let (client, server) = (reason.termination_state(false), reason.termination_state(true));
            let code =
                if client == server { format!("`{client}`") } else { format!("`{client}` `{server}`") };
            let start = format!("| `{reason}` | {code} | ");
            assert!(row.starts_with(&start), "{row}\nbegins otherwise than\n{start}");
        }
    }
}
