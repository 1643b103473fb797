// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets for both ends of a flow that has no sockets here.
//!
//! An end takes one only with exactly the number that it expects next (RFC 5961 section 3.2), and of that is known between which it is: what it has
//! acknowledged, and what was sent to it. So it gets one with each, the later one first, for most ends have everything and just have not said so
//! (delayed acknowledgements). In between lies only what got lost or is still under way: then the end answers with what it expects (a challenge
//! ACK), and the host with a reset of that number, for nobody else knows the flow any more.
//!
//! A reset carries no timestamp, and is taken nevertheless (RFC 7323 section 5.2).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lb_common::packet::checksum::Difference;
use lb_common::packet::flow::Side;
use lb_common::packet::ip::{Ipv4, Ipv6, TCP};
use lb_common::packet::record::{Record, V4};
use lb_common::packet::tcp::{ACK, RST, TCP_HEADER, Tcp};

use super::keys::ends;
use crate::net::conntrack::Conntrack;
use crate::net::{Course, RawSender};

/// How many routers may be on the way (net.ipv4.ip_default_ttl is the same unless somebody changes it).
const HOP_LIMIT: u32 = 64;

/// IPv4's "don't fragment" in the second word (RFC 791 section 3.1).
const WHOLE: u32 = 1 << 14;

/// Sends resets.
#[derive(Debug)]
pub struct Resets {
    sender: RawSender,
    conntrack: Arc<Conntrack>,
}

/// What became of resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// On their way.
    pub sent: u64,
    /// Not: there was no way, no interface, no room, or a rule forbade it.
    pub failed: u64,
}

/// A reset for one end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reset {
    course: Course,
    packet: Vec<u8>,
}

impl Resets {
    /// When resets are sent again, each from the one before: one may get lost, and so may the answer to one whose number was not quite right. An end
    /// that has got it has forgotten the connection, and whoever has its port by then knows that the number is not his (RFC 5961 section 3.2).
    pub const AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(750)];

    /// For flows of this network namespace.
    ///
    /// # Errors
    /// See [`RawSender::open`].
    pub fn open(conntrack: Arc<Conntrack>) -> io::Result<Self> {
        Ok(Self { sender: RawSender::open()?, conntrack })
    }

    /// Sends what both ends of a flow need, as it was when programs carried it last. They must not know it any more: what this host sends of a
    /// flow of theirs they let nowhere.
    pub fn send(&self, record: &Record) -> Outcome {
        // A reset that belongs to no connection is one that stateful rules drop.
        self.conntrack.recall(Side::ALL.map(|side| ends(&record.key(side))));
        self.send_again(record)
    }

    /// The same soon after that, while rules still know the connections; or they know others by then, which have the same ports.
    pub fn send_again(&self, record: &Record) -> Outcome {
        let mut outcome = Outcome::default();
        for side in Side::ALL {
            for reset in resets(record, side) {
                match self.sender.send(&reset.packet, &reset.course) {
                    Ok(()) => outcome.sent += 1,
                    Err(error) => {
                        tracing::debug!(%error, ?side, "a reset of path packet was not sent");
                        outcome.failed += 1;
                    }
                }
            }
        }
        outcome
    }
}

/// What an end gets.
fn resets(record: &Record, to: Side) -> Vec<Reset> {
    let end = record.flow.end(to);
    let mut numbers = vec![end.sent, end.acknowledged];
    numbers.dedup();
    numbers.into_iter().map(|number| reset(record, to, number)).collect()
}

fn reset(record: &Record, to: Side, sequence: u32) -> Reset {
    let (way, ports) = (record.way(to.other()), record.translation(to.other()).ports);
    let [remote, own] = ends(&record.key(to));
    let course = Course { from: own.ip(), to: remote.ip(), interface: way.interface };
    let flags = (TCP_HEADER / 4) << 28 | u32::from(RST | ACK) << 16;
    let tcp = Tcp([ports, sequence, record.flow.end(to).reached, flags, 0]);
    let (source, destination) = (way.addresses.source, way.addresses.destination);
    let packet = if record.family == V4 {
        let len = 5 * 4 + TCP_HEADER;
        let ip = [4 << 28 | 5 << 24 | len, WHOLE, HOP_LIMIT << 24 | TCP << 16, source[3], destination[3]];
        bytes(&ip, &summed(tcp, Ipv4(ip).pseudo(TCP_HEADER)))
    } else {
        let ([a, b, c, d], [e, f, g, h]) = (source, destination);
        let ip = [6 << 28, TCP_HEADER << 16 | TCP << 8 | HOP_LIMIT, a, b, c, d, e, f, g, h];
        bytes(&ip, &summed(tcp, Ipv6(ip).pseudo(TCP_HEADER)))
    };
    Reset { course, packet }
}

/// With the checksum, which is that of nothing, changed by all there is (RFC 1071).
fn summed(tcp: Tcp, pseudo: Difference) -> Tcp {
    tcp.with_checksum(pseudo.and(tcp.sum()).applied(u16::MAX))
}

fn bytes(ip: &[u32], tcp: &Tcp) -> Vec<u8> {
    ip.iter().chain(&tcp.0).flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::packet::flow::{End, Flow};
    use lb_common::packet::record::V6;
    use lb_common::packet::tcp::Translation;

    use super::*;
    use crate::kernel::packet::{ports, way};

    /// A flow between the first and the last of four addresses, whose ends know the second and the third.
    fn record(addresses: [&str; 4], ends: [End; 2]) -> Record {
        let [client, frontend, own, server] =
            addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
        let towards = |ports: u32| Translation { ports, ..Translation::default() };
        let to_server = towards(ports((own, 61_000).into(), (server, 6000).into()));
        let to_client = towards(ports((frontend, 443).into(), (client, 40_000).into()));
        let family = if client.is_ipv4() { V4 } else { V6 };
        let flow = Flow::tracked(ends, to_server, to_client);
        Record::new(flow, family, way(own, server, 3), way(frontend, client, 2))
    }

    fn end(reached: u32, sent: u32, acknowledged: u32) -> End {
        End { reached, sent, acknowledged, ..End::default() }
    }

    const V4_ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.2"];
    const V6_ADDRESSES: [&str; 4] = ["2001:db8::1", "2001:db8::2", "2001:db8:1::1", "2001:db8:1::2"];

    #[test]
    fn an_end_gets_the_numbers_between_which_it_is() {
        let check = |sent: u32, acknowledged: u32, expected: &[u32]| {
            let record = record(V4_ADDRESSES, [end(7, sent, acknowledged), end(1, 2, 2)]);
            let numbers: Vec<u32> = resets(&record, Side::Client)
                .iter()
                .map(|reset| u32::from_be_bytes(reset.packet[24..28].try_into().expect("4 bytes")))
                .collect();
            assert_eq!(numbers, expected);
        };
        check(5, 5, &[5]);
        check(5, 4, &[5, 4]);
        check(2, u32::MAX, &[2, u32::MAX]);
    }

    #[test]
    fn a_reset_goes_the_way_of_what_its_end_was_sent() {
        let check =
            |addresses: [&str; 4], side: Side, from: usize, to: usize, interface: u32, ports: [u16; 2]| {
                let record = record(addresses, [end(7, 5, 5), end(0xfedc_ba98, 9, 9)]);
                let [reset] = resets(&record, side).try_into().expect("one");
                let [from, to] = [from, to].map(|index| addresses[index].parse().expect("an address"));
                assert_eq!(reset.course, Course { from, to, interface });
                let header = reset.packet.len() - TCP_HEADER as usize;
                let tcp = &reset.packet[header..];
                let told = [0, 2].map(|at| u16::from_be_bytes([tcp[at], tcp[at + 1]]));
                assert_eq!((told, tcp[13]), (ports, RST | ACK));
                assert!(sum(&reset.packet, header).is_whole(), "{reset:?}");
            };
        for addresses in [V4_ADDRESSES, V6_ADDRESSES] {
            check(addresses, Side::Client, 1, 0, 2, [443, 40_000]);
            check(addresses, Side::Server, 2, 3, 3, [61_000, 6000]);
        }
    }

    /// Of pseudo header and segment: addresses, length and protocol, and all words behind the header.
    fn sum(packet: &[u8], header: usize) -> Difference {
        let addresses = if header == 20 { 12 } else { 8 };
        let words =
            packet[addresses..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().expect("words")));
        words.fold(Difference::NONE.plus(TCP).plus(TCP_HEADER), Difference::plus)
    }
}
