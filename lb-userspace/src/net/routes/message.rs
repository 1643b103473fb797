// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions for a route and answers (rtnetlink(7), include/uapi/linux/rtnetlink.h). Pure.

use std::net::{IpAddr, SocketAddr};

use crate::net::netlink::{attribute, find};

/// RTM_NEWLINK, which is how an interface is told, RTM_DELLINK, RTM_GETLINK, and the first and the last of a route.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW: u16 = 24;
const GET: u16 = 26;

/// NLMSG_ERROR.
pub const ERROR: u16 = 2;

/// NLM_F_REQUEST (netlink(7)).
const REQUEST: u16 = 1;

/// Attributes of a route: RTA_DST, RTA_SRC, RTA_OIF, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT.
const DESTINATION: u16 = 1;
const SOURCE: u16 = 2;
const INTERFACE: u16 = 4;
const PROTOCOL: u16 = 27;
const SOURCE_PORT: u16 = 28;
const DESTINATION_PORT: u16 = 29;

/// RTN_UNICAST: it leads to another host.
const UNICAST: u8 = 1;

/// Bytes of struct nlmsghdr.
pub const HEADER: usize = 16;

/// Bytes of it with struct rtmsg behind it.
const HEADERS: usize = HEADER + 12;

/// Where in struct rtmsg the kind of a route stands.
const KIND: usize = 7;

/// Bytes of a message that tell which interface it is about.
pub const LINK_BYTES: usize = LINK_HEADERS;

/// Where in struct ifinfomsg behind the header the number of an interface stands, and its flags; bytes of both structs.
const LINK_NUMBER: usize = 4;
const LINK_FLAGS: usize = HEADER + 8;
const LINK_HEADERS: usize = HEADER + 16;

/// What has become of an interface, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It has come, or something about it has changed.
    There(u32),
    /// It is not in this network namespace any more.
    Gone(u32),
}

/// What changes by which interface this host sends: links, addresses, routes, rules, and next hops that routes share (enum rtnetlink_groups; group n is bit
/// n - 1). A link that goes down takes routes of IPv4 with it, of which nobody is told by themselves.
pub const GROUPS: u32 =
    group(1) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19) | group(32);

/// What tells of links alone.
pub const LINK_GROUP: u32 = group(1);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Asks how TCP goes from an address and port to others. Ports matter where rules ask for them, or several gateways share the load.
pub fn question(from: SocketAddr, to: SocketAddr, sequence: u32) -> Vec<u8> {
    let (family, bits) = if to.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    let body = [
        vec![family as u8, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        attribute(DESTINATION, &octets(to.ip())),
        attribute(SOURCE, &octets(from.ip())),
        attribute(PROTOCOL, &[libc::IPPROTO_TCP as u8]),
        attribute(SOURCE_PORT, &from.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &to.port().to_be_bytes()),
    ]
    .concat();
    request(GET, sequence, &body)
}

/// Asks for the interface with this number.
pub fn link(number: u32, sequence: u32) -> Vec<u8> {
    let mut body = [0; LINK_HEADERS - HEADER];
    body[LINK_NUMBER..][..4].copy_from_slice(&number.to_ne_bytes());
    request(GET_LINK, sequence, &body)
}

/// A question of a kind, with what stands behind its header.
pub fn request(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The sender's number, which the kernel fills in.
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// The number of the question that an answer is to.
pub fn sequence(answer: &[u8]) -> Option<u32> {
    word(answer, 8)
}

/// Which interface is there or is gone, as a message about changes says; `None`: it says something else.
pub fn link_change(message: &[u8]) -> Option<LinkChange> {
    let kind = kind(message)?;
    // Of another family (AF_BRIDGE) it says what an interface is to something else.
    if !(kind == NEW_LINK || kind == DELETE_LINK) || *message.get(HEADER)? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let number = word(message, HEADER + LINK_NUMBER)?;
    Some(if kind == NEW_LINK { LinkChange::There(number) } else { LinkChange::Gone(number) })
}

/// Whether an answer says that there is no such interface, or that it is down.
pub fn is_lost(answer: &[u8]) -> bool {
    let is_down = |flags| flags & libc::IFF_UP as u32 == 0;
    is_absent(answer) || kind(answer) == Some(NEW_LINK) && word(answer, LINK_FLAGS).is_some_and(is_down)
}

/// Whether an answer says that there is no such interface, which one that is down is not.
pub fn is_absent(answer: &[u8]) -> bool {
    // ENODEV: net/core/rtnetlink.c, rtnl_getlink. Other errors say nothing of the interface.
    kind(answer) == Some(ERROR) && word(answer, HEADER) == Some((-libc::ENODEV) as u32)
}

/// Bytes that packets may have which the interface of an answer makes of several that it has received (IFLA_GRO_MAX_SIZE of
/// include/uapi/linux/if_link.h); `None`: it does not say, as before Linux 5.19.
pub fn received_bytes(answer: &[u8]) -> Option<u32> {
    const GRO_MAX_SIZE: u16 = 58;
    let attributes = answer.get(LINK_HEADERS..).filter(|_| kind(answer) == Some(NEW_LINK))?;
    word(find(attributes, GRO_MAX_SIZE)?, 0)
}

/// The number of the interface of which that of an answer is a port, on their links (IFLA_MASTER, and in IFLA_LINKINFO the IFLA_INFO_SLAVE_KIND of
/// include/uapi/linux/if_link.h): a bridge, a bond or a team, which has the addresses then. One of a VRF has its own.
pub fn master(answer: &[u8]) -> Option<u32> {
    const MASTER: u16 = 10;
    const LINK_INFO: u16 = 18;
    const PORT_KIND: u16 = 4;
    let attributes = answer.get(LINK_HEADERS..).filter(|_| kind(answer) == Some(NEW_LINK))?;
    let port_kind = find(find(attributes, LINK_INFO)?, PORT_KIND)?;
    // A text ends with 0.
    [b"bridge\0".as_slice(), b"bond\0", b"team\0"].contains(&port_kind).then_some(())?;
    word(find(attributes, MASTER)?, 0)
}

/// What a message is.
pub fn kind(answer: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?))
}

/// Four bytes of a message; `None`: it ends before them.
pub fn word(answer: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?))
}

/// By which interface packets leave, as an answer says; `None`: it is an error, or the route leads to nobody else.
pub fn interface(answer: &[u8]) -> Option<u32> {
    if kind(answer)? != NEW || *answer.get(HEADER + KIND)? != UNICAST {
        return None;
    }
    let number = find(answer.get(HEADERS..)?, INTERFACE)?;
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(from: &str, to: &str) -> Vec<u8> {
        super::question(from.parse().expect("an address"), to.parse().expect("an address"), 7)
    }

    #[test]
    fn a_question_names_both_ends() {
        let check = |from: &str, to: &str, source: &[u8], destination: &[u8]| {
            let asked = question(from, to);
            assert_eq!(asked.len(), u32::from_ne_bytes(asked[..4].try_into().expect("four")) as usize);
            assert_eq!(sequence(&asked), Some(7));
            let attributes = &asked[HEADERS..];
            assert_eq!(find(attributes, SOURCE), Some(source));
            assert_eq!(find(attributes, DESTINATION), Some(destination));
            assert_eq!(find(attributes, SOURCE_PORT), Some(&[1, 0][..]));
            assert_eq!(find(attributes, DESTINATION_PORT), Some(&[0, 2][..]));
            assert_eq!(usize::from(asked[HEADER + 1]), destination.len() * 8);
        };
        check("192.0.2.1:256", "198.51.100.2:2", &[192, 0, 2, 1], &[198, 51, 100, 2]);
        let [from, to] = ["2001:db8::1", "2001:db8::2"].map(|text| octets(text.parse().expect("an address")));
        check("[2001:db8::1]:256", "[2001:db8::2]:2", &from, &to);
    }

    #[test]
    fn only_a_route_to_somebody_else_has_an_interface() {
        let answer = |kind: u16, route: u8| {
            let mut answer = vec![0; HEADERS];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[HEADER + KIND] = route;
            answer.extend(attribute(DESTINATION, &[192, 0, 2, 1]));
            answer.extend(attribute(INTERFACE, &7_u32.to_ne_bytes()));
            answer
        };
        assert_eq!(interface(&answer(NEW, UNICAST)), Some(7));
        // RTN_LOCAL.
        assert_eq!(interface(&answer(NEW, 2)), None);
        assert_eq!(interface(&answer(ERROR, UNICAST)), None);
        (0..answer(NEW, UNICAST).len()).for_each(|len| {
            assert_eq!(interface(&answer(NEW, UNICAST)[..len]), None, "{len} bytes");
        });
    }

    #[test]
    fn an_interface_is_lost_that_is_down_or_not_there() {
        let check = |kind: u16, at: usize, number: i32, expected: [bool; 2]| {
            let mut answer = vec![0; LINK_HEADERS];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[at..at + 4].copy_from_slice(&number.to_ne_bytes());
            assert_eq!([is_lost(&answer), is_absent(&answer)], expected, "kind {kind}, {number}");
        };
        check(NEW_LINK, LINK_FLAGS, libc::IFF_UP | libc::IFF_RUNNING, [false, false]);
        check(NEW_LINK, LINK_FLAGS, libc::IFF_BROADCAST, [true, false]);
        check(ERROR, HEADER, -libc::ENODEV, [true, true]);
        check(ERROR, HEADER, -libc::EPERM, [false, false]);
        check(ERROR, HEADER, -libc::ENOMEM, [false, false]);
        check(NEW, HEADER, 0, [false, false]);
        assert_eq!([is_lost(&[]), is_absent(&[])], [false, false]);
    }

    #[test]
    fn an_interface_tells_how_much_it_makes_one_packet_of() {
        let mut answer = vec![0; LINK_BYTES];
        answer[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
        assert_eq!(received_bytes(&answer), None, "an older kernel");
        answer.extend(
            [attribute(4, &1_500_u32.to_ne_bytes()), attribute(58, &131_072_u32.to_ne_bytes())].concat(),
        );
        assert_eq!(received_bytes(&answer), Some(131_072));
        assert_eq!(received_bytes(&answer[..answer.len() - 4]), None, "cut off");
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert_eq!(received_bytes(&answer), None);
    }

    #[test]
    fn a_port_tells_of_what_it_is_one() {
        let check = |port_kind: &[u8], expected: Option<u32>| {
            let mut answer = vec![0; LINK_BYTES];
            answer[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
            answer.extend(attribute(10, &7_u32.to_ne_bytes()));
            answer.extend(attribute(18, &[attribute(1, b"veth\0"), attribute(4, port_kind)].concat()));
            assert_eq!(master(&answer), expected);
            assert_eq!(master(&answer[..answer.len() - 4]), None, "cut off");
        };
        check(b"bridge\0", Some(7));
        check(b"bond\0", Some(7));
        check(b"vrf\0", None);
    }

    #[test]
    fn a_change_of_a_link_tells_which_it_is() {
        let message = |kind: u16, family: i32| {
            let mut message = vec![0; LINK_BYTES];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[HEADER] = family as u8;
            message[HEADER + LINK_NUMBER..][..4].copy_from_slice(&258_u32.to_ne_bytes());
            message
        };
        let check = |kind, family, expected| assert_eq!(link_change(&message(kind, family)), expected);
        check(NEW_LINK, libc::AF_UNSPEC, Some(LinkChange::There(258)));
        check(DELETE_LINK, libc::AF_UNSPEC, Some(LinkChange::Gone(258)));
        // It has left a bridge.
        check(DELETE_LINK, libc::AF_BRIDGE, None);
        check(NEW, libc::AF_UNSPEC, None);
        (0..HEADER + LINK_NUMBER + 4).for_each(|len| {
            assert_eq!(link_change(&message(DELETE_LINK, libc::AF_UNSPEC)[..len]), None, "{len} bytes");
        });
    }

    #[test]
    fn a_question_for_a_link_names_it() {
        assert_eq!(link(258, 7)[HEADER + LINK_NUMBER..][..4], 258_u32.to_ne_bytes());
    }
}
