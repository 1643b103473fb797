// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions for a route and answers (rtnetlink(7), include/uapi/linux/rtnetlink.h). Pure.

use std::net::{IpAddr, SocketAddr};

/// RTM_NEWROUTE, which is how a route is told, and RTM_GETROUTE.
const NEW: u16 = 24;
const GET: u16 = 26;

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

/// Bytes of struct nlmsghdr, and of it with struct rtmsg behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 12;

/// Where in struct rtmsg the kind of a route stands.
const KIND: usize = 7;

/// What changes by which interface this host sends: links, addresses, routes, rules, and next hops that routes share (enum rtnetlink_groups; group n is bit
/// n - 1). A link that goes down takes routes of IPv4 with it, of which nobody is told by themselves.
pub const GROUPS: u32 =
    group(1) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19) | group(32);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Asks how TCP goes from an address and port to others. Ports matter where rules ask for them, or several gateways share the load.
pub fn question(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
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
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(GET.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // No number of its own, for the kernel answers at once; the sender's, which the kernel fills in.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// By which interface packets leave, as an answer says; `None`: it is an error, or the route leads to nobody else.
pub fn interface(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NEW || *answer.get(HEADER + KIND)? != UNICAST {
        return None;
    }
    let number = find(answer.get(HEADERS..)?, INTERFACE)?;
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_at_checked(4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return attributes.get(4..len);
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(from: &str, to: &str) -> Vec<u8> {
        super::question(from.parse().expect("an address"), to.parse().expect("an address"))
    }

    #[test]
    fn a_question_names_both_ends() {
        let check = |from: &str, to: &str, source: &[u8], destination: &[u8]| {
            let asked = question(from, to);
            assert_eq!(asked.len(), u32::from_ne_bytes(asked[..4].try_into().expect("four")) as usize);
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
        // RTN_LOCAL; NLMSG_ERROR.
        assert_eq!(interface(&answer(NEW, 2)), None);
        assert_eq!(interface(&answer(2, UNICAST)), None);
        (0..answer(NEW, UNICAST).len()).for_each(|len| {
            assert_eq!(interface(&answer(NEW, UNICAST)[..len]), None, "{len} bytes");
        });
    }
}
