// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reader that stops costs the whole machine, by the memory that is left: also what no socket is charged for.

use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::kernel::available_memory;
use lb_tests::net::Net;
use lb_tests::stream::{End, finish, receive_all, receive_at_most, send_pieces_until_blocked_or, send_rest};
use lb_tests::{is_alone, size};

use crate::support::{Relay, assert_received, limit_socket_buffers, required};

/// What the sender has.
const SENT: u64 = 256 << 20;

/// What it writes at a time, in bytes.
const PIECE: usize = 64 << 10;

/// What a sender has of single bytes. Each is a segment of its own where nobody joins them, which takes a KiB.
const SINGLES_SENT: u64 = 4 << 20;

/// What tcp_rmem and tcp_wmem allow a socket: two of the ends, two of the agent.
const SOCKET_MAX: u64 = 1 << 20;
const SOCKETS: u64 = 4;

/// What a direction may have waiting in the agent: a pipe, or inside the kernel the default of `sockmap-direction-memory`.
const PIPE_MAX: u64 = 1 << 20;
const INSIDE_MAX: u64 = 16 << 20;

/// A sender counts as blocked when nobody has taken a byte of it for so long.
const CALM: Duration = Duration::from_secs(1);

/// Tries, of which the one counts in which others took least; and at most so many times as many, while others take too much.
const TRIES: usize = 3;
const PATIENCE: usize = 4;

on_all_paths! {
    a_server_that_reads_nothing_of_256_mib_costs_what_is_configured,
}

fn a_server_that_reads_nothing_of_256_mib_costs_what_is_configured(path: Path) {
    costs_what_is_configured(path, SOCKET_MAX, (SENT, PIECE), size(TRIES, 3 * TRIES));
}

/// What holds segments on the other paths is nothing but sockets, which are charged for them. In small buffers, since each byte takes as
/// long as a segment of 64 KiB.
#[test]
fn a_server_that_reads_nothing_of_single_bytes_costs_what_is_configured_inside_the_kernel() {
    let socket_max = size(64 << 10, 256 << 10);
    costs_what_is_configured(Path::Sockmap, socket_max, (SINGLES_SENT, 1), size(1, TRIES));
}

/// The sender has so many bytes, and writes so many at a time to sockets that hold `socket_max`.
fn costs_what_is_configured(path: Path, socket_max: u64, sent: (u64, usize), tries: usize) {
    let net = Net::new(1);
    limit_socket_buffers(&net, socket_max);
    // It is to pause inside the kernel, where it can.
    let relay = Relay::over(net, path, required(path));
    // Of what others do meanwhile, this test knows nothing where it is not alone; all that is sent would still show.
    let slack = if is_alone() { 8 << 20 } else { 96 << 20 };
    let waiting = if path == Path::Sockmap { INSIDE_MAX } else { PIPE_MAX };
    // Memory of a segment may be twice its payload (truesize).
    let bound = 2 * (SOCKETS * socket_max + waiting) + slack;
    let mut grown = Vec::new();
    while grown.len() < tries || grown.iter().all(|bytes| *bytes >= bound) {
        assert!(grown.len() < tries * PATIENCE, "{grown:?} bytes of memory for a reader that stopped");
        // One of them shows that the sender goes on.
        let read = if grown.is_empty() { sent.0 } else { 0 };
        grown.push(growth(&relay, path, sent, read));
    }
    println!("{grown:?} bytes of memory, {bound} allowed");
    relay.assert_nothing_left(path);
    relay.agent.assert_own_path(path, grown.len() as u64);
    relay.agent.assert_share(path, 99);
}

/// How much less memory there is while the server takes nothing. Then it takes what there is, and `read` bytes at least.
fn growth(relay: &Relay, path: Path, (bytes, piece): (u64, usize), read: u64) -> u64 {
    let (client, server) = relay.handed_over(path);
    let before = available_memory();
    let taken = send_pieces_until_blocked_or(&client, 1, piece, CALM, bytes);
    let grown = before.saturating_sub(available_memory());
    assert!(taken < bytes, "all of it was taken, while nobody reads");
    let read = read.max(taken);
    let (received, sent) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_rest(&client, 1, taken, read).expect("a reader that comes late"));
        (receive_at_most(&server, 1, read), sender.join().expect("no panic"))
    });
    assert_received(&received, read, End::Silent);
    assert_eq!(received.sha256, sent);
    // The ends come last: what a socket holds that has begun to close is not carried inside the kernel.
    for (from, to) in [(&client, &server), (&server, &client)] {
        finish(from);
        assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    }
    grown
}
