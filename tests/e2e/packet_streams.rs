// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: whatever two ends do with their streams, every byte arrives once and in its place.

use std::net::TcpStream;
use std::slice;
use std::thread;
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::peer::Service;
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_at_most, receive_exactly, receive_in_pieces, say, send, send_in_pieces,
    send_until_blocked,
};
use lb_tests::wait::until;
use rustix::net::sockopt::set_socket_oobinline;
use rustix::net::{RecvFlags, recv};

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};
use crate::support::{
    allow_many_connections, assert_received, limit_socket_buffers, stream_both_ways, stream_whole, urge,
};

on_both_families! {
    streams_both_ways_are_exact,
    short_flows_race_for_the_path,
    streams_that_never_wait_leave_the_agent,
    uploads_that_never_pause_leave_soon,
    uploads_that_are_promoted_in_their_midst_leave_soon,
    downloads_to_readers_that_are_slow_leave_soon,
    a_server_may_speak_first,
    a_reader_that_is_late_holds_up_the_other_end,
    a_reader_that_is_slow_gets_everything,
    urgent_bytes_are_urgent_at_the_other_end,
}

fn streams_both_ways_are_exact(family: Family) {
    let lab = Lab::start(family);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    let bytes = size(64 << 20, 5 << 30);
    stream_both_ways(&flow.client, &flow.server, bytes, bytes);
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside, "bytes that came after the flow had left");
}

/// What one flow of [`short_flows_race_for_the_path`] is to carry: words that client and server both know, and in which pieces.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    /// Messages of one byte each way before anything else, at the client's leisure.
    pings: usize,
    up: u64,
    down: u64,
}

impl Plan {
    /// Of the seed, which the client sends first.
    const LEN: u64 = 8;

    /// Bytes of any size, from none to half a megabyte, most of them few.
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let [up, down] = [(); 2].map(|()| {
            let scale = random.below(20);
            random.below(1 << scale) as u64
        });
        Self { seed, pings: random.below(40), up, down }
    }

    /// All that is carried.
    fn bytes(self) -> u64 {
        self.up + self.down + 2 * self.pings as u64 + Self::LEN
    }

    fn start(self, client: &TcpStream) {
        say(client, &self.seed.to_be_bytes());
        let mut random = Random::new(self.seed);
        for _ in 0..self.pings {
            say(client, b"?");
            assert_eq!(receive_exactly(client, 1), b"?");
            thread::sleep(Duration::from_micros(random.below(4_000) as u64));
        }
        self.follow(client, (self.seed, self.up), (self.seed + 1, self.down));
    }

    fn answer(server: &TcpStream) {
        let seed = receive_exactly(server, Self::LEN as usize);
        let plan = Self::new(u64::from_be_bytes(seed.try_into().expect("8 bytes")));
        for _ in 0..plan.pings {
            assert_eq!(receive_exactly(server, 1), b"?");
            say(server, b"?");
        }
        plan.follow(server, (plan.seed + 1, plan.down), (plan.seed, plan.up));
    }

    /// Sends so many bytes of one pattern in pieces, with a pause now and then, and a FIN, while another pattern has to come.
    fn follow(self, stream: &TcpStream, (sent, up): (u64, u64), (received, down): (u64, u64)) {
        let mut random = Random::new(self.seed ^ sent);
        let piece = || {
            if random.below(8) == 0 {
                thread::sleep(Duration::from_micros(random.below(1_500) as u64));
            }
            let scale = random.below(16);
            1 + random.below(1 << scale)
        };
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                send_in_pieces(stream, sent, up, piece).expect("a reader that keeps reading");
                finish(stream);
            });
            assert_received(&receive(stream, received), down, End::Finished);
            sender.join().expect("no panic");
        });
    }
}

/// Many at a time, most of which end before they can leave; in others the first segment that is translated may be any of them.
fn short_flows_race_for_the_path(family: Family) {
    let net = Net::new(1);
    allow_many_connections(&net);
    // Above the ports that clients and sockets of the balancer's use.
    let lab = Lab::with(net, family, Lines { global: "packet-ports = \"65001-65535\"", ..Lines::default() });
    let address = lab.address();
    let Lab { agent, listener, net, .. } = lab;
    let server = Service::start(listener, |stream| Plan::answer(&stream));
    let (racers, flows) = (12, size(200, 3_000_u64));
    thread::scope(|scope| {
        for racer in 0..racers {
            let net = &net;
            scope.spawn(move || {
                for number in (racer..flows).step_by(racers as usize) {
                    Plan::new(number * 2).start(&net.client.connect(address));
                }
            });
        }
    });
    (0..flows).for_each(|_| server.outcome());
    let records = agent.until_records(flows as usize);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    let carried: u64 = (0..flows).map(|number| Plan::new(number * 2).bytes()).sum();
    assert_eq!(agent.scrape().count("lb_path_bytes_total", &[]), carried);
    let away = agent.own_flows(Path::Packet);
    println!("{away} of {flows} flows left the agent");
    assert!((flows / 10..flows).contains(&away), "{away} of {flows} flows left the agent");
    until_nothing_left(&agent);
}

/// What a flow that never pauses may have carried before it leaves, on average, in bytes. Some hundred kilobytes are enough where the agent has a
/// processor for itself.
const BEFORE_IT_LEAVES: u64 = 4 << 20;

/// Nobody waits for anything, so that the flow only leaves because both ends are asked to pause.
fn streams_that_never_wait_leave_the_agent(family: Family) {
    let lab = Lab::start(family);
    for (flows, is_upwards) in (1..).zip([true, false]) {
        let (flow, before) = (Spliced::from(lab.pair()), lab.bytes_beside());
        let (from, to) = flow.towards(is_upwards);
        let bytes = size(512 << 20, 5 << 30);
        stream_whole(from, to, 1, bytes);
        finish(to);
        assert_received(&receive(from, 0), 0, End::Finished);
        lab.assert_closed(flows, "finished");
        let beside = lab.bytes_beside() - before;
        println!("{beside} of {bytes} bytes were carried before the flow left");
        assert!(beside <= BEFORE_IT_LEAVES, "{beside} of {bytes} bytes were carried before the flow left");
    }
}

/// They are watched from their first byte on.
fn uploads_that_never_pause_leave_soon(family: Family) {
    upload_by_every_congestion_control(family, Lines::default());
}

/// They are watched from when something comes between their bytes on: at a moment in which the agent takes nothing.
fn uploads_that_are_promoted_in_their_midst_leave_soon(family: Family) {
    upload_by_every_congestion_control(family, Lines { backend: "path = \"packet\"", ..Lines::default() });
}

fn upload_by_every_congestion_control(family: Family, lines: Lines<'_>) {
    let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    let has_bbr = offered.expect("/proc is mounted").split_whitespace().any(|offered| offered == "bbr");
    // One that paces, if there is one; else one that has always been there.
    for control in ["cubic", if has_bbr { "bbr" } else { "reno" }] {
        let net = Net::new(1);
        for place in [&net.client, &*net.balancer, net.server()] {
            place.sysctl("net/ipv4/tcp_congestion_control", control);
        }
        let lab = Lab::with(net, family, lines);
        upload(&lab, 1, size(128 << 20, 2 << 30), control);
        upload(&lab, 64, size(8 << 20, 128 << 20), control);
    }
}

/// So many clients connect and send so many bytes each, as fast as they are taken. They send the same, so that it is not to be known who is whose.
#[track_caller]
fn upload(lab: &Lab, flows: u64, bytes: u64, control: &str) {
    let (before, records) = (lab.bytes_beside(), lab.agent.records().len());
    thread::scope(|scope| {
        for _ in 0..flows {
            scope.spawn(|| {
                let client = lab.net.client.connect(lab.address());
                send(&client, 1, bytes).expect("a reader");
                finish(&client);
                assert_received(&receive(&client, 0), 0, End::Finished);
            });
        }
        for _ in 0..flows {
            let server = lab.listener.accept();
            scope.spawn(move || {
                assert_received(&receive(&server, 1), bytes, End::Finished);
                finish(&server);
            });
        }
    });
    let ended = lab.agent.until_records(records + flows as usize);
    assert!(ended[records..].iter().all(|record| record.close() == "finished"), "{ended:?}");
    let (beside, all) = (lab.bytes_beside() - before, flows * bytes);
    println!("{control}, {flows} flows: {beside} of {all} bytes did not go by path packet");
    assert!(beside <= flows * BEFORE_IT_LEAVES, "{control}, {flows} flows: {beside} of {all} bytes");
}

/// A reader that takes less than comes: something of it waits at any moment, in the sockets and in between.
fn downloads_to_readers_that_are_slow_leave_soon(family: Family) {
    let lab = Lab::with(Net::new(1), family, Lines { backend: "path = \"packet\"", ..Lines::default() });
    let (client, server) = lab.pair();
    let bytes = size(64 << 20, 1 << 30);
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let sum = send(&server, 5, bytes).expect("a slow reader");
            finish(&server);
            sum
        });
        let received = receive_in_pieces(&client, 5, u64::MAX, || {
            thread::sleep(Duration::from_millis(2));
            64 << 10
        });
        assert_received(&received, bytes, End::Finished);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
    finish(&client);
    lab.assert_closed(1, "finished");
    let beside = lab.bytes_beside();
    println!("{beside} of {bytes} bytes did not go by path packet");
    assert!(beside <= BEFORE_IT_LEAVES, "{beside} of {bytes} bytes");
}

fn a_server_may_speak_first(family: Family) {
    let lab = Lab::start(family);
    let flow = Spliced::from(lab.pair());
    say(&flow.server, b"220 welcome");
    assert_eq!(receive_exactly(&flow.client, 11), b"220 welcome");
    lab.until_spliced(slice::from_ref(&flow));
    let beside = lab.bytes_beside();
    // And so it does after the flow has left.
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(&flow.server, 7, 3_000_000).expect("a reader"));
        let received = receive_at_most(&flow.client, 7, 3_000_000);
        assert_received(&received, 3_000_000, End::Silent);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
    say(&flow.client, b"QUIT");
    assert_eq!(receive_exactly(&flow.server, 4), b"QUIT");
    finish(&flow.server);
    finish(&flow.client);
    assert_received(&receive(&flow.client, 0), 0, End::Finished);
    assert_received(&receive(&flow.server, 0), 0, End::Finished);
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

/// Windows are end to end: what the reader does not take waits at its sender, and nothing of it in between.
fn a_reader_that_is_late_holds_up_the_other_end(family: Family) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 256 << 10);
    let lab = Lab::over(net, family);
    let flows = lab.spliced_flows::<2>();
    let beside = lab.bytes_beside();
    let calm = Duration::from_millis(700);
    thread::scope(|scope| {
        for (flow, is_upwards) in flows.iter().zip([true, false]) {
            scope.spawn(move || {
                let (from, to) = flow.towards(is_upwards);
                let taken = send_until_blocked(from, 5, calm);
                assert!(taken < 2 << 20, "{taken} bytes were taken, and nobody read");
                finish(from);
                assert_received(&receive(to, 5), taken, End::Finished);
                finish(to);
                assert_received(&receive(from, 0), 0, End::Finished);
            });
        }
    });
    lab.assert_ended(2, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

/// Now and then its window is shut, and opens by less than a segment.
fn a_reader_that_is_slow_gets_everything(family: Family) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 64 << 10);
    let lab = Lab::over(net, family);
    let flows = lab.spliced_flows::<2>();
    let (beside, bytes) = (lab.bytes_beside(), size(1 << 20, 64 << 20));
    thread::scope(|scope| {
        for (flow, is_upwards) in flows.iter().zip([true, false]) {
            scope.spawn(move || read_slowly(flow, is_upwards, bytes));
        }
    });
    lab.assert_ended(2, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

fn read_slowly(flow: &Spliced, is_upwards: bool, bytes: u64) {
    let (from, to) = flow.towards(is_upwards);
    let (mut random, mut read) = (Random::new(11), 0_u64);
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let sum = send(from, 5, bytes).expect("a slow reader");
            finish(from);
            sum
        });
        let received = receive_in_pieces(to, 5, u64::MAX, || {
            read += 1;
            if read.is_multiple_of(64) {
                thread::sleep(Duration::from_millis(20));
            }
            1 + random.below(3_000)
        });
        assert_received(&received, bytes, End::Finished);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
    finish(to);
    assert_received(&receive(from, 0), 0, End::Finished);
}

/// The programs leave the urgent pointer alone, which counts from the segment's number (RFC 9293 section 3.1): a byte is urgent to the receiver as if
/// nobody were in between, in its place in the stream for who wants it there, and beside the stream for who does not.
fn urgent_bytes_are_urgent_at_the_other_end(family: Family) {
    let lab = Lab::start(family);
    let Spliced { client, server } = lab.spliced();
    let beside = lab.bytes_beside();
    set_socket_oobinline(&server, true).expect("a TCP socket");
    for _ in 0..size(20, 1_000) {
        say(&client, b"before");
        urge(&client);
        say(&client, b"behind");
        assert_eq!(receive_exactly(&server, 13), b"before!behind");
        say(&server, b"before");
        urge(&server);
        assert_eq!(receive_exactly(&client, 6), b"before");
        let mut byte = [0];
        until("the urgent byte", || recv(&client, &mut byte, RecvFlags::OOB | RecvFlags::DONTWAIT).is_ok());
        say(&server, b"behind");
        assert_eq!((&byte, &receive_exactly(&client, 6)[..]), (b"!", &b"behind"[..]));
    }
    finish(&client);
    finish(&server);
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside, "bytes that came after the flow had left");
}
