// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether an end may be on this host: its packets go by loopback, where the programs are only if they were asked for there.

use std::net::IpAddr;

use crate::net;

/// Whose flows can take the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those whose ends are both on other hosts.
    OtherHosts,
    /// Those with ends on this host, too.
    ThisHost,
}

impl Reach {
    /// By whether programs are at loopback.
    pub fn new(is_at_loopback: bool) -> Self {
        if is_at_loopback { Self::ThisHost } else { Self::OtherHosts }
    }

    /// Whether a flow with an end at this address can take the path, as far as that tells.
    pub fn has(self, end: IpAddr) -> bool {
        self == Self::ThisHost || !end.to_canonical().is_loopback()
    }

    /// Whether a flow with a connection between these can, an address of ours and the peer's.
    pub fn has_connection(self, own: IpAddr, peer: IpAddr) -> bool {
        self == Self::ThisHost || !net::are_of_one_host(own, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_on_this_host_takes_programs_at_loopback() {
        let check = |own: &str, peer: &str, is_elsewhere: bool| {
            let [own, peer] = [own, peer].map(|text| text.parse::<IpAddr>().expect("an address"));
            assert_eq!(Reach::new(false).has_connection(own, peer), is_elsewhere, "{own} {peer}");
            assert!(Reach::new(true).has_connection(own, peer) && Reach::new(true).has(peer));
        };
        check("127.0.0.1", "127.0.0.2", false);
        check("192.0.2.1", "192.0.2.1", false);
        check("192.0.2.1", "192.0.2.2", true);
        check("::1", "::1", false);
        for loopback in ["127.0.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!Reach::new(false).has(loopback.parse().expect("an address")), "{loopback}");
        }
    }
}
