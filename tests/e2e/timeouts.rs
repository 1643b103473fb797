// SPDX-License-Identifier: MIT OR Apache-2.0
//! Idle connections end in time, busy ones do not. (The deadline of the ClientHello: see `exceptions`.)

use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Namespace, Net};
use lb_tests::stream::{End, finish, receive, receive_all, receive_exactly, say, send, send_until_blocked};

use crate::support::{
    PORT, Relay, SERVER_PORT, assert_carried, assert_received, greet, limit_socket_buffers,
};

const TIMEOUT: Duration = Duration::from_secs(2);

const BOTH: &str = "idle-timeout = \"2s\"\nhalf-close-timeout = \"2s\"";

macro_rules! timed {
    ($($scenario:ident,)+) => {
        on_both_paths! { $($scenario,)+ }
        inside_the_kernel! { $($scenario,)+ }
    };
}

timed! {
    an_idle_connection_is_closed_in_time,
    bytes_of_either_direction_keep_a_connection,
    a_blocked_connection_is_idle_too,
    a_frontend_may_have_shorter_timeouts,
    a_half_closed_connection_has_a_timeout_of_its_own,
    the_half_close_timeout_begins_with_the_half_close,
    a_half_closed_connection_with_traffic_stays,
    a_reader_that_pauses_gets_what_the_server_sent_before_its_fin,
    a_server_that_vanishes_is_noticed_by_unacknowledged_bytes,
    a_server_that_vanishes_is_noticed_by_keepalive,
    a_client_that_vanishes_is_noticed_by_keepalive,
}

fn an_idle_connection_is_closed_in_time(path: Path) {
    let relay = Relay::with(path, "idle-timeout = \"2s\"");
    let begin = Instant::now();
    let (client, server) = relay.pair();
    say(&client, b"hello");
    assert_eq!(receive_exactly(&server, 5), b"hello");
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert!((TIMEOUT..TIMEOUT * 4).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "idle-timeout");
    assert_carried(&relay.agent, path, 1);
}

fn bytes_of_either_direction_keep_a_connection(path: Path) {
    let relay = Relay::with(path, BOTH);
    let (client, server) = relay.pair();
    for (from, to) in [(&client, &server), (&server, &client)] {
        talk(from, to, TIMEOUT * 2);
    }
    finish(&client);
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    assert_eq!(relay.close_reason(), "finished");
    assert_carried(&relay.agent, path, 1);
}

/// Bytes that nobody takes are no traffic: a reader that never returns must not hold a connection for ever.
fn a_blocked_connection_is_idle_too(path: Path) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 1 << 18);
    let relay = Relay::over(net, path, "idle-timeout = \"2s\"");
    let (client, server) = relay.pair();
    let taken = send_until_blocked(&client, 1, Duration::from_millis(500));
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "idle-timeout");
    let received = receive(&server, 1);
    assert_eq!((received.wrong_at, received.end), (None, End::Reset));
    assert!(received.bytes <= taken);
    assert_carried(&relay.agent, path, 1);
}

/// Of the frontend's and the backend's timeouts, the shorter one counts.
fn a_frontend_may_have_shorter_timeouts(path: Path) {
    let net = Net::new(1);
    let frontend = "idle-timeout = \"2s\"\nhalf-close-timeout = \"2s\"";
    let config = Config::new()
        .path(path)
        .tcp("short", net.frontend(PORT), "out", frontend)
        .tcp("long", net.frontend(PORT + 1), "out", "idle-timeout = \"1h\"\nhalf-close-timeout = \"off\"")
        .backend(
            "out",
            net.server().address(SERVER_PORT),
            "idle-timeout = \"30s\"\nhalf-close-timeout = \"30s\"",
        );
    let agent = Agent::start(&net, &config);
    let listener = net.server().listen(SERVER_PORT);
    let pair = |port| {
        let (client, server) = (net.client.connect(net.frontend(port)), listener.accept());
        greet(&client, &server);
        (client, server)
    };
    let (long, idle, half) = (pair(PORT + 1), pair(PORT), pair(PORT));
    let begin = Instant::now();
    finish(&half.0);
    assert_eq!(receive_all(&half.1), (Vec::new(), End::Finished));
    assert_eq!(receive_all(&idle.0), (Vec::new(), End::Reset));
    assert_eq!(receive_all(&half.0), (Vec::new(), End::Reset));
    assert!((TIMEOUT..TIMEOUT * 4).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    let mut reasons: Vec<_> = agent.until_records(2).iter().map(|record| record.close().to_owned()).collect();
    reasons.sort();
    assert_eq!(reasons, ["half-close-timeout", "idle-timeout"]);
    say(&long.0, b"x");
    assert_eq!(receive_exactly(&long.1, 1), b"x");
    assert_carried(&agent, path, 3);
}

fn a_half_closed_connection_has_a_timeout_of_its_own(path: Path) {
    let relay = Relay::with(path, "idle-timeout = \"1h\"\nhalf-close-timeout = \"2s\"");
    let (client, server) = relay.greeted();
    let begin = Instant::now();
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert!((TIMEOUT..TIMEOUT * 4).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(relay.close_reason(), "half-close-timeout");
    assert_carried(&relay.agent, path, 1);
}

/// A connection may have been silent for longer than `half-close-timeout` before one direction ends: that is when it begins.
fn the_half_close_timeout_begins_with_the_half_close(path: Path) {
    let relay = Relay::with(path, "idle-timeout = \"1h\"\nhalf-close-timeout = \"2s\"");
    let (client, server) = relay.greeted();
    std::thread::sleep(TIMEOUT * 3 / 2);
    let begin = Instant::now();
    finish(&client);
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert!(begin.elapsed() >= TIMEOUT * 9 / 10, "cut {:?} after the half-close", begin.elapsed());
    assert_eq!(receive_all(&server).1, End::Finished);
    assert_eq!(relay.close_reason(), "half-close-timeout");
    assert_carried(&relay.agent, path, 1);
}

fn a_half_closed_connection_with_traffic_stays(path: Path) {
    let relay = Relay::with(path, BOTH);
    let (client, server) = relay.greeted();
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    talk(&server, &client, TIMEOUT * 2);
    finish(&server);
    assert_received(&receive(&client, 1), 0, End::Finished);
    assert_eq!(relay.close_reason(), "finished");
    assert_carried(&relay.agent, path, 1);
}

/// The answer fits into the buffers on the way, the FIN is behind it, and its reader takes longer than `half-close-timeout`. It is less than
/// what may wait inside the kernel before a direction pauses, so that none of it is spliced behind the FIN.
fn a_reader_that_pauses_gets_what_the_server_sent_before_its_fin(path: Path) {
    let relay = Relay::with(path, "idle-timeout = \"1h\"\nhalf-close-timeout = \"1s\"");
    let (client, server) = relay.greeted();
    let answer = 1 << 20;
    send(&server, 1, answer).expect("buffers on the way take the answer");
    finish(&server);
    std::thread::sleep(Duration::from_secs(5));
    assert_received(&receive(&client, 1), answer, End::Finished);
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    assert_eq!(relay.close_reason(), "finished");
    assert_carried(&relay.agent, path, 1);
}

/// The server's host vanishes while bytes are on their way to it (TCP_USER_TIMEOUT, tcp(7)).
fn a_server_that_vanishes_is_noticed_by_unacknowledged_bytes(path: Path) {
    let relay = Relay::with(path, "user-timeout = \"2s\"\nidle-timeout = \"1h\"");
    let (client, _server) = relay.greeted();
    vanish(relay.net.server());
    say(&client, b"anybody?");
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "server-reset");
    assert_carried(&relay.agent, path, 1);
}

/// The server's host vanishes while the connection is silent (TCP_KEEPIDLE and others, tcp(7)).
fn a_server_that_vanishes_is_noticed_by_keepalive(path: Path) {
    let keepalive = "keepalive = { idle = \"1s\", interval = \"1s\", count = 2 }";
    let relay = Relay::with(path, &format!("{keepalive}\nidle-timeout = \"1h\""));
    let (client, _server) = relay.greeted();
    vanish(relay.net.server());
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "server-reset");
    assert_carried(&relay.agent, path, 1);
}

/// The client's host vanishes while the connection is silent.
fn a_client_that_vanishes_is_noticed_by_keepalive(path: Path) {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let keepalive = "keepalive = { idle = \"1s\", interval = \"1s\", count = 2 }";
    let config = Config::new().path(path).tcp("in", net.frontend(PORT), "out", keepalive).backend(
        "out",
        net.server().address(SERVER_PORT),
        "idle-timeout = \"1h\"",
    );
    let agent = Agent::start(&net, &config);
    let (client, server) = (net.client.connect(net.frontend(PORT)), listener.accept());
    // Bytes that the client had not acknowledged would be asked for, and keepalive would wait.
    greet(&server, &client);
    vanish(&net.client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "client-reset");
    assert_carried(&agent, path, 1);
}

/// Takes a host off the network without a word.
fn vanish(place: &Namespace) {
    place.run(Command::new("ip").args(["link", "set", "uplink", "down"]));
}

/// Sends a byte from one end to the other, at a quarter of the timeout, for so long.
fn talk(from: &std::net::TcpStream, to: &std::net::TcpStream, duration: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < duration {
        say(from, b"x");
        assert_eq!(receive_exactly(to, 1), b"x");
        std::thread::sleep(TIMEOUT / 4);
    }
}
