// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages to and from connection tracking: netlink headers (netlink(7)) and attributes (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
//! Pure.

use std::net::{IpAddr, SocketAddr};

use super::Ends;
use crate::net::netlink::{attribute, find};

/// What is asked for: the subsystem's number in the upper byte (NFNL_SUBSYS_CTNETLINK, include/uapi/linux/netfilter/nfnetlink.h), and
/// IPCTNL_MSG_CT_NEW, …_GET and …_DELETE. What is known is answered with the first.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// NLMSG_ERROR, and flags of requests (include/uapi/linux/netlink.h).
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const CREATE: u16 = 0x400;

/// Attributes with others inside have this bit (NLA_F_NESTED).
const NESTED: u16 = 1 << 15;

/// Attributes of an entry (enum ctattr_type and those below it).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const TIMEOUT: u16 = 7;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];

/// TCP_CONNTRACK_ESTABLISHED and TCP_CONNTRACK_CLOSE, which is after a reset (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const ESTABLISHED: u8 = 3;
const CLOSE: u8 = 8;

/// What is said of both directions, flags and which of them count (there, struct nf_ct_tcp_flags): numbers are not compared
/// (IP_CT_TCP_FLAG_BE_LIBERAL), and what was acknowledged last is not known (IP_CT_TCP_FLAG_MAXACK_SET), by which a reset would be judged
/// (net/netfilter/nf_conntrack_proto_tcp.c, nf_conntrack_tcp_packet).
const LOOSE: [u8; 2] = [1 << 3, 1 << 3 | 1 << 5];

/// Bits of an entry's status (include/uapi/linux/netfilter/nf_conntrack_common.h): both ends have been heard (IPS_SEEN_REPLY, IPS_ASSURED,
/// IPS_CONFIRMED); source or destination are translated (IPS_SRC_NAT, IPS_DST_NAT).
const KNOWN: u32 = 1 << 1 | 1 << 2 | 1 << 3;
const TRANSLATED: u32 = 1 << 4 | 1 << 5;

/// How long an entry stays that is there for a reset, in seconds: as long as the kernel keeps one that a reset has closed
/// (nf_conntrack_tcp_timeout_close).
const RECALL_SECONDS: u32 = 10;

/// Bytes of struct nlmsghdr, and of it with struct nfgenmsg behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It knows this connection.
    Entry {
        /// Whether it translates its addresses or ports.
        is_translated: bool,
        /// Whether a reset has ended it.
        is_closed: bool,
    },
    /// It does not, or another error.
    Error(i32),
}

/// Asks for an entry.
pub fn get(ends: &Ends) -> Vec<u8> {
    request(GET, 0, ends, &[tuple(ORIGINAL, *ends)])
}

/// Removes an entry.
pub fn delete(ends: &Ends) -> Vec<u8> {
    request(DELETE, 0, ends, &[tuple(ORIGINAL, *ends)])
}

/// Changes an entry that is there: from here on numbers are not compared.
pub fn loosen(ends: &Ends) -> Vec<u8> {
    request(NEW, 0, ends, &[tuple(ORIGINAL, *ends), nest(PROTOCOL_STATE, &nest(TCP, &loose()))])
}

/// The same, and where it is not there, makes it; either way it goes soon.
pub fn recall(ends: &Ends) -> Vec<u8> {
    let [one, other] = *ends;
    let state = [attribute(TCP_STATE, &[ESTABLISHED]), loose()].concat();
    let parts = [
        tuple(ORIGINAL, [one, other]),
        tuple(REPLY, [other, one]),
        attribute(STATUS, &KNOWN.to_be_bytes()),
        attribute(TIMEOUT, &RECALL_SECONDS.to_be_bytes()),
        nest(PROTOCOL_STATE, &nest(TCP, &state)),
    ];
    request(NEW, CREATE, ends, &parts)
}

/// Reads what the kernel answers.
pub fn read(bytes: &[u8]) -> Option<Answer> {
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match half(4)? {
        ERROR => Some(Answer::Error(word(HEADER)?.cast_signed().wrapping_neg())),
        NEW => {
            let attributes = bytes.get(HEADERS..)?;
            let status = u32::from_be_bytes(find(attributes, STATUS)?.try_into().ok()?);
            let state = find(attributes, PROTOCOL_STATE).and_then(|state| find(find(state, TCP)?, TCP_STATE));
            Some(Answer::Entry {
                is_translated: status & TRANSLATED != 0,
                is_closed: state == Some(&[CLOSE][..]),
            })
        }
        _ => None,
    }
}

fn request(kind: u16, flags: u16, ends: &Ends, parts: &[Vec<u8>]) -> Vec<u8> {
    let family = if ends[0].is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let body = parts.concat();
    let mut message = ((HEADERS + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    // No number of its own, for the kernel answers at once; the sender's, which the kernel fills in; the family, the version 0, and nothing.
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(body);
    message
}

/// One direction of a connection.
fn tuple(kind: u16, [source, destination]: [SocketAddr; 2]) -> Vec<u8> {
    let addresses = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [attribute(V4_SOURCE, &source.octets()), attribute(V4_DESTINATION, &destination.octets())]
        }
        (source, destination) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            [attribute(V6_SOURCE, &octets(source)), attribute(V6_DESTINATION, &octets(destination))]
        }
    };
    let protocol = [
        attribute(PROTOCOL_NUMBER, &[libc::IPPROTO_TCP as u8]),
        attribute(SOURCE_PORT, &source.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &destination.port().to_be_bytes()),
    ];
    nest(kind, &[nest(TUPLE_IP, &addresses.concat()), nest(TUPLE_PROTOCOL, &protocol.concat())].concat())
}

fn loose() -> Vec<u8> {
    TCP_FLAGS.map(|kind| attribute(kind, &LOOSE)).concat()
}

fn nest(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(one: &str, other: &str) -> Ends {
        [one, other].map(|text| text.parse().expect("an address"))
    }

    #[test]
    fn a_question_is_a_tuple_behind_two_headers() {
        let asked = get(&ends("192.0.2.1:443", "198.51.100.2:256"));
        assert_eq!(asked.len(), usize::try_from(u32::from_ne_bytes(asked[..4].try_into().unwrap())).unwrap());
        assert_eq!(asked[16], libc::AF_INET as u8);
        let tuple = find(&asked[HEADERS..], ORIGINAL).expect("a tuple");
        let addresses = find(tuple, TUPLE_IP).expect("addresses");
        assert_eq!(find(addresses, V4_SOURCE), Some(&[192, 0, 2, 1][..]));
        assert_eq!(find(addresses, V4_DESTINATION), Some(&[198, 51, 100, 2][..]));
        let protocol = find(tuple, TUPLE_PROTOCOL).expect("ports");
        assert_eq!(find(protocol, PROTOCOL_NUMBER), Some(&[6][..]));
        assert_eq!(find(protocol, SOURCE_PORT), Some(&[1, 187][..]));
        assert_eq!(find(protocol, DESTINATION_PORT), Some(&[1, 0][..]));
    }

    #[test]
    fn addresses_of_ipv6_are_whole() {
        let asked = delete(&ends("[2001:db8::1]:1", "[2001:db8::2]:2"));
        let addresses =
            find(find(&asked[HEADERS..], ORIGINAL).expect("a tuple"), TUPLE_IP).expect("addresses");
        assert_eq!(find(addresses, V6_DESTINATION).map(|octets| (octets.len(), octets[15])), Some((16, 2)));
        assert_eq!(asked[16], libc::AF_INET6 as u8);
    }

    #[test]
    fn what_is_recalled_has_both_directions() {
        let told = recall(&ends("192.0.2.1:1", "192.0.2.2:2"));
        let port = |direction: u16, which: u16| {
            find(find(find(&told[HEADERS..], direction).unwrap(), TUPLE_PROTOCOL).unwrap(), which).unwrap()
        };
        assert_eq!((port(ORIGINAL, SOURCE_PORT), port(REPLY, SOURCE_PORT)), (&[0, 1][..], &[0, 2][..]));
    }

    #[test]
    fn answers_are_read_and_what_is_cut_is_none() {
        let check = |status: u32, state: u8, is_translated: bool, is_closed: bool| {
            let state = nest(PROTOCOL_STATE, &nest(TCP, &attribute(TCP_STATE, &[state])));
            let parts = [attribute(TIMEOUT, &[0; 4]), state, attribute(STATUS, &status.to_be_bytes())];
            let answer = request(NEW, 0, &ends("192.0.2.1:1", "192.0.2.2:2"), &parts);
            assert_eq!(read(&answer), Some(Answer::Entry { is_translated, is_closed }));
            assert!((0..answer.len()).all(|len| read(&answer[..len]).is_none()));
        };
        check(KNOWN, ESTABLISHED, false, false);
        check(KNOWN | 1 << 4, ESTABLISHED, true, false);
        check(KNOWN | 1 << 5, CLOSE, true, true);
        check(KNOWN, CLOSE, false, true);
        let mut error = [0; HEADERS];
        error[4] = ERROR as u8;
        error[16..].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(read(&error), Some(Answer::Error(libc::ENOENT)));
    }
}
