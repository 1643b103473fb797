// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGTERM lets open connections go on until a deadline; a second one ends them at once.

use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::net::{Listener, Net};
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};
use lb_tests::wait::{PATIENCE, until};
use rustix::process::Signal;

use crate::support::{PORT, SERVER_PORT, tcp_config};
use lb_tests::config::Path;

#[test]
fn sigterm_lets_open_connections_finish_and_refuses_new_ones() {
    let (net, listener, mut agent) = start("1h");
    let (client, server) = (net.client.connect(net.frontend(PORT)), listener.accept());
    // Probes that get in before the agent refuses them must not keep it alive.
    drop(listener);
    assert_eq!(agent.admin("/readyz").map(|response| response.status), Some(200));
    agent.terminate();
    until("/readyz to say 503", || agent.admin("/readyz").is_some_and(|response| response.status == 503));
    assert_eq!(agent.admin("/healthz").map(|response| response.status), Some(200));
    until("new connections to be refused", || net.client.try_connect(net.frontend(PORT)).is_err());

    say(&client, b"still");
    assert_eq!(receive_exactly(&server, 5), b"still");
    say(&server, b"here");
    finish(&server);
    assert_eq!(receive_all(&client), (b"here".to_vec(), End::Finished));
    assert_eq!(agent.process.try_wait(), None, "one direction is still open");
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    assert_eq!(agent.wait().code(), Some(0));
    assert_eq!(agent.records()[0].close(), "finished");
}

#[test]
fn sigterm_without_connections_ends_the_agent_at_once() {
    let (_net, _listener, mut agent) = start("1h");
    agent.terminate();
    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn the_deadline_resets_what_is_still_open() {
    let (net, listener, mut agent) = start("2s");
    let (client, server) = (net.client.connect(net.frontend(PORT)), listener.accept());
    let begin = Instant::now();
    agent.terminate();
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert!((Duration::from_secs(2)..PATIENCE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    assert_eq!(agent.wait().code(), Some(0));
    let records = agent.records();
    assert_eq!(records.iter().map(|record| record.close()).collect::<Vec<_>>(), ["shutdown"]);
}

/// Clients beyond `max-connections` wait in the kernel's backlog, connected as far as they know.
#[test]
fn clients_that_wait_at_the_limit_are_served_before_the_end() {
    let net = Net::new(1);
    let config = tcp_config(&net, Path::Splice, "").global("drain-timeout = \"1h\"\nmax-connections = 2");
    let listener = net.server().listen(SERVER_PORT);
    let mut agent = Agent::start(&net, &config);
    let first = [(); 2].map(|()| (net.client.connect(net.frontend(PORT)), listener.accept()));
    let waiting = [(); 3].map(|()| net.client.connect(net.frontend(PORT)));
    agent.terminate();
    until("/readyz to say 503", || agent.admin("/readyz").is_some_and(|response| response.status == 503));
    for (client, server) in first {
        finish(&client);
        finish(&server);
        assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    }
    for client in waiting {
        say(&client, b"still?");
        finish(&client);
        let server = listener.accept();
        assert_eq!(receive_all(&server), (b"still?".to_vec(), End::Finished));
        finish(&server);
        assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    }
    assert_eq!(agent.wait().code(), Some(0));
    assert_eq!(agent.records().len(), 5);
}

#[test]
fn a_second_sigterm_resets_at_once() {
    a_second_signal_resets_at_once(Signal::TERM);
}

#[test]
fn sigint_counts_like_sigterm() {
    a_second_signal_resets_at_once(Signal::INT);
}

fn a_second_signal_resets_at_once(signal: Signal) {
    let (net, listener, mut agent) = start("1h");
    let (client, server) = (net.client.connect(net.frontend(PORT)), listener.accept());
    agent.process.signal(signal);
    until("/readyz to say 503", || agent.admin("/readyz").is_some_and(|response| response.status == 503));
    agent.process.signal(signal);
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    agent.wait();
    assert_eq!(agent.records()[0].close(), "shutdown");
}

fn start(drain_timeout: &str) -> (Net, Listener, Agent) {
    let net = Net::new(1);
    let config = tcp_config(&net, Path::Splice, "").global(&format!("drain-timeout = \"{drain_timeout}\""));
    let listener = net.server().listen(SERVER_PORT);
    let agent = Agent::start(&net, &config);
    (net, listener, agent)
}
