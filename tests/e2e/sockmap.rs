// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: what only flows inside the kernel can get wrong.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_at_most, receive_exactly, say, send, send_until_blocked,
};
use lb_tests::wait::{until, until_steady};

use crate::hand_over::assert_stayed;
use crate::support::{
    INSIDE, PORT, Relay, SERVER_PORT, allow_many_connections, assert_carried_so_far, assert_received,
    limit_socket_buffers, tcp_config,
};

/// A message that waits in the client's socket when the flow is handed over is delivered at once, without another one behind it.
#[test]
fn what_waits_at_the_hand_over_needs_no_further_segment() {
    let relay = Relay::start(Path::Sockmap);
    for round in 0..size(50, 1_000_u32) {
        let client = relay.client();
        say(&client, &round.to_be_bytes());
        let server = relay.listener.accept();
        assert_eq!(receive_exactly(&server, 4), round.to_be_bytes());
        say(&server, b"answer");
        assert_eq!(receive_exactly(&client, 6), b"answer");
    }
    relay.agent.until_idle();
    relay.agent.assert_inside(100);
}

/// Redirected messages wake nobody: not one wake-up a thousand messages.
#[test]
fn messages_wake_the_agent_for_accounting_alone() {
    let relay = Relay::start(Path::Sockmap);
    let (client, server) = relay.pair();
    let messages = size(50_000, 100_000_u64);
    let wakeups = || relay.agent.scrape().count("lb_worker_wakeups_total", &[]);
    say(&client, b"begin");
    assert_eq!(receive_exactly(&server, 5), b"begin");
    let (before, begin) = (wakeups(), std::time::Instant::now());
    for _ in 0..messages / 2 {
        say(&client, &[1; 64]);
        receive_exactly(&server, 64);
        say(&server, &[2; 64]);
        receive_exactly(&client, 64);
    }
    // Looks at a flow that moves, and timers of the agent's own, come by the second; two of each, for two workers.
    let periodic = (begin.elapsed().as_secs() + 2) * 8;
    let woken = wakeups() - before;
    assert!(
        woken < messages / 1000 + periodic,
        "{woken} wake-ups for {messages} messages, {periodic} periodic"
    );
    // An open flow may not be counted yet.
    drop((client, server));
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
}

/// Both ends send and neither reads: both are held up, and nothing is lost once they read.
#[test]
fn two_readers_that_stop_lose_nothing() {
    let relay = Relay::with(Path::Sockmap, INSIDE);
    let (client, server) = relay.handed_over(Path::Sockmap);
    let calm = Duration::from_secs(1);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send_until_blocked(&client, 1, calm));
        let down = scope.spawn(|| send_until_blocked(&server, 2, calm));
        let (up, down) = (up.join().expect("no panic"), down.join().expect("no panic"));
        // What waits in the agent's sockets when the ends come is spliced.
        assert_carried_so_far(&relay.agent, Path::Sockmap, 128 << 10);
        finish(&client);
        finish(&server);
        let reader = scope.spawn(|| receive(&client, 2));
        assert_received(&receive(&server, 1), up, End::Finished);
        assert_received(&reader.join().expect("no panic"), down, End::Finished);
    });
    assert_eq!(relay.close_reason(), "finished");
}

/// A stream to a reader that keeps up goes inside the kernel, and so does its end.
#[test]
fn a_stream_stays_inside_the_kernel() {
    let net = Net::new(1);
    // As Linux has them by default: what a larger one can hold when a direction goes on may be too much for the kernel at once.
    limit_socket_buffers(&net, 6 << 20);
    let relay = Relay::over(net, Path::Sockmap, INSIDE);
    let bytes = size(256 << 20, 4 << 30);
    for (up, down) in [(bytes, 0), (0, bytes)] {
        let (client, server) = relay.pair();
        std::thread::scope(|scope| {
            for (stream, seed, bytes) in [(&client, 1, up), (&server, 2, down)] {
                scope.spawn(move || send(stream, seed, bytes).expect("a reader that keeps up"));
            }
            let reader = scope.spawn(|| receive_at_most(&client, 2, down));
            assert_received(&receive_at_most(&server, 1, up), up, End::Silent);
            assert_received(&reader.join().expect("no panic"), down, End::Silent);
        });
        finish(&client);
        finish(&server);
    }
    relay.agent.until_idle();
    relay.agent.assert_inside(100);
}

/// Clients and servers that send, end or wait at any moment around the hand-over. Afterwards nothing is left of them.
#[test]
fn flows_that_race_the_hand_over_are_exact_and_leave_nothing() {
    let net = Net::new(1);
    allow_many_connections(&net);
    let relay = Relay::over(net, Path::Sockmap, "");
    // It is ready as soon as it listens; its workers may still be opening what they need.
    let open = || relay.agent.process.descriptors();
    let descriptors = until_steady("what an idle agent has open", Duration::from_millis(500), open);
    let mut random = Random::new(7);
    let flows = size(200, 10_000);
    for _ in 0..flows {
        let [up, down] = [(); 2].map(|()| {
            let scale = random.below(18);
            random.below(1 << scale) as u64
        });
        let (client, server_first) = (relay.client(), random.below(2) == 0);
        std::thread::scope(|scope| {
            let client = &client;
            scope.spawn(move || {
                send(client, 1, up).expect("the server reads");
                finish(client);
            });
            let server = relay.listener.accept();
            let answer = |server: &TcpStream| {
                send(server, 2, down).expect("the client reads");
                finish(server);
            };
            let reader = scope.spawn(move || receive(client, 2));
            if server_first {
                answer(&server);
            }
            assert_received(&receive(&server, 1), up, End::Finished);
            if !server_first {
                answer(&server);
            }
            assert_received(&reader.join().expect("no panic"), down, End::Finished);
        });
    }
    let records = relay.agent.until_records(flows);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    relay.agent.until_idle();
    // The others had begun to end before.
    assert_stayed(&relay.agent, Path::Sockmap, flows as u64, 4);
    let scrape = relay.agent.scrape();
    assert_eq!(scrape.count("lb_sockmap_memory_bytes", &[]), 0);
    // Of pipes a few stay, for who comes next, and a connection to the admin surface may.
    let most = descriptors + 2 * scrape.count("lb_pipes", &[]) as usize + 1;
    until("descriptors to be given back", || open() <= most);
}

/// When the second end resets, too, nobody is left to wait for.
#[test]
fn two_resets_end_a_flow_at_once() {
    let relay = Relay::with(Path::Sockmap, INSIDE);
    let (client, server) = relay.handed_over(Path::Sockmap);
    send_until_blocked(&client, 1, Duration::from_millis(500));
    assert_carried_so_far(&relay.agent, Path::Sockmap, 64 << 10);
    lb_tests::stream::reset(client);
    // The agent hears of them one after the other.
    std::thread::sleep(Duration::from_millis(100));
    let begin = std::time::Instant::now();
    lb_tests::stream::reset(server);
    assert_eq!(relay.close_reason(), "client-reset");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

/// A client on the balancer itself could outrun it: user space carries what it sends.
#[test]
fn a_client_on_the_same_host_is_carried_in_user_space() {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let agent = Agent::start(&net, &tcp_config(&net, Path::Sockmap, ""));
    let client = net.balancer.connect(net.frontend(PORT));
    say(&client, b"request");
    assert_eq!(receive_exactly(&listener.accept(), 7), b"request");
    assert_eq!(agent.scrape().count("lb_path_fallbacks_total", &[("reason", "local-peer")]), 1);
}

/// Where the path is required and cannot be had, the connection is refused, loudly.
#[test]
fn a_required_path_that_is_off_refuses() {
    let net = Net::new(1);
    let _listener = net.server().listen(SERVER_PORT);
    let config = tcp_config(&net, Path::Sockmap, INSIDE);
    let agent = Agent::launch(&net).unprivileged().start(&config);
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "path-unavailable");
}
