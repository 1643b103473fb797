// SPDX-License-Identifier: MIT OR Apache-2.0
//! What several tests set up.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::kernel::{named_sockets, redirected};
use lb_tests::net::{Listener, Net};
use lb_tests::peer::{Report, Service, ask, reporter};
use lb_tests::stream::{
    End, Received, finish, receive, receive_all, receive_at_most, receive_exactly, say, send,
};
use lb_tests::wait::until;
use rustix::net::SendFlags;

/// Makes tests of scenarios that take a path: one in module `splice` and one in module `copy`.
macro_rules! on_both_paths {
    ($($scenario:ident,)+) => {
        mod splice { $(#[test] fn $scenario() { super::$scenario(lb_tests::config::Path::Splice); })+ }
        mod copy { $(#[test] fn $scenario() { super::$scenario(lb_tests::config::Path::Copy); })+ }
    };
}

/// The same in module `sockmap`, where the kernel carries the bytes.
macro_rules! inside_the_kernel {
    ($($scenario:ident,)+) => {
        mod sockmap { $(#[test] fn $scenario() { super::$scenario(lb_tests::config::Path::Sockmap); })+ }
    };
}

/// The same in all of these, and in module `auto`, where the agent chooses and may change its mind in the middle of a flow.
macro_rules! on_all_paths {
    ($($scenario:ident,)+) => {
        on_both_paths! { $($scenario,)+ }
        inside_the_kernel! { $($scenario,)+ }
        mod auto { $(#[test] fn $scenario() { super::$scenario(lb_tests::config::Path::Auto); })+ }
    };
}

/// Where frontends listen.
pub(crate) const PORT: u16 = 5000;

/// Where servers listen.
pub(crate) const SERVER_PORT: u16 = 6000;

/// One frontend of mode `tcp` in front of one server, whose connections the test accepts itself.
pub(crate) struct Relay {
    pub(crate) agent: Agent,
    pub(crate) listener: Listener,
    pub(crate) net: Net,
}

impl Relay {
    pub(crate) fn start(path: Path) -> Self {
        Self::with(path, "")
    }

    /// With these lines in the backend's table.
    pub(crate) fn with(path: Path, backend_lines: &str) -> Self {
        Self::over(Net::new(1), path, backend_lines)
    }

    /// On a network with other settings.
    pub(crate) fn over(net: Net, path: Path, backend_lines: &str) -> Self {
        let config = tcp_config(&net, path, backend_lines);
        let listener = net.server().listen(SERVER_PORT);
        Self { agent: Agent::start(&net, &config), listener, net }
    }

    /// A new connection: the client's end and the server's.
    #[track_caller]
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        (self.client(), self.listener.accept())
    }

    /// A new connection on which a byte has gone each way.
    #[track_caller]
    pub(crate) fn greeted(&self) -> (TcpStream, TcpStream) {
        let (client, server) = self.pair();
        greet(&client, &server);
        (client, server)
    }

    /// A new connection of which the path's own counters say that it is handed over, before any byte goes but one each way.
    #[track_caller]
    pub(crate) fn handed_over(&self, path: Path) -> (TcpStream, TcpStream) {
        let is_inside = path == Path::Sockmap;
        let flows = self.agent.own_flows(path);
        let named = if is_inside { redirected(&self.agent.process) } else { BTreeMap::new() };
        let (client, server) = self.greeted();
        // What the program has counted shows at once, and metrics when the agent next looks.
        until("the flow to be handed over", || {
            if !is_inside {
                return self.agent.own_flows(path) > flows;
            }
            let new =
                redirected(&self.agent.process).into_iter().filter(|(socket, _)| !named.contains_key(socket));
            new.filter(|(_, bytes)| *bytes == 1).count() == 2
        });
        (client, server)
    }

    /// Asserts that nothing is left of flows: no connection, no memory, no socket that the program in the kernel can find.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, path: Path) {
        assert_nothing_left(&self.agent, path);
    }

    #[track_caller]
    pub(crate) fn client(&self) -> TcpStream {
        self.net.client.connect(self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.net.frontend(PORT)
    }

    /// The close reason of the only connection so far, once it has ended.
    #[track_caller]
    pub(crate) fn close_reason(&self) -> String {
        let records = self.agent.until_records(1);
        let [record] = &records[..] else { panic!("{} connections", records.len()) };
        record.close().to_owned()
    }
}

/// A byte there and one back, which acknowledges the first: nothing is on its way to `second` any more.
#[track_caller]
pub(crate) fn greet(first: &TcpStream, second: &TcpStream) {
    for (from, to) in [(first, second), (second, first)] {
        say(from, b"?");
        assert_eq!(receive_exactly(to, 1), b"?");
    }
}

/// Streams both ways at once, and ends both directions once everything has arrived: whoever ends before that lets user space carry what
/// has to wait, also on path `sockmap`.
#[track_caller]
pub(crate) fn stream_both_ways(client: &TcpStream, server: &TcpStream, up: u64, down: u64) {
    std::thread::scope(|scope| {
        let sent_up = scope.spawn(|| send(client, 1, up).expect("the server reads"));
        let sent_down = scope.spawn(|| send(server, 2, down).expect("the client reads"));
        let received_down = scope.spawn(|| receive_at_most(client, 2, down));
        let received_up = receive_at_most(server, 1, up);
        let received_down = received_down.join().expect("no panic");
        assert_received(&received_up, up, End::Silent);
        assert_received(&received_down, down, End::Silent);
        assert_eq!(received_up.sha256, sent_up.join().expect("no panic"));
        assert_eq!(received_down.sha256, sent_down.join().expect("no panic"));
    });
    finish(client);
    finish(server);
    for stream in [client, server] {
        assert_eq!(receive_all(stream), (Vec::new(), End::Finished));
    }
}

/// Sends one byte, `!`, as urgent (send(2), MSG_OOB).
#[track_caller]
pub(crate) fn urge(stream: &TcpStream) {
    assert_eq!(rustix::net::send(stream, b"!", SendFlags::OOB), Ok(1));
}

/// Waits until so many open flows have carried something both ways by the path itself, by its own counters. What the program in the
/// kernel has counted shows at once; metrics, when the agent next looks.
#[track_caller]
pub(crate) fn until_handed_over(agent: &Agent, path: Path, flows: usize) {
    until("all flows to be handed over", || match path {
        Path::Sockmap => redirected(&agent.process).values().filter(|bytes| **bytes > 0).count() == flows * 2,
        _ => agent.own_flows(path) >= flows as u64,
    });
}

/// Waits until so many open flows have carried so many bytes of their clients by the path itself, by its own counters: those of the
/// program, where there is one.
#[track_caller]
pub(crate) fn until_carried(agent: &Agent, path: Path, flows: usize, bytes: u64) {
    until("all flows to be handed over", || match path {
        Path::Sockmap => {
            redirected(&agent.process).into_values().filter(|carried| *carried == bytes).count() == flows
        }
        // On `auto`, a flow that changes its way counts for both.
        _ => agent.own_flows(path) >= flows as u64,
    });
}

/// Waits until so many flows are counted, and asserts that the path itself has carried something of each, and 99 % of all bytes: of short
/// flows all, so that each was handed over before its first byte.
#[track_caller]
pub(crate) fn assert_carried(agent: &Agent, path: Path, flows: u64) {
    agent.assert_own_path(path, flows);
    agent.assert_share(path, 99);
}

/// Waits until so many flows are counted, and asserts that path `sockmap` has left all of them to others, for this reason; and that another
/// path has carried all of them.
#[track_caller]
pub(crate) fn assert_left(agent: &Agent, path: Path, reason: &str, flows: u64) {
    agent.assert_path(path, flows);
    if path != Path::Sockmap {
        return agent.assert_share(path, 100);
    }
    let labels = [("path", "sockmap"), ("reason", reason)];
    let left = agent.scrape().count("lb_path_fallbacks_total", &labels);
    assert_eq!((left, agent.own_flows(path)), (flows, 0), "flows left for being {reason}, and flows inside");
}

/// Waits until so many bytes are counted, also of flows that are open, and asserts that 99 % of all went the way that `path` itself is.
/// Whatever becomes of a flow later, so far that was its way.
#[track_caller]
pub(crate) fn assert_carried_so_far(agent: &Agent, path: Path, bytes: u64) {
    until("bytes to be counted", || agent.scrape().count("lb_path_bytes_total", &[]) >= bytes);
    agent.assert_share(path, 99);
}

/// The time that half of these do not exceed. It is printed, with the one that 99 in a hundred do not, and the longest.
pub(crate) fn median(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let count = times.len();
    let [median, p99, longest] = [count / 2, count * 99 / 100, count - 1].map(|index| times[index]);
    println!("{what}: {median:?} (median of {count}), {p99:?} (p99), {longest:?} at most");
    median
}

/// Does something with every flow, with a few dozen at the same time.
pub(crate) fn at_once<T: Send>(
    flows: &[(TcpStream, TcpStream)],
    act: impl Fn(usize, &(TcpStream, TcpStream)) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let indexes = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        let mine = indexes.take_while(|index| *index < flows.len());
        mine.map(|index| (index, act(index, &flows[index]))).collect::<Vec<_>>()
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Asserts that nothing is left of flows: no connection, no memory, no socket that the program in the kernel can find.
#[track_caller]
pub(crate) fn assert_nothing_left(agent: &Agent, path: Path) {
    agent.until_idle();
    assert_eq!(agent.scrape().count("lb_sockmap_memory_bytes", &[]), 0);
    if path == Path::Sockmap {
        assert_eq!(named_sockets(&agent.process), 0, "sockets in the program's map");
    }
}

/// For a backend: path sockmap carries every byte, however slow the receiver is.
pub(crate) const INSIDE: &str = "path = \"sockmap\"\npath-required = true\n";

/// For a backend on any path: the path carries every byte.
pub(crate) fn required(path: Path) -> &'static str {
    if path == Path::Sockmap { INSIDE } else { "" }
}

/// For `[global]`: flows of path packet end with their agent, so that tests beside each other do not find each other's.
pub(crate) const NOTHING_KEPT: &str = "packet-state = \"off\"";

/// A frontend `in` of mode `tcp`, a backend `out` with one server.
pub(crate) fn tcp_config(net: &Net, path: Path, backend_lines: &str) -> Config {
    let server = net.server().address(SERVER_PORT);
    let config = if path == Path::Packet { Config::new().global(NOTHING_KEPT) } else { Config::new() };
    config.path(path).tcp("in", net.frontend(PORT), "out", "").backend("out", server, backend_lines)
}

/// A passthrough frontend `tls` that sends the names `alpha.example` and `omega.test` to backends of one reporting server each
/// (port 6001 and 6002), and further lines for the frontend.
pub(crate) fn two_names(net: &Net, frontend_lines: &str) -> Config {
    Config::new()
        .passthrough("tls", &[net.frontend(PORT), net.balancer.address6(PORT)], frontend_lines)
        .route("tls", "alpha.example", "alpha")
        .route("tls", "omega.test", "omega")
        .backend("alpha", net.server().address(6001), "")
        .backend("omega", net.server().address(6002), "")
}

/// The servers of [`two_names`].
pub(crate) fn two_reporters(net: &Net) -> [Service<Report>; 2] {
    [reporter(net.server(), 6001, "alpha", false), reporter(net.server(), 6002, "omega", false)]
}

/// Asserts that exactly these bytes came, unchanged, and then this end.
#[track_caller]
pub(crate) fn assert_received(received: &Received, bytes: u64, end: End) {
    assert_eq!((received.bytes, received.wrong_at, received.end), (bytes, None, end));
}

/// Sends so many bytes of a pattern and the end, whatever pauses the way makes, and asserts that all of it comes, exactly.
#[track_caller]
pub(crate) fn stream_whole(from: &TcpStream, to: &TcpStream, seed: u64, bytes: u64) {
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let sum = send(from, seed, bytes).expect("a reader");
            finish(from);
            sum
        });
        let received = receive(to, seed);
        assert_received(&received, bytes, End::Finished);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
}

/// Makes the buffers of all sockets small, so that limits are reached quickly: at most `most` bytes each.
pub(crate) fn limit_socket_buffers(net: &Net, most: u64) {
    for place in [&net.client, &*net.balancer].into_iter().chain(&net.servers) {
        place.sysctl("net/ipv4/tcp_rmem", &format!("4096 {} {most}", most.min(131_072)));
        place.sysctl("net/ipv4/tcp_wmem", &format!("4096 {} {most}", most.min(16_384)));
    }
}

/// Lets tens of thousands of connections follow each other quickly: without this, ports in TIME-WAIT run out (ip-sysctl.rst).
pub(crate) fn allow_many_connections(net: &Net) {
    for place in [&net.client, &*net.balancer] {
        place.sysctl("net/ipv4/ip_local_port_range", "10000 65000");
        place.sysctl("net/ipv4/tcp_tw_reuse", "1");
    }
}

/// Who answers, over so many connections one after the other.
#[track_caller]
pub(crate) fn tally(net: &Net, connections: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        let answer = ask(&net.client.connect(net.frontend(PORT)), b"who?");
        let answer = String::from_utf8(answer).expect("text");
        let name = answer.split(' ').next().expect("a name").to_owned();
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// What [`tally`] should say.
pub(crate) fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}
