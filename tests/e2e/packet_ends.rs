// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: ends go from end to end, as what they are, and whoever is still there is asked by the other end itself.

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::random::{Random, drawn_seed};
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_all, receive_at_most, receive_exactly, reset, say, send, send_until_blocked,
};
use lb_tests::wait::until;
use socket2::{SockRef, TcpKeepalive};

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};
use crate::support::{assert_received, stream_whole};

on_both_families! {
    half_closes_leave_the_other_direction_alone,
    ends_of_both_at_once_cross_each_other,
    an_end_behind_bytes_under_way_comes_after_them,
    resets_of_both_ends_go_through,
    a_reset_in_the_middle_of_a_stream_is_no_clean_end,
    a_reset_after_a_half_close_goes_through,
    a_reset_at_any_moment_of_the_hand_over_is_no_clean_end,
    who_asks_whether_the_other_is_there_gets_its_answer,
    who_only_asks_whether_the_other_is_there_is_idle,
}

fn half_closes_leave_the_other_direction_alone(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let (beside, bytes) = (lab.bytes_beside(), size(8 << 20, 1 << 30));
    for (flow, is_upwards) in flows.iter().zip([true, false]) {
        let (first, second) = flow.towards(is_upwards);
        say(first, b"that is all");
        finish(first);
        assert_eq!(receive_all(second), (b"that is all".to_vec(), End::Finished));
        stream_whole(second, first, 3, bytes);
    }
    lab.assert_ended(2, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

fn ends_of_both_at_once_cross_each_other(family: Family) {
    let lab = Lab::start(family);
    let flows: [_; 20] = lab.spliced_flows();
    for flow in &flows {
        thread::scope(|scope| {
            for stream in [&flow.client, &flow.server] {
                scope.spawn(move || {
                    finish(stream);
                    assert_eq!(receive_all(stream), (Vec::new(), End::Finished));
                });
            }
        });
    }
    lab.assert_closed(flows.len(), "finished");
}

/// The sender has closed, and its process may be gone, while bytes of it are still under way.
fn an_end_behind_bytes_under_way_comes_after_them(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let mut told = Vec::new();
    for (flow, is_upwards) in flows.into_iter().zip([true, false]) {
        let (client, server) = (flow.client, flow.server);
        let (from, to) = if is_upwards { (client, server) } else { (server, client) };
        let taken = send_until_blocked(&from, 4, Duration::from_millis(300));
        drop(from);
        assert_received(&receive(&to, 4), taken, End::Finished);
        told.push(taken);
    }
    lab.assert_ended(2, "finished");
    assert!(told.iter().all(|taken| *taken > 64 << 10), "{told:?}");
}

fn resets_of_both_ends_go_through(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    for (flow, is_clients) in flows.into_iter().zip([true, false]) {
        thread::scope(|scope| {
            let sent = scope.spawn(|| send(&flow.client, 1, 4 << 20));
            assert_received(&receive_at_most(&flow.server, 1, 4 << 20), 4 << 20, End::Silent);
            sent.join().expect("no panic").expect("a reader");
        });
        let (from, to) = ends(flow.client, flow.server, is_clients);
        reset(from);
        assert_eq!(receive_all(&to), (Vec::new(), End::Reset));
    }
    lab.assert_closes(&["client-reset", "server-reset"]);
    lab.agent.assert_share(Path::Packet, 99);
}

fn a_reset_in_the_middle_of_a_stream_is_no_clean_end(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let beside = lab.bytes_beside();
    for (flow, is_clients) in flows.into_iter().zip([true, false]) {
        let (from, to) = ends(flow.client, flow.server, is_clients);
        let taken = send_until_blocked(&from, 1, Duration::from_millis(300));
        reset(from);
        let received = receive(&to, 1);
        assert_eq!((received.wrong_at, received.end), (None, End::Reset));
        assert!(received.bytes <= taken, "{} of {taken}", received.bytes);
    }
    lab.assert_closes(&["client-reset", "server-reset"]);
    assert_eq!(lab.bytes_beside(), beside);
}

fn a_reset_after_a_half_close_goes_through(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    for (flow, is_clients) in flows.into_iter().zip([true, false]) {
        let (from, to) = ends(flow.client, flow.server, is_clients);
        finish(&to);
        assert_eq!(receive_all(&from), (Vec::new(), End::Finished));
        reset(from);
        assert_eq!(receive_all(&to), (Vec::new(), End::Reset));
    }
    lab.assert_closes(&["client-reset", "server-reset"]);
}

/// Whoever only reads must not take what has come for all there is.
fn a_reset_at_any_moment_of_the_hand_over_is_no_clean_end(family: Family) {
    let lab = Lab::start(family);
    let seed = drawn_seed();
    println!("LB_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let flows = size(400, 10_000);
    for number in 0..flows {
        let flow = Spliced::from(lab.pair());
        for _ in 0..random.below(20) {
            flow.ping();
            thread::sleep(Duration::from_micros(random.below(2_000) as u64));
        }
        let (from, to) = ends(flow.client, flow.server, number % 2 == 0);
        // The other end of a connection that nobody has spoken on might be tried again.
        say(&to, b"?");
        assert_eq!(receive_exactly(&from, 1), b"?");
        say(&from, b"an answer");
        if number % 3 == 0 {
            thread::sleep(Duration::from_micros(random.below(1_000) as u64));
        }
        reset(from);
        let (bytes, end) = receive_all(&to);
        assert!(b"an answer".starts_with(&bytes) && end == End::Reset, "flow {number}: {bytes:?}, {end:?}");
    }
    let records = lab.agent.until_records(flows);
    for (record, expected) in records.iter().zip(["client-reset", "server-reset"].iter().cycle()) {
        assert_eq!(record.close(), *expected, "{record:?}");
    }
    let away = records.iter().filter(|record| record.text("path") == "packet").count();
    println!("{away} of {flows} flows left the agent");
    assert!((flows / 10..flows).contains(&away), "{away} of {flows} flows left the agent");
    until_nothing_left(&lab.agent);
}

fn ends(client: TcpStream, server: TcpStream, is_clients: bool) -> (TcpStream, TcpStream) {
    if is_clients { (client, server) } else { (server, client) }
}

/// Keepalive (RFC 9293 section 3.8.4): the balancer has no socket that could answer, so it is the other end that does; and where that is gone,
/// the one who asks hears nothing and ends the connection.
fn who_asks_whether_the_other_is_there_gets_its_answer(family: Family) {
    let lab = Lab::start(family);
    let flow = lab.spliced();
    ask_every_second(&flow.client);
    let port = flow.server.peer_addr().expect("connected").port();
    let before = segments_in(&lab, port);
    let beside = lab.bytes_beside();
    until("the server to be asked several times", || segments_in(&lab, port) >= before + 4);
    flow.ping();
    assert_eq!(lab.bytes_beside(), beside);

    lab.net.server().run(Command::new("ip").args(["link", "set", "uplink", "down"]));
    // ETIMEDOUT, and not a reset: nobody answers in the place of the server (tcp(7), TCP_KEEPCNT).
    let mut byte = [0; 1];
    let error = std::io::Read::read(&mut &flow.client, &mut byte).expect_err("nobody there");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    // The client's kernel takes its leave with a reset (net/ipv4/tcp_timer.c, tcp_keepalive_timer).
    assert_eq!(lab.agent.until_records(1)[0].close(), "client-reset");
}

fn ask_every_second(stream: &TcpStream) {
    let second = Duration::from_secs(1);
    let asking = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(2);
    SockRef::from(stream).set_tcp_keepalive(&asking).expect("a TCP socket");
}

/// As on other paths: `idle-timeout` is about bytes.
fn who_only_asks_whether_the_other_is_there_is_idle(family: Family) {
    let lines = Lines { backend: "idle-timeout = \"3s\"", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    let flow = lab.spliced();
    ask_every_second(&flow.client);
    let begun = Instant::now();
    lab.assert_closed(1, "idle-timeout");
    assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}", begun.elapsed());
}

/// Segments that the server's socket of a flow has got (linux/tcp.h, tcpi_segs_in).
fn segments_in(lab: &Lab, port: u16) -> u64 {
    let mut command = Command::new("ss");
    let said = lab.net.server().run(command.args(["-tinH", "dport", "=", &format!(":{port}")]));
    let count = said.split_whitespace().find_map(|word| word.strip_prefix("segs_in:")?.parse().ok());
    count.unwrap_or_else(|| panic!("no segs_in in: {said}"))
}
