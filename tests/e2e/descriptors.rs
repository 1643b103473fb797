// SPDX-License-Identifier: MIT OR Apache-2.0
//! File descriptors: running out of them is a pause, and none is ever left behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{answer, ask, echo};
use lb_tests::size;
use lb_tests::stream::{End, end_of, finish, receive_all, receive_exactly, reset, say};
use lb_tests::wait::{until, until_steady};

use crate::flows::idle_pipes_max;
use crate::support::{PORT, SERVER_PORT, allow_many_connections, tcp_config, two_names, two_reporters};

/// Far more than fit into [`LIMIT`] descriptors.
const CROWD: usize = 1_000;

/// How long a count must stay the same.
const CALM: Duration = Duration::from_millis(500);

const LIMIT: &str = "--nofile=256:256";

on_both_paths! {
    a_thousand_connections_are_served_with_256_descriptors,
    running_out_of_descriptors_pauses_accepting,
    no_descriptor_is_left_behind,
}

fn a_thousand_connections_are_served_with_256_descriptors(path: Path) {
    let net = Net::new(1);
    net.balancer.sysctl("net/core/somaxconn", "4096");
    let _server = echo(net.server(), SERVER_PORT);
    let config = tcp_config(&net, path, "idle-timeout = \"10m\"");
    let mut agent = Agent::launch(&net).through(&["prlimit", LIMIT, "--"]).start(&config);
    // It is ready as soon as it listens; its workers may still be opening what they need.
    let idle = until_steady("what an idle agent has open", CALM, || agent.process.descriptors());

    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| net.client.connect(net.frontend(PORT))).collect();
    for client in &crowd {
        say(client, b"x");
    }
    until("the agent to be full", || agent.process.descriptors() > 150);
    assert_quiet_and_alive(&mut agent);

    // First come, first served is not promised, so all are read at once.
    std::thread::scope(|scope| {
        for part in crowd.chunks(CROWD / 20) {
            let part: Vec<&TcpStream> = part.iter().collect();
            scope.spawn(move || part.into_iter().for_each(leave_when_served));
        }
    });
    drop(crowd);
    agent.until_idle();
    until_given_back(&agent, idle);
    let newcomer = net.client.connect(net.frontend(PORT));
    assert_eq!(ask(&newcomer, b"still here?"), b"still here?");
    agent.assert_path(path, CROWD as u64 + 1);
}

/// Its 127 other addresses may never come.
#[test]
fn a_name_that_is_checked_leaves_descriptors_for_clients() {
    let net = Net::new(1);
    let _server = echo(&net.balancer, SERVER_PORT);
    let config = Config::new()
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", "check = { type = \"tcp\" }")
        .raw(&format!("[[backend.pool.server]]\nname = \"all\"\naddress = \"localhost:{SERVER_PORT}\""));
    let agent = Agent::launch(&net).through(&["prlimit", LIMIT, "--"]).start(&config);
    assert_eq!(ask(&net.client.connect(net.frontend(PORT)), b"hello"), b"hello");
    until("checks", || agent.scrape().count("lb_server_checks_total", &[]) > 1);
    let said = agent.process.stderr();
    assert!(said.iter().any(|line| line.contains("few open files")), "{said:?}");
}

/// The limit falls below what the agent divided at its start, as if the whole host ran out (EMFILE, ENFILE, accept(2)): who cannot
/// be served waits or is told loudly, and all is well when there are descriptors again.
fn running_out_of_descriptors_pauses_accepting(path: Path) {
    let net = Net::new(1);
    let _server = echo(net.server(), SERVER_PORT);
    let mut agent = Agent::start(&net, &tcp_config(&net, path, ""));
    let idle = until_steady("what an idle agent has open", CALM, || agent.process.descriptors());
    agent.process.limit_descriptors(idle + 21);
    let crowd: Vec<TcpStream> =
        (0..100).filter_map(|_| net.client.try_connect(net.frontend(PORT)).ok()).collect();
    until("the agent to have all that it may have", || agent.process.descriptors() >= idle + 20);
    let before = agent.process.cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = agent.process.cpu_time() - before;
    assert!(used < Duration::from_millis(400), "{used:?} of CPU time in 2 s without descriptors");
    assert_eq!(agent.process.try_wait(), None);

    agent.process.limit_descriptors(10_000);
    until("accepting to have paused", || agent.scrape().count("lb_accept_pauses_total", &[]) > 0);
    for client in crowd {
        // Those who were told loudly cannot be asked any more.
        let _ = (&client).write_all(b"x");
        let (got, end) = receive_at_most_one(&client);
        assert!(got == b"x" || end == End::Reset, "{got:?}, {end:?}");
    }
    let newcomer = net.client.connect(net.frontend(PORT));
    assert_eq!(ask(&newcomer, b"still here?"), b"still here?");
    agent.until_idle();
}

/// The first byte, or the end before it.
fn receive_at_most_one(mut client: &TcpStream) -> (Vec<u8>, End) {
    let mut byte = [0; 1];
    match client.read(&mut byte) {
        Ok(0) => (Vec::new(), End::Finished),
        Ok(_) => (byte.to_vec(), End::Silent),
        Err(error) => (Vec::new(), end_of(&error)),
    }
}

/// Waits for the echo, which comes when the agent has room, and makes room for others.
fn leave_when_served(client: &TcpStream) {
    assert_eq!(receive_exactly(client, 1), b"x");
    finish(client);
    let _ = receive_all(client);
    client.shutdown(std::net::Shutdown::Both).unwrap_or_default();
}

/// While full there is nothing to do but to answer the admin.
#[track_caller]
fn assert_quiet_and_alive(agent: &mut Agent) {
    let before = agent.process.cpu_time();
    std::thread::sleep(Duration::from_secs(3));
    let used = agent.process.cpu_time() - before;
    assert!(used < Duration::from_millis(600), "{used:?} of CPU time in 3 s of being full");
    assert_eq!(agent.process.try_wait(), None);
    assert_eq!(agent.admin("/healthz").map(|response| response.status), Some(200));
}

fn no_descriptor_is_left_behind(path: Path) {
    let net = Net::new(1);
    let frontend = format!("{}client-hello-timeout = \"1s\"", path.lines());
    let agent = Agent::start(&net, &two_names(&net, &frontend));
    let _servers = two_reporters(&net);
    allow_many_connections(&net);
    every_kind_of_end(&net);
    agent.until_idle();
    let before = until_steady("what an idle agent has open", CALM, || agent.process.descriptors());
    let before = before - spare_pipes(&agent);
    for _ in 0..size(100, 2_000) {
        every_kind_of_end(&net);
    }
    agent.until_idle();
    until("all descriptors to be given back", || agent.process.descriptors() <= before + spare_pipes(&agent));
    let pipes = agent.scrape().count("lb_pipes", &[]);
    assert!(pipes <= idle_pipes_max(), "{pipes} pipes are kept");
}

/// Ten connections.
fn every_kind_of_end(net: &Net) {
    let wire = Hello::named("alpha.example").wire();
    let connect = || net.client.connect(net.frontend(PORT));
    let begin = |bytes: &[u8]| {
        let client = connect();
        say(&client, bytes);
        client
    };
    for _ in 0..4 {
        assert_eq!(ask(&connect(), &wire), answer("alpha", &wire).into_bytes());
    }
    reset(connect());
    reset(begin(&wire));
    reset(begin(&wire[..100]));
    drop(begin(&wire));
    finish(&begin(&wire[..100]));
    drop(begin(b"GET / HTTP/1.1\r\n\r\n"));
}

/// Waits until the agent has no more descriptors than it had when idle, apart from pipes that wait in the pool.
#[track_caller]
fn until_given_back(agent: &Agent, idle: usize) {
    let mut files = Vec::new();
    let given_back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("all descriptors to be given back", || {
            files = agent.process.open_files();
            files.len() <= idle + spare_pipes(agent)
        });
    }));
    assert!(given_back.is_ok(), "{} descriptors, {idle} when idle: {files:#?}", files.len());
}

/// Descriptors of pipes that wait in the pool.
fn spare_pipes(agent: &Agent) -> usize {
    usize::try_from(2 * agent.scrape().count("lb_pipes", &[])).expect("a few")
}
