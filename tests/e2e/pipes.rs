// SPDX-License-Identifier: MIT OR Apache-2.0
//! All pipes of a user share so many pages (pipe(7), fs.pipe-user-pages-soft): what path `splice` does where other processes of the user, such as
//! another agent, have all of them.

use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::process::Process;
use lb_tests::stream::{End, finish, receive_all, send_until_blocked};
use lb_tests::wait::until;

use crate::support::{Relay, SERVER_PORT, limit_socket_buffers, stream_both_ways, tcp_config};

/// Users of nobody else, so that tests beside these keep their pipes.
const USERS: [&str; 2] = ["61213", "61214"];

/// Chunks that two workers, at most, copy after a refusal before they ask for a pipe again.
const REFUSALS: u64 = 2 * 64;

/// Opens pipes until the kernel gives two pages only, and holds them. Each is made as large as may be, so that they are few.
const TAKES_ALL: &str = r"
import fcntl, os, sys, time
user = int(sys.argv[1])
os.setresuid(user, user, user)
pipes = []
while True:
    pipe = os.pipe()
    if fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) <= 2 * os.sysconf('SC_PAGESIZE'):
        break
    pipes.append(pipe)
    try:
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        pass
print('all taken', flush=True)
time.sleep(1000)
";

/// Streams are copied meanwhile, and spliced once there are pages again.
#[test]
fn a_user_whose_pipes_have_all_pages_is_served_by_copying() {
    let net = Net::new(1);
    let others = take_all(&net);
    let listener = net.server().listen(SERVER_PORT);
    let config = tcp_config(&net, Path::Splice, "").global("workers = 2");
    let agent = Agent::launch(&net).through(&as_user(USERS[0])).start(&config);
    let relay = Relay { agent, listener, net };
    stream(&relay, 1);
    let exhausted = || relay.agent.scrape().count("lb_pipes_exhausted_total", &[]);
    let without = exhausted();
    assert!(without > 0, "pipes were to be had");
    let spliced = || relay.agent.scrape().count("lb_path_bytes_total", &[("path", "splice")]);
    assert_eq!((relay.agent.scrape().count("lb_pipes", &[]), spliced()), (0, 0));

    drop(others);
    stream(&relay, 2);
    let (pipes, late) = (relay.agent.scrape().count("lb_pipes", &[]), exhausted() - without);
    assert!(pipes > 0 && late <= REFUSALS, "{pipes} pipes, {late} chunks copied after {without}");
    assert!(spliced() > 0);
}

/// Two agents of one user stream at the same time: neither takes so much that the other is left without.
#[test]
fn two_agents_of_a_user_both_have_pipes() {
    let relays = [(); 2].map(|()| {
        let net = Net::new(1);
        let listener = net.server().listen(SERVER_PORT);
        let config = tcp_config(&net, Path::Splice, "");
        let agent = Agent::launch(&net).through(&as_user(USERS[1])).start(&config);
        Relay { agent, listener, net }
    });
    std::thread::scope(|scope| relays.iter().for_each(|relay| drop(scope.spawn(|| stream(relay, 1)))));
    for relay in &relays {
        let scrape = relay.agent.scrape();
        let (pipes, exhausted) =
            (scrape.count("lb_pipes", &[]), scrape.count("lb_pipes_exhausted_total", &[]));
        assert!(pipes > 0 && exhausted == 0, "{pipes} pipes, {exhausted} chunks copied");
    }
}

/// A process that has all pages which pipes of the user may have.
#[track_caller]
fn take_all(net: &Net) -> Process {
    let others = net.balancer.spawn(Command::new("python3").args(["-c", TAKES_ALL, USERS[0]]));
    until("all pages to be taken", || others.stdout() == ["all taken"]);
    others
}

/// What starts a program as a user without privileges.
fn as_user(user: &str) -> [&str; 7] {
    ["setpriv", "--reuid", user, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]
}

/// Pipes of many flows that have ended are closed, but for four of each worker: other processes may need their pages.
#[test]
fn an_agent_that_serves_nobody_keeps_few_pipes() {
    let net = Net::new(1);
    limit_socket_buffers(&net, 64 << 10);
    let listener = net.server().listen(SERVER_PORT);
    let agent = Agent::start(&net, &tcp_config(&net, Path::Splice, "").global("workers = 2"));
    let relay = Relay { agent, listener, net };
    let pipes = || relay.agent.scrape().count("lb_pipes", &[]);
    let flows: Vec<_> = (0..16).map(|_| relay.handed_over(Path::Splice)).collect();
    std::thread::scope(|scope| {
        let fill = |(client, _): &_| send_until_blocked(client, 1, Duration::from_secs(2));
        flows.iter().for_each(|flow| drop(scope.spawn(move || fill(flow))));
    });
    until("each flow to have a pipe", || pipes() >= 16);
    for (client, server) in &flows {
        finish(client);
        assert_eq!(receive_all(server).1, End::Finished);
        finish(server);
    }
    relay.agent.until_idle();
    until("the pipes to be closed", || pipes() <= 2 * 4);
    assert!(pipes() > 0);
}

/// Some megabytes both ways, as the flow with this number of its agent.
#[track_caller]
fn stream(relay: &Relay, number: u64) {
    let (client, server) = relay.pair();
    stream_both_ways(&client, &server, 32 << 20, 32 << 20);
    relay.agent.until_idle();
    // What is copied, metrics call so.
    assert_eq!(relay.agent.assert_path(Path::Auto, number), number * (64 << 20));
}
