// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes wait in both directions, and then somebody goes away: the other end hears of it, loudly, and nothing is left.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::kernel::tcp_sockets;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_exactly, receive_in_pieces, reset, say, send, send_until_blocked,
};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    Relay, SERVER_PORT, assert_carried_so_far, assert_nothing_left, limit_socket_buffers, median, tcp_config,
};

/// What tcp_rmem and tcp_wmem allow a socket.
const BUFFER: u64 = 128 << 10;

/// A sender counts as blocked when nobody has taken a byte of it for so long.
const CALM: Duration = Duration::from_millis(500);

/// How long a reset may take to one who reads. It takes milliseconds; two cores may be busy with other tests.
const PROMPTLY: Duration = Duration::from_secs(2);

/// The same for a half of them: 100 ms, where there are enough of them to tell, and else with time for others.
fn usually() -> Duration {
    Duration::from_millis(size(400, 100))
}

/// What came before a reset has so much time to be taken by one who reads nothing.
const RESET_DRAIN: Duration = Duration::from_secs(5);

on_all_paths! {
    a_killed_agent_resets_both_ends_of_a_backlog,
    a_reset_of_the_client_passes_a_backlog_both_ways,
    a_reset_of_the_server_passes_a_backlog_both_ways,
    a_reset_reaches_one_who_never_reads,
    what_a_server_never_reads_ends_loudly_in_time,
}

/// Neither end may take what it got for all.
fn a_killed_agent_resets_both_ends_of_a_backlog(path: Path) {
    let relay = small(path, "");
    let pair = relay.handed_over(path);
    let taken = fill(&relay, path, &pair);
    relay.agent.process.signal(Signal::KILL);
    for (stream, seed, taken) in [(&pair.1, 1, taken.0), (&pair.0, 2, taken.1)] {
        let received = receive(stream, seed);
        assert_eq!((received.wrong_at, received.end), (None, End::Reset));
        assert!(received.bytes < taken, "{} of {taken} bytes", received.bytes);
    }
}

fn a_reset_of_the_client_passes_a_backlog_both_ways(path: Path) {
    a_reset_passes_a_backlog(path, "client-reset", |(client, server)| (client, server, 1));
}

fn a_reset_of_the_server_passes_a_backlog_both_ways(path: Path) {
    a_reset_passes_a_backlog(path, "server-reset", |(client, server)| (server, client, 2));
}

/// `roles` says who resets, who is left, and the seed of what that one reads.
fn a_reset_passes_a_backlog(
    path: Path,
    reason: &str,
    roles: impl Fn((TcpStream, TcpStream)) -> (TcpStream, TcpStream, u64),
) {
    let relay = small(path, "");
    let mut times = Vec::new();
    for round in 1..=size(5, 50) {
        let pair = relay.handed_over(path);
        let taken = if round == 1 { fill(&relay, path, &pair) } else { fill_both(&pair) };
        let (gone, left, seed) = roles(pair);
        let most = if seed == 1 { taken.0 } else { taken.1 };
        reset(gone);
        let mut waiting_since = Instant::now();
        let received = receive_in_pieces(&left, seed, u64::MAX, || {
            waiting_since = Instant::now();
            usize::MAX
        });
        assert_eq!((received.wrong_at, received.end), (None, End::Reset));
        assert!(received.bytes <= most, "{} of {most} bytes", received.bytes);
        times.push(waiting_since.elapsed());
        let records = relay.agent.until_records(round);
        assert_eq!(records[round - 1].close(), reason);
    }
    assert!(times.iter().all(|time| *time < PROMPTLY), "{times:?} from the last byte to the reset");
    let usual = median(&format!("the last byte to a {reason}, {path:?}"), times);
    assert!(usual < usually(), "{usual:?} from the last byte to the reset");
    relay.assert_nothing_left(path);
}

/// It sends no more, either: it hears of the reset all the same, once it has had its time for what came before.
fn a_reset_reaches_one_who_never_reads(path: Path) {
    let relay = small(path, "");
    let pair = relay.handed_over(path);
    fill(&relay, path, &pair);
    let (client, server) = pair;
    let begin = Instant::now();
    reset(server);
    until("a reset at the client", || client.take_error().expect("a socket").is_some());
    assert!(begin.elapsed() < RESET_DRAIN + PROMPTLY * 2, "{:?} for a reset", begin.elapsed());
    assert_eq!(relay.close_reason(), "server-reset");
    relay.assert_nothing_left(path);
}

/// Clients have sent everything and closed, and their servers take nothing: there is nobody any more who would wait. After the timeout
/// the servers see a reset, not an end behind a part, and the kernel has its memory back.
fn what_a_server_never_reads_ends_loudly_in_time(path: Path) {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let net = Net::new(1);
    limit_socket_buffers(&net, BUFFER);
    // Enough for all of them inside the kernel.
    let config = tcp_config(&net, path, "idle-timeout = \"2s\"\nhalf-close-timeout = \"2s\"");
    let listener = net.server().listen(SERVER_PORT);
    let relay =
        Relay { agent: Agent::start(&net, &config.global("sockmap-memory = \"4GiB\"")), listener, net };
    // Many, for sockets that are free may count as used: since Linux 7.0 the allocator keeps 144 of each family for the next ones (mm/slub.c,
    // calculate_sheaf_capacity, MAX_FULL_SHEAVES).
    let (flows, bytes) = (size(400, 1_000), 200_000);
    let sockets = tcp_sockets();
    let servers: Vec<TcpStream> = (0..flows).map(|_| left_alone(&relay, bytes)).collect();
    let begin = Instant::now();
    until("all to be cut", || relay.agent.records().len() == flows);
    assert!(begin.elapsed() < TIMEOUT * 5, "{:?} for a timeout of {TIMEOUT:?}", begin.elapsed());
    for record in relay.agent.records() {
        assert!(["idle-timeout", "half-close-timeout"].contains(&record.close()), "{record:?}");
    }
    for server in &servers {
        let received = receive(server, 1);
        assert_eq!((received.wrong_at, received.end), (None, End::Reset));
        assert!(received.bytes < bytes, "{} of {bytes} bytes", received.bytes);
    }
    drop(servers);
    assert_nothing_left(&relay.agent, path);
    let own = relay.agent.own_flows(path);
    assert!(own >= flows as u64, "{own} of {flows} flows over {path:?}");
    assert_carried_so_far(&relay.agent, path, flows as u64 * 10_000);
    // Each flow had four, and one of each would be seen; other tests have some, too.
    until("sockets to be freed", || tcp_sockets() < sockets + flows as u64 - 100);
}

/// A server's end of a flow whose client has sent so many bytes more than one, and closed.
fn left_alone(relay: &Relay, bytes: u64) -> TcpStream {
    let (client, server) = relay.pair();
    // With the first byte it is handed over.
    say(&client, b"?");
    assert_eq!(receive_exactly(&server, 1), b"?");
    send(&client, 1, bytes).expect("so much the kernels on the way take");
    finish(&client);
    server
}

/// As [`fill_both`] with the first flow of an agent. What had been carried until then had gone this way.
#[track_caller]
fn fill(relay: &Relay, path: Path, pair: &(TcpStream, TcpStream)) -> (u64, u64) {
    let taken = fill_both(pair);
    // Each has a full send buffer of the agent's, at least.
    assert_carried_so_far(&relay.agent, path, 32 << 10);
    taken
}

/// Sends both ways until both are blocked; how much was taken of the client's and the server's.
fn fill_both((client, server): &(TcpStream, TcpStream)) -> (u64, u64) {
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send_until_blocked(client, 1, CALM));
        let down = send_until_blocked(server, 2, CALM);
        (up.join().expect("no panic"), down)
    })
}

/// On a network with small buffers, so that it is filled quickly.
fn small(path: Path, backend_lines: &str) -> Relay {
    let net = Net::new(1);
    limit_socket_buffers(&net, BUFFER);
    Relay::over(net, path, backend_lines)
}
