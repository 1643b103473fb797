// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thousands of flows (hundreds in the small size) on path `splice` without any privilege, and mode `tcp` for protocols where the server speaks first.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::peer::greeter;
use lb_tests::size;
use lb_tests::stream::{End, Pattern, finish, receive, receive_exactly, say};
use lb_tests::wait::{until, until_steady};

use crate::support::{
    PORT, Relay, SERVER_PORT, assert_carried, assert_received, limit_socket_buffers, tcp_config,
};

on_all_paths! {
    a_server_may_speak_first,
}

fn a_server_may_speak_first(path: Path) {
    let net = Net::new(1);
    let _server = greeter(net.server(), SERVER_PORT, "220 welcome");
    let agent = Agent::start(&net, &tcp_config(&net, path, ""));
    let client = net.client.connect(net.frontend(PORT));
    assert_eq!(receive_exactly(&client, 12), b"220 welcome\n");
    say(&client, b"EHLO there");
    assert_eq!(receive_exactly(&client, 10), b"EHLO there");
    finish(&client);
    assert_received(&receive(&client, 1), 0, End::Finished);
    let record = &agent.until_records(1)[0];
    assert_eq!((record.number("received_bytes"), record.number("sent_bytes")), (10, 22));
    assert_eq!(record.text("sni"), "");
    assert!(path.labels().contains(&record.text("path")), "{record:?}");
    assert_carried(&agent, path, 1);
}

/// Held by tests that need most of the descriptors that one process may have.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// Every flow is open at once and moves a few kilobytes each way; an idle flow holds no pipe.
#[test]
fn thousands_of_unprivileged_splice_flows_move_bytes_and_return_their_pipes() {
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let relay = unprivileged_relay(Net::new(1), &[]);
    let flows = open_flows(&relay);
    let (up, down) = (Pattern::beginning(1, 6000), Pattern::beginning(2, 9000));
    for _ in 0..3 {
        flows.iter().for_each(|(client, _)| say(client, &up));
        for (_, server) in &flows {
            assert!(receive_exactly(server, up.len()) == up, "bytes changed on their way to the server");
            say(server, &down);
        }
        for (client, _) in &flows {
            assert!(receive_exactly(client, down.len()) == down, "bytes changed on their way to the client");
        }
    }
    let pipes = relay.agent.scrape().count("lb_pipes", &[]);
    assert!(pipes <= idle_pipes_max(), "{pipes} pipes for {} idle flows", flows.len());
    let count = flows.len() as u64;
    drop(flows);
    relay.agent.until_idle();
    let carried = relay.agent.assert_path(Path::Splice, count);
    assert_eq!(carried, count * 3 * (6000 + 9000));
}

/// Every flow has a reader that stops, so that each wants a pipe at once, and keeps it. There are fewer: 576 for 5,000 flows, what an
/// unprivileged user gets of whole pipes if some are wide (pipe(7), /proc/sys/fs/pipe-user-pages-soft), and in the small size what [`FEW_FILES`] leaves.
/// The flows that get none copy, and everything arrives.
#[test]
fn thousands_of_unprivileged_splice_flows_can_be_blocked_at_once() {
    let _alone = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let net = Net::new(1);
    limit_socket_buffers(&net, 32 << 10);
    let relay = unprivileged_relay(net, size(FEW_FILES, &[]));
    let flows = open_flows(&relay);
    let bytes = 512 << 10;
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| send_to_all(flows.iter().map(|(_, server)| server).collect(), bytes, &sent));
        let calm = Duration::from_secs(1);
        let blocked = until_steady("senders to be blocked", calm, || sent.load(Ordering::Relaxed));
        assert!(blocked < flows.len() * bytes, "nobody was blocked");
        let scrape = relay.agent.scrape();
        let (pipes, copied) = (scrape.count("lb_pipes", &[]), scrape.count("lb_pipes_exhausted_total", &[]));
        assert!(pipes < flows.len() as u64 && copied > 0, "{pipes} pipes were enough");
        for part in flows.chunks(flows.len() / 16) {
            let read = |(client, _): &(TcpStream, TcpStream)| {
                assert_received(&receive(client, 1), bytes as u64, End::Finished);
            };
            scope.spawn(move || part.iter().for_each(read));
        }
    });
    drop(flows);
    relay.agent.until_idle();
    until("pipes to be given back", || relay.agent.scrape().count("lb_pipes", &[]) <= idle_pipes_max());
}

/// A worker keeps at most 64 pipes for the next flow, and there is one worker a core.
pub(crate) fn idle_pipes_max() -> u64 {
    64 * std::thread::available_parallelism().expect("Linux knows").get() as u64
}

/// A limit of open files that is enough for the connections of the small size, two files each, and a pipe for every fourth.
const FEW_FILES: &[&str] = &["prlimit", "--nofile=1400"];

/// Started through `wrapper`.
fn unprivileged_relay(net: Net, wrapper: &[&str]) -> Relay {
    net.balancer.sysctl("net/core/somaxconn", "4096");
    let listener = net.server().listen(SERVER_PORT);
    let config = tcp_config(&net, Path::Splice, "");
    let agent = Agent::launch(&net).unprivileged().through(wrapper).start(&config);
    Relay { agent, listener, net }
}

/// In pairs, because both ends know each other only by the order of their connects.
fn open_flows(relay: &Relay) -> Vec<(TcpStream, TcpStream)> {
    (0..size(500, 5_000)).map(|_| relay.pair()).collect()
}

/// Sends a pattern of so many bytes to each, whoever takes some, and ends them.
fn send_to_all(streams: Vec<&TcpStream>, bytes: usize, sent: &AtomicUsize) {
    let pattern = Pattern::beginning(1, bytes);
    let mut open: Vec<(&TcpStream, usize)> = streams.into_iter().map(|stream| (stream, 0)).collect();
    open.iter().for_each(|(stream, _)| stream.set_nonblocking(true).expect("a socket"));
    while !open.is_empty() {
        let mut progress = 0;
        for (stream, done) in &mut open {
            match stream.write(&pattern[*done..]) {
                Ok(count) => (*done, progress) = (*done + count, progress + count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        sent.fetch_add(progress, Ordering::Relaxed);
        open.retain(|(stream, done)| {
            let is_done = *done == bytes;
            if is_done {
                finish(stream);
            }
            !is_done
        });
        if progress == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
