// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reader that stops costs the whole machine, by the memory that is left: also what no socket is charged for.

use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::kernel::available_memory;
use lb_tests::net::Net;
use lb_tests::stream::{End, finish, receive, send_until_blocked_or};
use lb_tests::{is_alone, size};

use crate::support::{Relay, assert_received, limit_socket_buffers, required};

/// What the sender has.
const SENT: u64 = 256 << 20;

/// What tcp_rmem and tcp_wmem allow a socket: two of the ends, two of the agent.
const SOCKET_MAX: u64 = 1 << 20;
const SOCKETS: u64 = 4;

/// What a direction may have waiting in the agent: a pipe, or inside the kernel the default of `sockmap-direction-memory`.
const PIPE_MAX: u64 = 1 << 20;
const INSIDE_MAX: u64 = 16 << 20;

/// Tries, of which the one counts in which others took least.
const TRIES: usize = 3;

on_all_paths! {
    a_server_that_reads_nothing_of_256_mib_costs_what_is_configured,
}

fn a_server_that_reads_nothing_of_256_mib_costs_what_is_configured(path: Path) {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    // It is to pause inside the kernel, where it can.
    let relay = Relay::over(net, path, required(path));
    let grown: Vec<u64> = (0..size(TRIES, 3 * TRIES)).map(|_| growth(&relay)).collect();
    // Of what others do meanwhile, this test knows nothing where it is not alone; all that is sent would still show.
    let slack = if is_alone() { 8 << 20 } else { 96 << 20 };
    let waiting = if path == Path::Sockmap { INSIDE_MAX } else { PIPE_MAX };
    let least = *grown.iter().min().expect("some tries");
    // Memory of a segment may be twice its payload (truesize).
    let bound = 2 * (SOCKETS * SOCKET_MAX + waiting) + slack;
    assert!(least < bound, "{least} bytes of memory for a reader that stopped: {grown:?}");
    relay.agent.until_idle();
    relay.agent.assert_own_path(path, grown.len() as u64);
}

/// How much less memory there is while the server takes nothing. Then it takes all there is.
fn growth(relay: &Relay) -> u64 {
    let (client, server) = relay.pair();
    let before = available_memory();
    let taken = send_until_blocked_or(&client, 1, Duration::from_secs(1), SENT);
    let grown = before.saturating_sub(available_memory());
    assert!(taken < SENT, "all of it was taken, while nobody reads");
    finish(&client);
    assert_received(&receive(&server, 1), taken, End::Finished);
    finish(&server);
    grown
}
