// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: whoever can send with the addresses and ports of a flow, but does not know its numbers, changes nothing; and segments that
//! are an end's own, whoever has made them, end it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::flows::FlowMaps;
use lb_tests::net::{Namespace, Net};
use lb_tests::stream::{End, receive_all};
use lb_tests::wait::until;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};

on_both_families! {
    resets_that_are_forged_change_nothing,
    beginnings_that_are_forged_change_nothing,
    ends_that_are_forged_change_nothing,
    a_reset_with_the_right_number_ends_the_flow,
    an_end_with_the_right_number_ends_a_direction,
    what_is_forged_keeps_no_flow_alive,
}

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
pub(crate) const ACK: u8 = 1 << 4;

/// Bytes of a TCP header without options.
const HEADER: usize = 20;

/// Beyond every window here.
pub(crate) const FAR: u32 = 1 << 30;

/// Where an end of a flow is in its connection: the numbers of the next byte that it sends, and of the next that it expects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) sends: u32,
    pub(crate) expects: u32,
}

/// Who sends with an end's address and port, beside its socket.
pub(crate) struct Forger {
    pub(crate) raw: Socket,
    pub(crate) own: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) numbers: Numbers,
}

impl Forger {
    /// At an idle flow's client or server. A raw socket is shown what comes in, too (raw(7)): that tells the numbers.
    #[track_caller]
    pub(crate) fn beside(lab: &Lab, flow: &Spliced, is_clients: bool) -> Self {
        let (end, place) =
            if is_clients { (&flow.client, &lab.net.client) } else { (&flow.server, lab.net.server()) };
        let port = end.local_addr().expect("connected").port();
        let own = lab.family.of(place, port);
        let peer = lb_tests::net::canonical(end.peer_addr().expect("connected"));
        let raw = raw_socket(place, own);
        flow.ping();
        flow.ping();
        let mut numbers = None;
        let mut packet = [0; 1 << 16];
        while let Ok(len) = std::io::Read::read(&mut &raw, &mut packet) {
            numbers = told(tcp(&packet[..len], own), own, peer).or(numbers);
        }
        Self { raw, own, peer, numbers: numbers.expect("a segment came") }
    }

    /// Sends a segment without payload; numbers are relative to the right ones.
    #[track_caller]
    fn send(&self, flags: u8, sequence: u32, acknowledgement: u32) {
        let segment = self.segment(flags, sequence, acknowledgement, &[]);
        let sent = self.raw.send_to(&segment, &SocketAddr::new(self.peer.ip(), 0).into());
        assert_eq!(sent.expect("a raw socket"), HEADER);
    }

    /// Such a segment, with payload.
    pub(crate) fn segment(&self, flags: u8, sequence: u32, acknowledgement: u32, payload: &[u8]) -> Vec<u8> {
        let Numbers { sends, expects } = self.numbers;
        let mut segment = Vec::with_capacity(HEADER + payload.len());
        for port in [self.own.port(), self.peer.port()] {
            segment.extend(port.to_be_bytes());
        }
        let acknowledges = if flags & ACK == 0 { 0 } else { expects.wrapping_add(acknowledgement) };
        for number in [sends.wrapping_add(sequence), acknowledges] {
            segment.extend(number.to_be_bytes());
        }
        segment.extend([5 << 4, flags, 1, 0, 0, 0, 0, 0]);
        segment.extend(payload);
        let sum = checksum(&segment, self.own.ip(), self.peer.ip());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// One that gets and sends whole segments of TCP, with the address of this end.
fn raw_socket(place: &Namespace, own: SocketAddr) -> Socket {
    let raw = place.enter(|| Socket::new(Domain::for_address(own), Type::RAW, Some(Protocol::TCP)));
    let raw = raw.expect("raw sockets need root");
    SockRef::from(&raw).set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    raw
}

/// The segment in what a raw socket got: with IPv4's header, and without IPv6's (raw(7), ipv6(7)).
fn tcp(packet: &[u8], own: SocketAddr) -> &[u8] {
    let header = if own.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
    &packet[header..]
}

/// What a segment to this end tells of its numbers.
fn told(segment: &[u8], own: SocketAddr, peer: SocketAddr) -> Option<Numbers> {
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().expect("4 bytes"));
    let payload = segment.len() - usize::from(segment[12] >> 4) * 4;
    let is_of_flow = (port(0), port(2)) == (peer.port(), own.port());
    is_of_flow.then(|| Numbers { sends: number(8), expects: number(4).wrapping_add(payload as u32) })
}

/// TCP's checksum, with the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1: the sum is the same for lengths below 65,536).
fn checksum(segment: &[u8], from: IpAddr, to: IpAddr) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(segment.len()).expect("a short segment");
    let all =
        [octets(from), octets(to), vec![0, 6], length.to_be_bytes().to_vec(), segment.to_vec()].concat();
    let sum: u32 = all.chunks(2).map(|half| u32::from(u16::from_be_bytes([half[0], half[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sends each of these from both sides to a flow that rests: flags, number and acknowledgement, relative to the right ones.
#[track_caller]
fn change_nothing(family: Family, forged: &[(u8, u32, u32)]) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let beside = lab.bytes_beside();
    let maps = FlowMaps::of(&lab.agent.process);
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        let forger = Forger::beside(&lab, flow, is_clients);
        let state = || maps.carried().remove(&flow.client_port()).expect("the programs carry it");
        let before = state();
        for (flags, sequence, acknowledgement) in forged {
            forger.send(*flags, *sequence, *acknowledgement);
        }
        let from = usize::from(!is_clients);
        let come = || state().segments[from] - before.segments[from];
        until("what was forged to come by", || come() >= forged.len() as u64);
        // Not even what the ends do not notice.
        assert_eq!(state().flow, before.flow);
        // Numbers have not moved, so what was sent would be noticed by what comes then.
        (0..10).for_each(|_| flow.ping());
        assert_eq!(lab.agent.records().len(), 0, "the agent takes the flow for ended");
        assert_eq!(lab.bytes_beside(), beside);
    }
    // They end as any other.
    flows.iter().for_each(Spliced::end);
    lab.assert_closed(2, "finished");
    until_nothing_left(&lab.agent);
}

fn resets_that_are_forged_change_nothing(family: Family) {
    let numbers = [1, 2, 1_000, 20_000, FAR, FAR.wrapping_neg(), 5_u32.wrapping_neg()];
    let forged: Vec<_> =
        numbers.iter().flat_map(|&at| [(RST, at, 0), (RST | ACK, at, 0), (RST | ACK, at, 7)]).collect();
    change_nothing(family, &forged);
}

fn beginnings_that_are_forged_change_nothing(family: Family) {
    let numbers = [0, 1, 1_u32.wrapping_neg(), 20_000, FAR, FAR.wrapping_neg()];
    let forged: Vec<_> =
        numbers.iter().flat_map(|&at| [(SYN, at, 0), (SYN | ACK, at, 0), (SYN | ACK, at, FAR)]).collect();
    change_nothing(family, &forged);
}

/// One that stands where it could be, and acknowledges what was sent, is not forged but guessed: TCP takes it.
fn ends_that_are_forged_change_nothing(family: Family) {
    let far = [FAR, FAR.wrapping_neg(), 1_000_u32.wrapping_neg()].map(|at| (FIN | ACK, at, 0));
    let unsent = [1, 1_000, FAR, FAR.wrapping_neg()].map(|at| (FIN | ACK, 0, at));
    change_nothing(family, &[&far[..], &unsent[..], &[(FIN, 0, 0), (0, 0, 0)]].concat());
}

fn a_reset_with_the_right_number_ends_the_flow(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        Forger::beside(&lab, flow, is_clients).send(RST, 0, 0);
        let (_, other) = flow.towards(is_clients);
        assert_eq!(receive_all(other), (Vec::new(), End::Reset));
    }
    lab.assert_closes(&["client-reset", "server-reset"]);
}

fn an_end_with_the_right_number_ends_a_direction(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        Forger::beside(&lab, flow, is_clients).send(FIN | ACK, 0, 0);
        let (_, other) = flow.towards(is_clients);
        assert_eq!(receive_all(other), (Vec::new(), End::Finished));
    }
    assert_eq!(lab.agent.records().len(), 0, "the other direction is open yet");
}

/// No byte moves, so the flow has been idle for too long, whatever its ends answer.
fn what_is_forged_keeps_no_flow_alive(family: Family) {
    let lines = Lines { backend: "idle-timeout = \"3s\"", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    let flow = lab.spliced();
    let forger = Forger::beside(&lab, &flow, true);
    let begun = Instant::now();
    until("the flow to have been idle for too long", || {
        for (flags, sequence) in
            [(SYN, FAR), (RST, 1), (FIN | ACK, FAR), (ACK, FAR), (ACK, 1_u32.wrapping_neg())]
        {
            forger.send(flags, sequence, 0);
        }
        std::thread::sleep(Duration::from_millis(100));
        lab.agent.records().len() == 1
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}", begun.elapsed());
    lab.assert_closed(1, "idle-timeout");
}
