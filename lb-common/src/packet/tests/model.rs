// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets as bytes, and their translation as one would do it by hand. Shares nothing with what it is compared with but constants.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

/// Addresses as they are in the header: 4 bytes each, or 16.
pub type Ends = (Vec<u8>, Vec<u8>);

/// What a packet is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    pub ends: Ends,
    pub hops: u8,
    pub ports: (u16, u16),
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Bytes behind the packet, as Ethernet adds them.
    pub padding: usize,
}

/// What the model translates by.
#[derive(Clone, Debug)]
pub struct Change {
    pub ends: Ends,
    pub ports: (u16, u16),
    pub sequence_add: u32,
    pub acknowledgement_add: u32,
    pub timestamp_add: u32,
    pub echo_add: u32,
    pub shifts: (u8, u8),
}

impl Shape {
    /// Bytes of the IP header.
    pub fn ip_len(&self) -> usize {
        if self.ends.0.len() == 4 { 20 } else { 40 }
    }

    /// The packet, from the IP header on, with its checksums.
    pub fn packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.ports.0.to_be_bytes());
        tcp.extend(self.ports.1.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.push(u8::try_from((20 + self.options.len()) / 4).expect("a short header") << 4);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let mut packet = self.ip_header(u16::try_from(tcp.len()).expect("a short segment"));
        packet.extend(tcp);
        fill_checksums(&mut packet);
        packet.extend((0..self.padding).map(|_| 0));
        packet
    }

    fn ip_header(&self, tcp_len: u16) -> Vec<u8> {
        let mut header = Vec::new();
        if self.ip_len() == 20 {
            header.extend([0x45, 0x02]);
            header.extend((tcp_len + 20).to_be_bytes());
            header.extend([0xab, 0xcd, 0x40, 0, self.hops, 6, 0, 0]);
        } else {
            header.extend([0x60, 0x2a, 0xbc, 0xde]);
            header.extend(tcp_len.to_be_bytes());
            header.extend([6, self.hops]);
        }
        header.extend(&self.ends.0);
        header.extend(&self.ends.1);
        header
    }
}

/// The sum of bytes in ones' complement, not inverted (RFC 1071 section 1): never 0 but for zeros.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("16 bits")
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_sum(packet: &[u8]) -> u16 {
    let (addresses, len) = if packet[0] >> 4 == 4 {
        (&packet[12..20], u32::from(u16::from_be_bytes([packet[2], packet[3]])) - 20)
    } else {
        (&packet[8..40], u32::from(u16::from_be_bytes([packet[4], packet[5]])))
    };
    sum(&[addresses, &len.to_be_bytes(), &[0, 0, 0, 6]].concat())
}

/// Writes all checksums of a packet without padding.
pub fn fill_checksums(packet: &mut [u8]) {
    let ip_len = fill_ip_checksum(packet);
    packet[ip_len + 16..ip_len + 18].fill(0);
    let total = sum(&[&pseudo_sum(packet).to_be_bytes()[..], &packet[ip_len..]].concat());
    packet[ip_len + 16..ip_len + 18].copy_from_slice(&(!total).to_be_bytes());
}

/// Writes the IP header's checksum, if it has one; returns the header's length.
pub fn fill_ip_checksum(packet: &mut [u8]) -> usize {
    if packet[0] >> 4 != 4 {
        return 40;
    }
    packet[10..12].fill(0);
    let checksum = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    20
}

/// The packet as the other end should get it.
pub fn translated(packet: &[u8], padding: usize, by: &Change) -> Vec<u8> {
    let (packet, tail) = packet.split_at(packet.len() - padding);
    let mut packet = packet.to_vec();
    let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let (hops, addresses) = if ip_len == 20 { (8, 12) } else { (7, 8) };
    packet[hops] -= 1;
    packet[addresses..ip_len].copy_from_slice(&[&by.ends.0[..], &by.ends.1[..]].concat());
    rewrite_tcp(&mut packet[ip_len..], by);
    fill_checksums(&mut packet);
    packet.extend(tail);
    packet
}

fn rewrite_tcp(tcp: &mut [u8], by: &Change) {
    let (flags, header_len) = (tcp[13], usize::from(tcp[12] >> 4) * 4);
    tcp[0..2].copy_from_slice(&by.ports.0.to_be_bytes());
    tcp[2..4].copy_from_slice(&by.ports.1.to_be_bytes());
    add(&mut tcp[4..8], by.sequence_add);
    if flags & 0x10 != 0 {
        add(&mut tcp[8..12], by.acknowledgement_add);
    }
    if flags & 0x02 == 0 {
        let window = u16::from_be_bytes([tcp[14], tcp[15]]);
        tcp[14..16].copy_from_slice(&window_of(window, by.shifts).to_be_bytes());
    }
    let mut options = &mut tcp[20..header_len];
    while let [kind, rest @ ..] = options {
        match *kind {
            0 => break,
            1 => options = rest,
            kind => {
                let (option, further) = rest.split_at_mut(usize::from(rest[0]) - 1);
                match kind {
                    8 => {
                        add(&mut option[1..5], by.timestamp_add);
                        if option[5..9] != [0; 4] {
                            add(&mut option[5..9], by.echo_add);
                        }
                    }
                    5 => option[1..].chunks_mut(4).for_each(|edge| add(edge, by.acknowledgement_add)),
                    _ => {}
                }
                options = further;
            }
        }
    }
}

/// Adds to four bytes, modulo 2^32.
fn add(bytes: &mut [u8], addend: u32) {
    let old = bytes.iter().fold(0, |number, byte| number * 256 + u64::from(*byte));
    let new = (old + u64::from(addend)) % (1 << 32);
    bytes.copy_from_slice(&new.to_be_bytes()[4..]);
}

/// A window as it has to be written for the other end.
pub fn window_of(window: u16, shifts: (u8, u8)) -> u16 {
    let bytes = u64::from(window) * 2_u64.pow(shifts.0.min(14).into());
    let steps = bytes / 2_u64.pow(shifts.1.min(14).into());
    match (steps, window) {
        (0, 0) => 0,
        (0, _) => 1,
        (steps, _) => u16::try_from(steps).unwrap_or(u16::MAX),
    }
}

/// Numbers, of which many are about to wrap.
pub fn number() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0_u32..4).prop_map(|low| low.wrapping_sub(2)), Just(0x8000_0000), Just(0)]
}

/// Options of an established connection: in any order, at any offset, now and then ended before their end.
pub fn options() -> impl Strategy<Value = Vec<u8>> {
    let nops = || (0_usize..4).prop_map(|count| std::vec![1; count]);
    let timestamps = (number(), number())
        .prop_map(|(value, echo)| [&[8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat());
    let sack = prop::collection::vec((number(), number()), 1..=3).prop_map(|blocks| {
        let edges = blocks.iter().flat_map(|(left, right)| [left.to_be_bytes(), right.to_be_bytes()]);
        let len = u8::try_from(2 + 8 * blocks.len()).expect("a few blocks");
        [5, len].into_iter().chain(edges.flatten()).collect::<Vec<_>>()
    });
    let parts = (prop::option::of(timestamps), prop::option::of(sack), any::<bool>());
    (nops(), parts, nops(), any::<bool>()).prop_map(|(first, (one, other, is_swapped), middle, is_ended)| {
        let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
        let (one, other) = if is_swapped { (other, one) } else { (one, other) };
        let mut options = [first, one, middle, other].concat();
        options.truncate(40);
        // What was cut off is no option any more.
        if options.len() == 40 && !is_whole(&options) {
            options = std::vec![1; 40];
        }
        if is_ended && !options.len().is_multiple_of(4) {
            options.push(0);
            options.resize(options.len().next_multiple_of(4), 0xee);
        }
        options.resize(options.len().next_multiple_of(4), 1);
        options
    })
}

fn is_whole(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        let len = if *kind == 1 { 1 } else { rest.first().map_or(usize::MAX, |len| usize::from(*len)) };
        let Some(further) = options.get(len..) else { return false };
        options = further;
    }
    true
}

fn ends() -> impl Strategy<Value = (Ends, Ends)> {
    let of = |len| (prop::collection::vec(any::<u8>(), len), prop::collection::vec(any::<u8>(), len));
    prop_oneof![(of(4_usize), of(4_usize)), (of(16_usize), of(16_usize))]
}

/// A packet of an established connection, and what it is translated by.
pub fn cases() -> impl Strategy<Value = (Shape, Change)> {
    let numbers = || (number(), number(), number(), number());
    let packet = (2_u8.., any::<u8>(), any::<u16>(), any::<u16>(), options());
    let payload = (prop::collection::vec(any::<u8>(), 0..64), 0_usize..7);
    let ports = || (any::<u16>(), any::<u16>());
    let shifts = (0_u8..16, 0_u8..16);
    (ends(), packet, payload, (ports(), ports(), shifts), (number(), number(), numbers())).prop_map(
        |(ends, packet, payload, (ports, new_ports, shifts), (sequence, acknowledgement, adds))| {
            let (hops, flags, window, urgent, options) = packet;
            let (payload, padding) = payload;
            let (sequence_add, acknowledgement_add, timestamp_add, echo_add) = adds;
            let shape = Shape {
                ends: ends.0,
                hops,
                ports,
                sequence,
                acknowledgement,
                flags,
                window,
                urgent,
                options,
                payload,
                padding,
            };
            let change = Change {
                ends: ends.1,
                ports: new_ports,
                sequence_add,
                acknowledgement_add,
                timestamp_add,
                echo_add,
                shifts,
            };
            (shape, change)
        },
    )
}
