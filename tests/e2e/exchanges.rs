// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: messages to and fro stay inside the kernel however large they are, and a stream is spliced.

use std::net::TcpStream;

use lb_tests::config::Path;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};

use crate::support::Relay;

/// A message, in bytes: of one segment as the kernel joins them, and as a stream has them.
const MESSAGE: usize = 32 << 10;

/// What is written of a stream at a time, in bytes: a segment of the largest size (GSO, 64 KiB).
const PIECE: usize = 64 << 10;

#[test]
fn large_messages_to_and_fro_stay_inside_the_kernel() {
    let relay = Relay::start(Path::Sockmap);
    let pair = relay.handed_over(Path::Sockmap);
    // Both ways several times what is looked at together.
    exchange(&pair, size(2_048, 32_768));
    end(pair);
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
    assert_eq!(relay.agent.scrape().count("lb_sockmap_withdrawals_total", &[]), 0);
}

#[test]
fn a_stream_to_who_keeps_up_is_spliced() {
    let relay = Relay::start(Path::Sockmap);
    let pieces = size(4_096, 65_536);
    for is_upload in [true, false] {
        let spliced = || relay.agent.scrape().count("lb_path_bytes_total", &[("path", "splice")]);
        let before = spliced();
        let (client, server) = relay.handed_over(Path::Sockmap);
        let (from, to) = if is_upload { (&client, &server) } else { (&server, &client) };
        std::thread::scope(|scope| {
            scope.spawn(|| (0..pieces).for_each(|_| say(from, &[1; PIECE])));
            (0..pieces).for_each(|_| drop(receive_exactly(to, PIECE)));
        });
        end((client, server));
        relay.agent.until_idle();
        let bytes = (pieces * PIECE) as u64;
        assert!(spliced() - before > bytes / 2, "{} of {bytes} bytes were spliced", spliced() - before);
    }
}

/// What user space moves of one direction are answers to the other, as what the program moves is.
#[test]
fn messages_stay_inside_beside_a_direction_that_is_spliced() {
    let relay = Relay::start(Path::Sockmap);
    let pair = relay.handed_over(Path::Sockmap);
    let (client, server) = &pair;
    let (bytes, withdrawals) = ("lb_path_bytes_total", "lb_sockmap_withdrawals_total");
    let count = |metric, labels: &[_]| relay.agent.scrape().count(metric, labels);
    // A download leaves, and does not come back before a second of silence.
    std::thread::scope(|scope| {
        scope.spawn(|| (0..2_048).for_each(|_| say(server, &[1; PIECE])));
        (0..2_048).for_each(|_| drop(receive_exactly(client, PIECE)));
    });
    exchange(&pair, size(2_048, 32_768));
    assert_eq!(count(withdrawals, &[]), 1);
    end(pair);
    relay.agent.until_idle();
    let (messages, pieces) = (size(2_048, 32_768) * MESSAGE, 2_048 * PIECE);
    let spliced = count(bytes, &[("path", "splice")]);
    assert!(spliced > (messages + pieces / 2) as u64, "{spliced} bytes were spliced");
    let inside = count(bytes, &[("path", "sockmap")]);
    assert!(inside >= messages as u64, "{inside} bytes inside");
}

/// Messages of [`MESSAGE`] from the client, each answered by one of the same size.
fn exchange((client, server): &(TcpStream, TcpStream), count: usize) {
    for _ in 0..count {
        for (from, to) in [(client, server), (server, client)] {
            say(from, &[1; MESSAGE]);
            receive_exactly(to, MESSAGE);
        }
    }
}

fn end((client, server): (TcpStream, TcpStream)) {
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
}
