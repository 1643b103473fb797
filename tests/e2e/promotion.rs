// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows that begin in user space and go inside the kernel later: at whatever moment that is, no byte is lost or doubled.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive, receive_all, receive_exactly, reset, say, send_in_pieces};

use crate::support::{Relay, allow_many_connections, assert_received};

/// Lines of a backend whose flows go inside after so much.
fn after(bytes: &str, time: &str) -> String {
    format!("path = \"sockmap\"\npromote-after-bytes = \"{bytes}\"\npromote-after = \"{time}\"\n")
}

/// Both ends send pieces of any size with pauses in between, and the hand-over comes at some moment of it.
#[test]
fn whatever_the_moment_every_byte_arrives_once() {
    // So few bytes that the hand-over comes with the first of them, and so many that few flows ever have them before one of their ends.
    for (bytes, one_in) in [("1B", 5), ("700B", 6), ("8KiB", 15), ("30KiB", 20)] {
        check(bytes, "1d", one_in);
    }
}

/// The same, where the hand-over comes by age.
#[test]
fn whatever_the_age_every_byte_arrives_once() {
    check("1GiB", "1ms", 10);
}

/// Flows that go inside after so much. One in so many does, at least: of the others one end comes before, and then the kernel takes the socket into
/// no map (net/core/sock_map.c, sock_map_sk_state_allowed).
#[track_caller]
fn check(bytes: &str, time: &str, one_in: u64) {
    let flows = size(60, 2_500);
    let net = Net::new(1);
    allow_many_connections(&net);
    let relay = Relay::over(net, Path::Sockmap, &after(bytes, time));
    let mut random = Random::new(one_in);
    let mut total = 0;
    for _ in 0..flows {
        let [up, down] = [(); 2].map(|()| {
            let scale = 8 + random.below(12);
            1 + random.below(1 << scale) as u64
        });
        converse(&relay, [up, down], &mut random);
        total += up + down;
    }
    let records = relay.agent.until_records(flows);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    relay.agent.until_idle();
    let scrape = relay.agent.scrape();
    assert_eq!(scrape.count("lb_path_bytes_total", &[]), total);
    let flows_by = |path| scrape.count("lb_path_flows_total", &[("path", path)]);
    let inside = flows_by("sockmap");
    println!("{inside} of {flows} flows went inside the kernel after {bytes} or {time}");
    assert!(inside * one_in >= flows as u64, "{inside} of {flows} flows after {bytes} or {time}");
    assert!(flows_by("copy") >= flows as u64 / 2, "few flows began in user space");
    assert_eq!(scrape.count("lb_sockmap_memory_bytes", &[]), 0);
}

/// One flow with so many bytes each way; who begins is drawn.
#[track_caller]
fn converse(relay: &Relay, [up, down]: [u64; 2], random: &mut Random) {
    let (client, server) = relay.pair();
    let [asks, answers] = [(); 2].map(|()| Random::new(random.number()));
    thread::scope(|scope| {
        let (client, server) = (&client, &server);
        let sent_up = scope.spawn(move || talk(client, (1, up), asks));
        let sent_down = scope.spawn(move || talk(server, (2, down), answers));
        let down_reader = scope.spawn(move || receive(client, 2));
        let received = [receive(server, 1), down_reader.join().expect("no panic")];
        let sent = [sent_up, sent_down].map(|thread| thread.join().expect("no panic"));
        for ((received, sent), bytes) in received.iter().zip(sent).zip([up, down]) {
            assert_received(received, bytes, End::Finished);
            assert_eq!(received.sha256, sent);
        }
    });
}

/// Sends the first bytes of a pattern in pieces, with pauses now and then, and a FIN.
fn talk(stream: &TcpStream, (seed, bytes): (u64, u64), mut random: Random) -> [u8; 32] {
    let piece = || {
        if random.below(4) == 0 {
            thread::sleep(Duration::from_micros(random.below(500) as u64));
        }
        let scale = random.below(15);
        1 + random.below(1 << scale)
    };
    let sent = send_in_pieces(stream, seed, bytes, piece).expect("a reader that keeps reading");
    finish(stream);
    sent
}

/// Short flows stay in user space, of others only the beginning does: by the counters, to the byte.
#[test]
fn short_flows_never_go_inside() {
    let relay = Relay::with(Path::Sockmap, &after("1000B", "1d"));
    for _ in 0..20 {
        let (client, server) = relay.pair();
        say(&client, &[1; 400]);
        assert_eq!(receive_exactly(&server, 400), [1; 400]);
        say(&server, &[2; 599]);
        assert_eq!(receive_exactly(&client, 599), [2; 599]);
    }
    relay.agent.until_idle();
    let bytes = |path| relay.agent.scrape().count("lb_path_bytes_total", &[("path", path)]);
    assert_eq!((bytes("copy"), bytes("sockmap")), (20 * 999, 0));
    let (client, server) = relay.pair();
    for number in 0..100 {
        // A message that comes at once after the last one that is needed is still copied, on a busy machine one after the other.
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(50));
        }
        say(&client, &[3; 100]);
        assert_eq!(receive_exactly(&server, 100), [3; 100]);
    }
    finish(&client);
    finish(&server);
    drop((client, server));
    relay.agent.until_idle();
    let (copied, inside) = (bytes("copy") - 20 * 999, bytes("sockmap"));
    assert!(copied + inside == 10_000 && copied >= 1_000 && inside > 0, "{copied} copied, {inside} inside");
}

/// Whoever only reads must not take what has come for all there is.
#[test]
fn a_reset_at_any_moment_of_the_hand_over_is_no_clean_end() {
    let relay = Relay::with(Path::Sockmap, &after("1B", "1d"));
    let flows = size(400, 10_000);
    for number in 0..flows {
        let (client, server) = relay.pair();
        let (from, to) = if number % 2 == 0 { (client, server) } else { (server, client) };
        // The other end of a connection that nobody has spoken on might be tried again.
        say(&to, b"?");
        assert_eq!(receive_exactly(&from, 1), b"?");
        say(&from, b"an answer");
        if number % 3 == 0 {
            thread::sleep(Duration::from_micros(number * 37 % 1_000));
        }
        reset(from);
        let (bytes, end) = receive_all(&to);
        assert!(b"an answer".starts_with(&bytes) && end == End::Reset, "flow {number}: {bytes:?}, {end:?}");
    }
    relay.agent.until_idle();
    let inside = relay.agent.own_flows(Path::Sockmap);
    assert!(inside >= flows / 2, "{inside} of {flows} flows went inside the kernel before their reset");
}
