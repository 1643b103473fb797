// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reader that is slow is no reader that is gone: it keeps its flow for as long as it takes something.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_exactly, receive_in_pieces, send_until_blocked};

use crate::support::{Relay, assert_carried_so_far, assert_received, limit_socket_buffers, required};

const TIMEOUT: Duration = Duration::from_secs(2);

/// The largest receive buffer, in bytes. What is in the reader's is acknowledged, so that its meals show the sender nothing any more.
const RECEIVE_BUFFER: usize = 256 << 10;

/// What a reader takes at a time: as much as its buffer may hold. A segment gives its room back, and opens the window, when all of it has been
/// taken, and the kernel makes one of several that wait (net/ipv4/tcp_input.c, tcp_try_coalesce): of meals half as large, every third showed
/// the sender nothing.
const MEAL: usize = RECEIVE_BUFFER;

on_all_paths! {
    a_server_that_takes_a_little_within_each_timeout_keeps_its_flow,
    a_client_that_takes_a_little_within_each_timeout_keeps_its_flow,
    a_byte_a_second_keeps_a_flow_within_its_timeout,
}

fn a_server_that_takes_a_little_within_each_timeout_keeps_its_flow(path: Path) {
    a_slow_reader_keeps_its_flow(path, |(client, server)| (client, server));
}

fn a_client_that_takes_a_little_within_each_timeout_keeps_its_flow(path: Path) {
    a_slow_reader_keeps_its_flow(path, |(client, server)| (server, client));
}

/// The sender has ended, so that nothing but the draining of what waits can show that the flow is alive. When the reader stops, the flow
/// ends between one and two timeouts later. What the agent's socket holds when it hears of the end, user space carries: so shares are
/// asserted before, and the flow that is read to its end comes last.
fn a_slow_reader_keeps_its_flow(
    path: Path,
    roles: impl Fn((TcpStream, TcpStream)) -> (TcpStream, TcpStream),
) {
    let net = Net::new(1);
    limit_socket_buffers(&net, RECEIVE_BUFFER as u64);
    for place in [&net.client, &*net.balancer].into_iter().chain(&net.servers) {
        // Enough for all meals, with what the reader takes at the end at once.
        let most = size(4 << 20, 24 << 20);
        place.sysctl("net/ipv4/tcp_wmem", &format!("4096 {most} {most}"));
    }
    let lines = format!("idle-timeout = \"2s\"\nhalf-close-timeout = \"2s\"\n{}", required(path));
    let relay = Relay::over(net, path, &lines);
    let meals = size(8, 180);
    for stops in [true, false] {
        let carried = relay.agent.scrape().count("lb_path_bytes_total", &[]);
        let (sender, reader) = roles(relay.handed_over(path));
        let taken = send_until_blocked(&sender, 1, Duration::from_millis(500));
        let begin = Instant::now();
        // The agent's own send buffer holds more.
        assert_carried_so_far(&relay.agent, path, carried + RECEIVE_BUFFER as u64);
        finish(&sender);
        if stops {
            // It was read from until it was blocked: one timeout from there at the least, two at the most, and time for a busy machine.
            relay.agent.until_records(1);
            assert!((TIMEOUT / 2..TIMEOUT * 4).contains(&begin.elapsed()), "{:?}", begin.elapsed());
            relay.agent.assert_share(path, 99);
            continue;
        }
        let slowly = (meals * MEAL).min(taken as usize - 2 * RECEIVE_BUFFER);
        assert!(slowly > 7 * MEAL, "{taken} bytes are too few");
        let (mut eaten, begin) = (0, Instant::now());
        let received = receive_in_pieces(&reader, 1, u64::MAX, || {
            if eaten % MEAL == 0 && eaten < slowly {
                std::thread::sleep(TIMEOUT / 2);
            }
            eaten += MEAL / 16;
            MEAL / 16
        });
        assert!(begin.elapsed() > TIMEOUT * 3, "everything was there after {:?}", begin.elapsed());
        if received.end != End::Finished {
            panic!("{eaten} bytes in {:?}, then {:?}", begin.elapsed(), relay.agent.until_records(2));
        }
        assert_received(&received, taken, End::Finished);
        finish(&reader);
    }
    let records = relay.agent.until_records(2);
    let reasons: Vec<&str> = records.iter().map(|record| record.close()).collect();
    assert_eq!(reasons, ["idle-timeout", "finished"]);
    relay.assert_nothing_left(path);
}

/// For ten minutes in the large size. A reader that is so slow shows the sender nothing for longer than that, since a window opens by
/// whole segments (RFC 9293 section 3.8.6.2.2), so the timeout has to be longer.
///
/// The sender has ended, behind more than may wait inside the kernel: what the agent's socket still holds when it hears of that, no socket map
/// takes any more (net/core/sock_map.c, sock_map_sk_state_allowed). So of path `sockmap` what came before is demanded.
fn a_byte_a_second_keeps_a_flow_within_its_timeout(path: Path) {
    let relay = Relay::with(path, &format!("idle-timeout = \"{}s\"", size(20, 1200)));
    let (client, server) = relay.handed_over(path);
    let taken = send_until_blocked(&client, 1, Duration::from_millis(500));
    // At least what the server's socket holds.
    assert_carried_so_far(&relay.agent, path, 64 << 10);
    finish(&client);
    let mut seconds = size(5, 600);
    let received = receive_in_pieces(&server, 1, u64::MAX, || {
        if seconds == 0 {
            return usize::MAX;
        }
        seconds -= 1;
        std::thread::sleep(Duration::from_secs(1));
        1
    });
    assert_received(&received, taken, End::Finished);
    // What goes the other way was never in doubt.
    lb_tests::stream::say(&server, b"thanks");
    assert_eq!(receive_exactly(&client, 6), b"thanks");
    finish(&server);
    assert_eq!(relay.close_reason(), "finished");
}
