// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a packet or a flow is not for this path. Beside [`crate::reason`], because programs in the kernel count by it.

use crate::labelled::labelled;

labelled! {
    /// Why a packet cannot be translated, or two connections cannot become one. Each has its own counter.
    Untranslatable {
        /// Neither IPv4 nor IPv6, or shorter than its own headers say.
        MalformedHeader => "malformed-header",
        /// A fragment (RFC 791 section 3.2, RFC 8200 section 4.5): all but the first have no ports.
        Fragment => "fragment",
        /// An IPv4 header with options (RFC 791 section 3.1).
        IpOptions => "ip-options",
        /// An IPv6 extension header stands before TCP (RFC 8200 section 4).
        ExtensionHeader => "extension-header",
        /// Another protocol than TCP.
        NotTcp => "not-tcp",
        /// It may not go any further (RFC 1812 section 5.3.1, RFC 8200 section 3). Nobody is told: to both ends this host is one, and no router.
        HopLimit => "hop-limit",
        /// TCP options that break their grammar (RFC 9293 section 3.1).
        MalformedOptions => "malformed-options",
        /// An option that nobody here knows: it may hold a number that would have to be translated.
        UnknownOption => "unknown-option",
        /// A signature over what is translated (RFC 2385).
        Md5Signature => "md5-signature",
        /// The same with newer means (RFC 5925).
        TcpAo => "tcp-ao",
        /// Multipath TCP (RFC 8684): the option has numbers of its own, and the flow is more than this connection.
        Mptcp => "mptcp",
        /// TCP Fast Open (RFC 7413): data in a SYN.
        FastOpen => "fast-open",
        /// An experiment shares one of two numbers with others (RFC 6994).
        ExperimentalOption => "experimental-option",
        /// Timestamps (RFC 7323) are in use with one end alone.
        TimestampsDiffer => "timestamps-differ",
        /// Selective acknowledgements (RFC 2018) are in use with one end alone.
        SackDiffers => "sack-differs",
        /// ECN (RFC 3168) is in use with one end alone: marks of routers would get lost.
        EcnDiffers => "ecn-differs",
        /// One end was told that it may send larger segments than the other takes.
        SegmentSize => "segment-size",
        /// One end speaks IPv4 and the other IPv6.
        FamiliesDiffer => "families-differ",
        /// An ICMP message that is no error, or quotes no TCP.
        IcmpNotError => "icmp-not-error",
    }
}
