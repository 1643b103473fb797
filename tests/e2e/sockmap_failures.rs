// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: if the kernel loses bytes, or keeps what a receiver would take, the end is loud.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::config::Path;
use lb_tests::kernel::{forget_sockets, forget_targets};
use lb_tests::net::Net;
use lb_tests::stream::{End, receive, receive_all, say, send_until_blocked};

use crate::support::{INSIDE, Relay, limit_socket_buffers};

/// How long bytes may wait for a socket that has room. Before that, looks at a flow on which nothing moves come less and less often.
const STUCK_MAX: Duration = Duration::from_secs(5);

/// Nobody is there any more to whom the program could hand what comes.
#[test]
fn bytes_without_a_target_end_their_flow_loudly() {
    for is_upwards in [true, false] {
        let relay = Relay::with(Path::Sockmap, INSIDE);
        let (client, server) = relay.handed_over(Path::Sockmap);
        forget_targets(&relay.agent.process);
        say(if is_upwards { &client } else { &server }, b"lost");
        assert_failed(&relay, &[&client, &server]);
    }
}

/// What waits for a server is thrown away, as if the kernel did not go on with it: nobody says so, and the server's socket has room.
#[test]
fn bytes_that_do_not_move_any_more_end_their_flow_loudly() {
    let net = Net::new(1);
    limit_socket_buffers(&net, 128 << 10);
    let relay = Relay::over(net, Path::Sockmap, INSIDE);
    let (client, server) = relay.handed_over(Path::Sockmap);
    let taken = send_until_blocked(&client, 1, Duration::from_secs(1));
    assert!(relay.agent.scrape().count("lb_sockmap_pauses_total", &[]) > 0, "nothing waits for the server");
    let begin = Instant::now();
    forget_sockets(&relay.agent.process);
    let received = receive(&server, 1);
    assert_eq!((received.wrong_at, received.end), (None, End::Reset));
    assert!(received.bytes < taken, "{} of {taken} bytes", received.bytes);
    let waited = begin.elapsed();
    assert!((STUCK_MAX..STUCK_MAX * 4).contains(&waited), "{waited:?} until the end");
    assert_failed(&relay, &[&client]);
}

/// These ends get a reset, and the log says why.
#[track_caller]
fn assert_failed(relay: &Relay, ends: &[&TcpStream]) {
    for end in ends {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
    assert_eq!(relay.close_reason(), "path-failed");
    relay.assert_nothing_left(Path::Sockmap);
}
