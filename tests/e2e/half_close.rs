// SPDX-License-Identifier: MIT OR Apache-2.0
//! One direction ends while the other goes on, or while its own bytes still wait: no end comes early, none is lost, and no byte.

use std::net::TcpStream;
use std::sync::mpsc::sync_channel;
use std::thread::sleep;
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_all, receive_at_most, receive_in_pieces, say, send, send_until_blocked,
};

use crate::support::{Relay, assert_carried_so_far, assert_received, limit_socket_buffers, required};

/// Part of a stream, in bytes, and how many may be on their way: more than buffers of 128 KiB hold, and less than a direction may have
/// waiting inside the kernel before it pauses.
const PIECE: u64 = 256 << 10;
const PIECES_AHEAD: usize = 4;

on_all_paths! {
    the_end_of_a_client_leaves_a_stream_to_it_alone,
    the_end_of_a_server_leaves_a_stream_to_it_alone,
    a_stream_that_pauses_behind_an_end_is_exact,
    an_end_in_the_middle_of_a_stream_to_a_slow_reader_arrives,
    a_short_body_and_its_end_wait_for_a_late_reader,
    a_long_body_and_its_end_wait_for_a_late_reader,
    ends_of_both_directions_wait_behind_what_nobody_reads,
}

/// An end in a segment of its own, because everything before it has arrived; then, or in the middle of it, a stream to who has ended and
/// is slow. It never brings more than a direction may have waiting, so that all of it goes the same way.
fn the_end_of_a_client_leaves_a_stream_to_it_alone(path: Path) {
    a_stream_to_who_has_ended(path, |pair| pair);
}

fn the_end_of_a_server_leaves_a_stream_to_it_alone(path: Path) {
    a_stream_to_who_has_ended(path, |(client, server)| (server, client));
}

/// `roles` says who ends and reads slowly, and who streams.
fn a_stream_to_who_has_ended(path: Path, roles: impl Fn((TcpStream, TcpStream)) -> (TcpStream, TcpStream)) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 128 << 10);
    let relay = Relay::over(net, path, required(path));
    let pieces = size(30_000_000, 256 << 20) / PIECE;
    for ends_before in [0, pieces / 4] {
        let (reader, sender) = roles(relay.handed_over(path));
        let end = || {
            finish(&reader);
            assert_eq!(receive_all(&sender), (Vec::new(), End::Finished));
        };
        if ends_before == 0 {
            end();
        }
        std::thread::scope(|scope| {
            let (begun, finished) = sync_channel(PIECES_AHEAD);
            let sender = &sender;
            // If nobody reads any more, nobody hears of it, either.
            let begins = move |piece: &u64| begun.send(*piece).is_ok();
            scope.spawn(move || {
                let pieces = (0..pieces).take_while(begins);
                pieces.for_each(|piece| _ = send(sender, piece, PIECE).expect("a slow reader"));
            });
            for piece in 0..pieces {
                if piece > 0 && piece == ends_before {
                    end();
                }
                sleep(Duration::from_millis(4));
                assert_received(&receive_at_most(&reader, piece, PIECE), PIECE, End::Silent);
                assert_eq!(finished.recv(), Ok(piece));
            }
        });
        finish(&sender);
        assert_eq!(receive_all(&reader), (Vec::new(), End::Finished));
    }
    relay.assert_nothing_left(path);
    relay.agent.assert_share(path, 99);
    assert!(relay.agent.records().iter().all(|record| record.close() == "finished"));
}

/// As much as comes, whoever ends. Towards one who has ended, the agent's socket of the other is in a state in which no socket map takes it
/// again after a pause (net/core/sock_map.c, sock_map_sk_state_allowed): from then on, user space carries the stream. So of path `sockmap`
/// all is demanded up to the end, and behind it all of a stream that has not paused.
fn a_stream_that_pauses_behind_an_end_is_exact(path: Path) {
    let bytes = size(30_000_000, 256 << 20);
    for is_upwards in [true, false] {
        let relay = Relay::with(path, required(path));
        let (client, server) = relay.handed_over(path);
        let (sender, reader) = if is_upwards { (&client, &server) } else { (&server, &client) };
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| send(sender, 1, bytes).expect("a slow reader"));
            // Long enough for a backlog to build up.
            sleep(Duration::from_millis(200));
            assert_carried_so_far(&relay.agent, path, 64 << 10);
            finish(reader);
            assert_eq!(receive_all(sender), (Vec::new(), End::Finished));
            let received = read_slowly(reader, bytes);
            assert_received(&received, bytes, End::Silent);
            assert_eq!(received.sha256, sent.join().expect("no panic"));
        });
        finish(sender);
        assert_eq!(receive_all(reader), (Vec::new(), End::Finished));
        relay.assert_nothing_left(path);
        let has_paused = relay.agent.scrape().count("lb_sockmap_pauses_total", &[]) > 0;
        relay.agent.assert_share(path, if has_paused { 1 } else { 99 });
        assert_eq!(relay.close_reason(), "finished");
    }
}

/// The stream ends as well, behind bytes that wait. It is more than all buffers hold and may wait inside the kernel. Behind the first end
/// user space carries it, as above, so that of path `sockmap` what came before is demanded.
fn an_end_in_the_middle_of_a_stream_to_a_slow_reader_arrives(path: Path) {
    let bytes = size(30_000_000, 256 << 20);
    for is_upwards in [true, false] {
        let net = Net::new(1);
        limit_socket_buffers(&net, 1 << 20);
        let relay = Relay::over(net, path, required(path));
        let (client, server) = relay.handed_over(path);
        let (sender, reader) = if is_upwards { (&client, &server) } else { (&server, &client) };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send(sender, 1, bytes).expect("a slow reader");
                finish(sender);
            });
            assert_carried_so_far(&relay.agent, path, 64 << 10);
            finish(reader);
            assert_eq!(receive_all(sender), (Vec::new(), End::Finished));
            assert_received(&read_slowly(reader, u64::MAX), bytes, End::Finished);
        });
        relay.assert_nothing_left(path);
        assert_eq!(relay.close_reason(), "finished");
    }
}

/// Some 60 MB a second, with pauses.
fn read_slowly(stream: &TcpStream, most: u64) -> lb_tests::stream::Received {
    let mut reads = 0_u64;
    receive_in_pieces(stream, 1, most, || {
        reads += 1;
        if reads.is_multiple_of(64) {
            sleep(Duration::from_millis(20));
        }
        32 * 1024
    })
}

/// So short that no path has to hold the sender up: what waits in the kernel must stay there, and go the same way.
fn a_short_body_and_its_end_wait_for_a_late_reader(path: Path) {
    for bytes in [1, 20_000, 250_000] {
        a_body_waits(path, bytes, 99);
    }
}

/// So long that it fills everything on its way. What the agent's socket holds when the end has come, user space carries.
fn a_long_body_and_its_end_wait_for_a_late_reader(path: Path) {
    a_body_waits(path, size(20_000_000, 256 << 20), 99);
}

/// In both directions. At least `percent` must go by the path itself.
fn a_body_waits(path: Path, bytes: u64, percent: u64) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 64 << 10);
    let relay = Relay::over(net, path, required(path));
    for is_upwards in [true, false] {
        let (client, server) = relay.handed_over(path);
        let (sender, reader) = if is_upwards { (&client, &server) } else { (&server, &client) };
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let sent = send(sender, 1, bytes).expect("a late reader");
                finish(sender);
                sent
            });
            sleep(Duration::from_millis(500));
            let received = receive(reader, 1);
            assert_received(&received, bytes, End::Finished);
            assert_eq!(received.sha256, sent.join().expect("no panic"));
        });
        say(reader, b"thanks");
        finish(reader);
        assert_eq!(receive_all(sender), (b"thanks".to_vec(), End::Finished));
    }
    relay.assert_nothing_left(path);
    relay.agent.assert_share(path, percent);
}

/// Both ends have sent until they were blocked, and then ended. Whoever reads first, both get everything. Path `sockmap` has carried what
/// came before the ends, and user space carries what waits behind it.
fn ends_of_both_directions_wait_behind_what_nobody_reads(path: Path) {
    for is_upwards in [true, false] {
        let net = Net::new(1);
        limit_socket_buffers(&net, 1 << 20);
        let relay = Relay::over(net, path, "");
        let (client, server) = relay.handed_over(path);
        let (first, second) = if is_upwards { (&client, &server) } else { (&server, &client) };
        let calm = Duration::from_secs(1);
        std::thread::scope(|scope| {
            let to_second = scope.spawn(|| send_until_blocked(first, 1, calm));
            let to_first = send_until_blocked(second, 2, calm);
            let to_second = to_second.join().expect("no panic");
            assert_carried_so_far(&relay.agent, path, 64 << 10);
            finish(first);
            finish(second);
            assert_received(&receive(second, 1), to_second, End::Finished);
            assert_received(&receive(first, 2), to_first, End::Finished);
        });
        assert_eq!(relay.close_reason(), "finished");
        relay.assert_nothing_left(path);
        if path == Path::Sockmap {
            let scrape = relay.agent.scrape();
            let carried = |path| scrape.count("lb_path_bytes_total", &[("path", path)]);
            assert!(scrape.count("lb_sockmap_pauses_total", &[]) >= 2 && carried("splice") > 0);
            assert!(carried("sockmap") > carried("splice"));
        }
    }
}
