// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory is bounded: who does not read costs at most what the sysctls allow.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::stream::{End, finish, receive, send_until_blocked};

use crate::support::{Relay, assert_carried_so_far, assert_received, limit_socket_buffers};

/// What tcp_rmem and tcp_wmem allow a socket in these tests.
const SOCKET_MAX: u64 = 1 << 20;

/// What path sockmap may have waiting of one direction inside the kernel, the default of `sockmap-direction-memory`.
const INSIDE_MAX: u64 = 16 << 20;

/// Flows at once.
const FLOWS: u64 = 8;

on_all_paths! {
    a_server_that_stops_reading_costs_bounded_memory,
    a_client_that_stops_reading_costs_bounded_memory,
}

fn a_server_that_stops_reading_costs_bounded_memory(path: Path) {
    a_reader_that_stops(path, |(client, server)| (client, server));
}

fn a_client_that_stops_reading_costs_bounded_memory(path: Path) {
    a_reader_that_stops(path, |(client, server)| (server, client));
}

/// `roles` says which end sends and which one does not read.
fn a_reader_that_stops(path: Path, roles: impl Fn((TcpStream, TcpStream)) -> (TcpStream, TcpStream)) {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    let relay = Relay::over(net, path, "");
    let resident_before = relay.agent.process.resident_bytes();
    let pairs: Vec<_> = (0..FLOWS).map(|_| roles(relay.pair())).collect();
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let blocked = |pair| scope.spawn(move || send_until_blocked(pair, 1, Duration::from_secs(1)));
        let senders: Vec<_> = pairs.iter().map(|(sender, _)| blocked(sender)).collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });

    let resident = relay.agent.process.resident_bytes().saturating_sub(resident_before);
    assert!(resident < FLOWS * SOCKET_MAX, "{resident} bytes of memory for {FLOWS} flows");
    let sockets = socket_memory(&relay.net);
    // What waits inside the kernel gets room in a socket after a while. Truesize may exceed the limit by the last segments that were taken.
    let inside = if path == Path::Sockmap { INSIDE_MAX } else { 0 };
    assert!(
        sockets < FLOWS * (2 * SOCKET_MAX + inside) * 5 / 4,
        "{sockets} bytes in sockets for {FLOWS} flows"
    );
    for taken in &taken {
        // Two sockets of the ends, two of the agent, and at most one socket's worth in between.
        let between = if path == Path::Sockmap { INSIDE_MAX } else { SOCKET_MAX };
        assert!(*taken < 4 * SOCKET_MAX + between, "{taken} bytes taken while nobody reads");
    }
    assert_quiet(&relay);
    // A send buffer of each, at least. What goes on behind an end may be spliced.
    assert_carried_so_far(&relay.agent, path, FLOWS * (32 << 10));

    for ((sender, reader), taken) in pairs.iter().zip(taken) {
        finish(sender);
        assert_received(&receive(reader, 1), taken, End::Finished);
    }
    drop(pairs);
    relay.agent.until_idle();
    relay.agent.assert_own_path(path, FLOWS);
}

/// While everybody is blocked there is nothing to do.
fn assert_quiet(relay: &Relay) {
    let before = relay.agent.process.cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = relay.agent.process.cpu_time() - before;
    assert!(used < Duration::from_millis(200), "{used:?} of CPU time in 2 s without a byte");
}

/// Bytes that the balancer's TCP sockets hold, read or unsent (ss(8): skmem r, w and t count truesize).
fn socket_memory(net: &Net) -> u64 {
    let listing = net.balancer.run(Command::new("ss").args(["-tmnH", "state", "established"]));
    let held = |memory: &str| -> u64 {
        let fields = memory.split(',');
        let parts = fields.filter_map(|field| field.strip_prefix('r').or_else(|| field.strip_prefix('w')));
        parts.filter_map(|number| number.parse::<u64>().ok()).sum()
    };
    let sockets: Vec<u64> = listing.split("skmem:(").skip(1).map(held).collect();
    assert!(!sockets.is_empty(), "{listing}");
    sockets.iter().sum()
}
