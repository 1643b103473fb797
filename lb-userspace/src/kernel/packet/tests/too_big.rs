// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that the balancer's own link cannot take, over devices whose other end is this test: what the end is told is compared byte for byte,
//! whatever was left to the kernel of the packet.

use std::time::{Duration, Instant};

use lb_common::packet::flow::Phase;
use lb_common::packet::record::Counter;
use lb_common::packet::too_big::PAUSE_MS;

use super::super::Packet;
use super::bench::{CLIENT, Family, Link, loaded, record, shape};
use super::errors::message;
use super::model::{self, Shape};
use super::place::{Place, ip};
use super::tun::{Device, NOTE, begin, protocol};

/// What has been left to the kernel of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Checksum,
    /// And the cutting, into so many bytes each.
    Segments(u16),
}

/// What the link towards the server takes: an end believes less with neither version (net.ipv4.route.min_pmtu, RFC 8200 section 5).
fn mtu(family: Family) -> u16 {
    if family == Family::V4 { 600 } else { 1_280 }
}

#[test]
fn who_sends_more_than_the_link_takes_is_told() {
    let Some((mut packet, _bells)) = loaded(4) else { return };
    for links in [[Link::Ethernet, Link::Bare], [Link::Bare, Link::Ethernet]] {
        let place = Place::new();
        for family in [Family::V4, Family::V6] {
            place.enter(|| meet(&mut packet, family, links));
        }
    }
}

/// Packets from the client meet a link to the server that takes less than some of them have.
fn meet(packet: &mut Packet, family: Family, [client_link, server_link]: [Link; 2]) {
    let mut client = Device::with_notes("client", client_link);
    let mut server = Device::new("server", server_link);
    client.route(family, &super::bench::address(family, 0));
    server.route(family, &super::bench::address(family, 3));
    ip(&["link", "set", "server", "mtu", &mtu(family).to_string()]);
    let _attached = ["client", "server"].map(|interface| packet.attach(interface).expect("an interface"));
    let counters = packet.counters().expect("descriptors");
    let before = counters.read().expect("memory");
    let (mut keys, slot) = begin(packet, family, &client);
    let headers = shape(family, CLIENT).ip_len() + 20;
    let room = usize::from(mtu(family)) - headers;
    let fitting = u16::try_from(room).expect("a small number");
    let too_big = [
        (room + 1, Left::Nothing),
        (room + 100, Left::Checksum),
        (9_000, Left::Segments(fitting + 1)),
        (room + 2, Left::Segments(fitting + 1)),
    ];
    for (len, left) in too_big {
        slot.edit(|record| record.to_server.told_ms = 0);
        let sent = send(&mut client, family, client_link, len, left);
        let told = client.next(is_error);
        assert_eq!(told, expected(family, &sent), "{family:?} {client_link:?} {len} {left:?}");
    }
    for (len, left) in [(room, Left::Nothing), (room, Left::Checksum), (9_000, Left::Segments(fitting))] {
        let sent = send(&mut client, family, client_link, len, left);
        let got = server.next(|packet| protocol(packet) == Some(6));
        assert_eq!(got.len(), usize::from(mtu(family)), "{family:?} {server_link:?} {len} {left:?}");
        assert_eq!(got[headers..], sent[headers..][..room]);
    }
    let counts = counters.read().expect("memory").since(&before);
    let counted = [Counter::TooBig, Counter::Told, Counter::Translated, Counter::Failed];
    assert_eq!(counted.map(|counter| counts.of(counter)), [4, 4, 3, 0]);
    keys.withdraw(&slot);
}

/// An ICMP error, among what the kernel sends by itself.
fn is_error(packet: &[u8]) -> bool {
    match protocol(packet) {
        Some(1) => true,
        Some(58) => packet[40] == 2,
        _ => false,
    }
}

/// Has a packet come from the client with so much payload; returns it as it came.
fn send(client: &mut Device, family: Family, link: Link, len: usize, left: Left) -> Vec<u8> {
    let shape = Shape { payload: (0..len).map(|at| at as u8).collect(), ..shape(family, CLIENT) };
    let (mut packet, ip_len) = (shape.packet(), shape.ip_len());
    let mut note = [0; NOTE];
    if left != Left::Nothing {
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, and where: the field has the sum of the pseudo header alone.
        let sum = model::pseudo_sum(&packet).to_be_bytes();
        packet[ip_len + 16..ip_len + 18].copy_from_slice(&sum);
        let begin = ip_len + if link == Link::Ethernet { 14 } else { 0 };
        let word = |number: usize| u16::try_from(number).expect("a small number").to_ne_bytes();
        note[0] = 1;
        note[6..8].copy_from_slice(&word(begin));
        note[8..].copy_from_slice(&word(16));
        if let Left::Segments(size) = left {
            // VIRTIO_NET_HDR_GSO_TCPV4 or TCPV6.
            note[1] = if family == Family::V4 { 1 } else { 4 };
            note[2..4].copy_from_slice(&word(begin + 20));
            note[4..6].copy_from_slice(&size.to_ne_bytes());
        }
    }
    client.receives_noted(&note, &packet);
    packet
}

/// What the client is told of a packet.
fn expected(family: Family, sent: &[u8]) -> Vec<u8> {
    let next = mtu(family).to_be_bytes();
    let kind = if family == Family::V4 {
        [3, 4, 0, 0, 0, 0, next[0], next[1]]
    } else {
        [2, 0, 0, 0, 0, 0, next[0], next[1]]
    };
    let ends = shape(family, CLIENT).ends;
    let quoted = if family == Family::V4 { 40 } else { 60 };
    let mut message = message(family, &ends.1, &ends.0, 64, kind, &sent[..quoted]);
    if family == Family::V4 {
        // One that is never cut, and so has no number.
        message[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        model::fill_ip_checksum(&mut message);
    } else {
        message[0] = 0x6c;
    }
    message
}

#[test]
fn an_end_is_not_told_of_every_packet() {
    let Some((packet, _bells)) = loaded(4) else { return };
    const PACKETS: u64 = 100;
    Place::new().enter(|| {
        let family = Family::V4;
        let mut client = Device::with_notes("client", Link::Ethernet);
        let server = Device::new("server", Link::Ethernet);
        client.route(family, &super::bench::address(family, 0));
        server.route(family, &super::bench::address(family, 3));
        ip(&["link", "set", "server", "mtu", &mtu(family).to_string()]);
        let _attached = ["client", "server"].map(|interface| packet.attach(interface).expect("an interface"));
        let counters = packet.counters().expect("descriptors");
        let before = counters.read().expect("memory");
        let (mut keys, slot) = begin(&packet, family, &client);
        let begun = Instant::now();
        for _ in 0..PACKETS {
            send(&mut client, family, Link::Ethernet, 1_000, Left::Nothing);
        }
        let most = begun.elapsed().div_duration_f64(Duration::from_millis(PAUSE_MS.into())) as u64 + 1;
        let counts = counters.read().expect("memory").since(&before);
        assert_eq!(counts.of(Counter::TooBig), PACKETS);
        let told = counts.of(Counter::Told);
        assert!((1..=most).contains(&told), "{told} of {PACKETS}, {most} at the most");
        assert_eq!(slot.edit(|record| record.flow.phase()), record(family, Phase::Spliced).flow.phase());
        keys.withdraw(&slot);
    });
}
