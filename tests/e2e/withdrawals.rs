// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: a direction whose receiver takes less than comes is spliced, and goes inside the kernel again once nothing has moved for
//! a second.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{
    End, end_of, finish, receive_all, receive_at_most, receive_exactly, reset, say, send,
};
use lb_tests::wait::until;

use crate::support::{Relay, assert_received, limit_socket_buffers, urge};

/// More than a direction may have waiting and the sockets hold, in bytes.
const FLOOD: u64 = 12 << 20;

/// Bytes of one call of an end that does nothing else.
const CHUNK: usize = 64 << 10;

/// What tcp_rmem and tcp_wmem allow a socket here.
const SOCKET_MAX: u64 = 1 << 20;

fn relay() -> Relay {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    Relay::over(net, Path::Sockmap, "")
}

fn carried(agent: &Agent, path: &str) -> u64 {
    agent.scrape().count("lb_path_bytes_total", &[("path", path)])
}

fn withdrawals(agent: &Agent) -> u64 {
    agent.scrape().count("lb_sockmap_withdrawals_total", &[])
}

/// Sends much to a reader that begins when `is_late` returns.
fn flood(from: &TcpStream, to: &TcpStream, seed: u64, is_late: impl FnOnce()) {
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| send(from, seed, FLOOD).expect("a reader that comes late"));
        is_late();
        let received = receive_at_most(to, seed, FLOOD);
        assert_received(&received, FLOOD, End::Silent);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
}

/// One message each way.
fn ping(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, &[1; 100]);
        receive_exactly(to, 100);
    }
}

/// Both directions in turn, and over and over: what floods is spliced, and messages after a silence go inside the kernel.
#[test]
fn who_does_not_keep_up_is_spliced_until_it_is_silent() {
    let relay = relay();
    let (client, server) = relay.handed_over(Path::Sockmap);
    for round in 0..size(2, 20_u64) {
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (before, spliced) = (withdrawals(&relay.agent), carried(&relay.agent, "splice"));
            let pauses = || relay.agent.scrape().count("lb_sockmap_pauses_total", &[]);
            let paused = pauses();
            flood(from, to, round, || until("the direction to pause", || pauses() > paused));
            until("the flood to be counted", || carried(&relay.agent, "splice") > spliced);
            assert!(withdrawals(&relay.agent) > before, "round {round}");
            // Silence, and then a message: until one goes inside.
            let inside = carried(&relay.agent, "sockmap");
            until("messages to go inside the kernel", || {
                sleep(Duration::from_millis(2_500));
                ping(&client, &server);
                sleep(Duration::from_millis(1_500));
                carried(&relay.agent, "sockmap") >= inside + 200
            });
            // From there on all of them do.
            sleep(Duration::from_millis(1_500));
            let spliced = carried(&relay.agent, "splice");
            (0..1_000).for_each(|_| ping(&client, &server));
            sleep(Duration::from_millis(1_500));
            assert_eq!(carried(&relay.agent, "splice"), spliced, "round {round}");
        }
    }
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    assert_eq!(relay.close_reason(), "finished");
}

/// Bytes that come at the very moment when a direction goes inside again are neither lost nor doubled. Who floods is withdrawn; who is
/// withdrawn once more has been inside in between.
#[test]
fn coming_back_loses_nothing_that_comes_at_that_moment() {
    let relay = relay();
    let rounds = size(2, 20_u64);
    let pairs: Vec<_> = (0..24_u64).map(|_| relay.pair()).collect();
    std::thread::scope(|scope| {
        for (index, (client, server)) in (0_u64..).zip(&pairs) {
            scope.spawn(move || {
                let both_flood = |round| {
                    for (from, to) in [(client, server), (server, client)] {
                        flood(from, to, round, || sleep(Duration::from_millis(100)));
                    }
                };
                for round in 0..rounds {
                    both_flood(round);
                    // It goes inside between one and two seconds after the last byte.
                    sleep(Duration::from_millis(1_000 + 45 * index + 7 * round));
                    // In many pieces, both ways, for long enough to meet that moment.
                    std::thread::scope(|both| {
                        both.spawn(|| trickle(client, server, round));
                        both.spawn(|| trickle(server, client, round));
                    });
                }
                both_flood(rounds);
                finish(client);
                assert_eq!(receive_all(server), (Vec::new(), End::Finished));
                finish(server);
            });
        }
    });
    let directions = 2 * pairs.len() as u64;
    drop(pairs);
    relay.agent.until_idle();
    let withdrawals = withdrawals(&relay.agent);
    println!(
        "{directions} directions were withdrawn {withdrawals} times, in {rounds} rounds and the last flood"
    );
    assert!(withdrawals >= directions + rounds * directions / 8, "{withdrawals} withdrawals");
    let records = relay.agent.records();
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
}

/// A reset in the middle of a stream that user space moves comes across, whoever resets, and nothing is left: the kernel may tell it to who
/// moves bytes, and to nobody else. The ends do nothing but move bytes, which has to be fast for a stream.
#[test]
fn a_reset_in_the_middle_of_what_is_spliced_comes_across() {
    let relay = Relay::start(Path::Sockmap);
    for round in 0..size(20, 400_u64) {
        let (client, server) = relay.pair();
        let (from, to) = if round % 2 == 0 { (client, server) } else { (server, client) };
        let sender_resets = round / 2 % 2 == 0;
        let before = withdrawals(&relay.agent);
        let is_time = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_time = &is_time;
            let sender = scope.spawn(move || {
                while !(sender_resets && is_time.load(Ordering::Relaxed)) {
                    if let Err(error) = (&from).write_all(&[1; CHUNK]) {
                        return end_of(&error);
                    }
                }
                reset(from);
                End::Finished
            });
            let receiver = scope.spawn(move || {
                while sender_resets || !is_time.load(Ordering::Relaxed) {
                    match (&to).read(&mut [0; CHUNK]) {
                        Ok(0) => return End::Finished,
                        Ok(_) => {}
                        Err(error) => return end_of(&error),
                    }
                }
                reset(to);
                End::Finished
            });
            until("the stream to be spliced", || withdrawals(&relay.agent) > before);
            sleep(Duration::from_millis(20));
            is_time.store(true, Ordering::Relaxed);
            let ends = [sender, receiver].map(|end| end.join().expect("no panic"));
            let expected =
                if sender_resets { [End::Finished, End::Reset] } else { [End::Reset, End::Finished] };
            assert_eq!(ends, expected, "round {round}");
        });
    }
    relay.agent.until_idle();
    assert!(relay.agent.records().iter().all(|record| record.close().ends_with("reset")));
}

/// splice(2) stops in front of an urgent byte, and behind an end no map takes the sender's socket again. It is one byte of the stream all
/// the same (RFC 6093 section 2), in the middle of it and at its end.
#[test]
fn urgent_bytes_of_what_is_spliced_arrive_also_with_the_end_behind_them() {
    let relay = relay();
    let rounds = size(4, 100_u64);
    for round in 0..rounds {
        let (client, server) = relay.handed_over(Path::Sockmap);
        let (from, to) = if round % 2 == 0 { (&client, &server) } else { (&server, &client) };
        let before = withdrawals(&relay.agent);
        let pauses = || relay.agent.scrape().count("lb_sockmap_pauses_total", &[]);
        let paused = pauses();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for seed in [1, 2] {
                    send(from, seed, FLOOD).expect("a reader that comes late");
                    urge(from);
                }
                if round / 2 % 2 == 0 {
                    say(from, b"behind");
                }
                finish(from);
            });
            until("the direction to pause", || pauses() > paused);
            for seed in [1, 2] {
                assert_received(&receive_at_most(to, seed, FLOOD), FLOOD, End::Silent);
                assert_eq!(receive_exactly(to, 1), b"!");
            }
            let rest: &[u8] = if round / 2 % 2 == 0 { b"behind" } else { b"" };
            assert_eq!(receive_all(to), (rest.to_vec(), End::Finished), "round {round}");
        });
        assert!(withdrawals(&relay.agent) > before, "round {round}: not spliced");
        say(to, b"still there");
        finish(to);
        assert_eq!(receive_all(from), (b"still there".to_vec(), End::Finished));
    }
    relay.assert_nothing_left(Path::Sockmap);
    let records = relay.agent.until_records(rounds as usize);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
}

/// Small pieces for some tenths of a second.
fn trickle(from: &TcpStream, to: &TcpStream, seed: u64) {
    const PIECES: u64 = 300;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for piece in 0..PIECES {
                send(from, seed + piece, 1 + 37 * piece).expect("a reader that keeps up");
                sleep(Duration::from_micros(500));
            }
        });
        for piece in 0..PIECES {
            let bytes = 1 + 37 * piece;
            assert_received(&receive_at_most(to, seed + piece, bytes), bytes, End::Silent);
        }
    });
}
