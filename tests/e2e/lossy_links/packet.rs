// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`, where client and server repair with each other what the links have done, and what they did to a flow that was about to leave
//! the agent.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{End, Received, finish, receive, receive_exactly, say, send};

use super::faults::{
    Carrier, a_long_way, a_long_way_that_loses_one_packet_in_a_hundred, one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five, packets_that_are_damaged, packets_that_come_twice, packets_that_overtake,
};
use super::{assert_spoilt, interfaces, spoil};
use crate::packet_lab::{Family, Lab, Lines};
use crate::support::NOTHING_KEPT;

on_both_families! {
    one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five,
    a_long_way,
    a_long_way_that_loses_one_packet_in_a_hundred,
    packets_that_overtake,
    packets_that_come_twice,
    packets_that_are_damaged,
}

/// Flows at the same time.
const AT_ONCE: usize = 12;

/// Small messages each way, in which a flow can leave the agent.
const MESSAGES: usize = 20;

/// How many flows in a hundred have to leave it, at least. Where links take their time, some end before they could.
const LEAVE_PERCENT: u64 = 50;

impl Carrier for Family {
    /// Many flows at once: each brings every byte each way and both ends, and many of them leave the agent.
    fn brings_everything(self, fault: &[&str]) {
        let net = Net::new(1);
        for (place, interface) in interfaces(&net) {
            spoil(place, interface, fault);
        }
        let lab = Lab::with(net, self, Lines { global: NOTHING_KEPT, ..Lines::default() });
        let (flows, next) = (size(60, 2_000_u64), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < flows);
                    while let Some(number) = take() {
                        ask(&lab.net.client.connect(lab.address()), number);
                    }
                });
            }
            for _ in 0..flows {
                let server = lab.listener.accept();
                scope.spawn(move || answer(&server));
            }
        });
        let records = lab.agent.until_records(usize::try_from(flows).expect("not so many"));
        let others: Vec<_> = records.iter().filter(|record| record.close() != "finished").collect();
        assert!(others.is_empty(), "{others:?}");
        let left = lab.agent.own_flows(Path::Packet);
        println!("{left} of {flows} flows have left the agent");
        assert!(left * 100 >= flows * LEAVE_PERCENT, "{left} of {flows} flows have left the agent");
        for (place, interface) in interfaces(&lab.net) {
            assert_spoilt(place, interface, fault);
        }
    }
}

/// Bytes of a flow, each way.
fn lengths(number: u64) -> [u64; 2] {
    [number * 7_919 % 150_000, number * 104_729 % 150_000]
}

/// A client: says who it is, talks, and streams.
fn ask(stream: &TcpStream, number: u64) {
    say(stream, &number.to_be_bytes());
    for _ in 0..MESSAGES {
        say(stream, b"?");
        assert_eq!(receive_exactly(stream, 1), b"!", "flow {number}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let [up, down] = lengths(number);
    let received = stream_all(stream, (number, up), number + 1);
    assert_exact(&received, down, number);
}

/// Its server.
fn answer(stream: &TcpStream) {
    let number = u64::from_be_bytes(receive_exactly(stream, 8).try_into().expect("eight bytes"));
    for _ in 0..MESSAGES {
        assert_eq!(receive_exactly(stream, 1), b"?", "flow {number}");
        say(stream, b"!");
    }
    let [up, down] = lengths(number);
    let received = stream_all(stream, (number + 1, down), number);
    assert_exact(&received, up, number);
}

/// Sends so many bytes of a pattern and the end, and receives another pattern meanwhile.
fn stream_all(stream: &TcpStream, (seed, bytes): (u64, u64), expected_seed: u64) -> Received {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, seed, bytes).expect("a reader");
            finish(stream);
        });
        receive(stream, expected_seed)
    })
}

#[track_caller]
fn assert_exact(received: &Received, bytes: u64, number: u64) {
    let got = (received.bytes, received.wrong_at, received.end);
    assert_eq!(got, (bytes, None, End::Finished), "flow {number}");
}
