// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a flow is carried across: FIN, half-close and RST, both ways, also when a process is killed.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients::curl_command;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::kernel::named_sockets;
use lb_tests::net::Net;
use lb_tests::process::Process;
use lb_tests::servers::{Nginx, ZEROS};
use lb_tests::stream::{
    End, Received, finish, receive, receive_all, receive_at_most, receive_exactly, reset, say, send,
    send_until_blocked,
};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    PORT, Relay, SERVER_PORT, assert_carried, assert_carried_so_far, assert_received, greet, required,
    tcp_config,
};

/// What is sent to one who has ended: less than may wait inside the kernel before a direction pauses, for behind an end none can go on there.
const ANSWER: u64 = 2_000_000;

/// What has been delivered, at least, when a sender is blocked whose receiver does not read.
const BLOCKED: u64 = 64 << 10;

on_all_paths! {
    half_close_reaches_the_server,
    half_close_reaches_the_client,
    a_connection_without_a_byte_ends_cleanly,
    reset_by_the_client_reaches_the_server,
    reset_by_the_server_reaches_the_client,
    reset_arrives_while_the_other_direction_is_blocked,
    reset_after_a_half_close_arrives,
    a_killed_server_ends_as_it_would_directly,
    a_killed_server_with_unread_bytes_ends_as_it_would_directly,
    curl_reports_an_error_when_nginx_is_killed,
    a_killed_agent_resets_both_ends,
}

fn half_close_reaches_the_server(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.handed_over(path);
    say(&client, b"request");
    finish(&client);
    assert_eq!(receive_all(&server), (b"request".to_vec(), End::Finished));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&server, 1, ANSWER).expect("the client reads");
            finish(&server);
        });
        assert_received(&receive(&client, 1), ANSWER, End::Finished);
    });
    assert_eq!(relay.close_reason(), "finished");
    assert_eq!(relay.agent.assert_own_path(path, 1), ANSWER + 9);
    relay.agent.assert_share(path, 99);
}

fn half_close_reaches_the_client(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.handed_over(path);
    say(&server, b"banner");
    finish(&server);
    assert_eq!(receive_all(&client), (b"banner".to_vec(), End::Finished));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, 1, ANSWER).expect("the server reads");
            finish(&client);
        });
        assert_received(&receive(&server, 1), ANSWER, End::Finished);
    });
    assert_eq!(relay.close_reason(), "finished");
    assert_eq!(relay.agent.assert_own_path(path, 1), ANSWER + 8);
    relay.agent.assert_share(path, 99);
}

fn a_connection_without_a_byte_ends_cleanly(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.pair();
    if path == Path::Sockmap {
        // No byte could show which way the flow goes.
        until("the flow to be handed over", || named_sockets(&relay.agent.process) == 2);
    }
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    assert_eq!(relay.close_reason(), "finished");
}

fn reset_by_the_client_reaches_the_server(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.handed_over(path);
    say(&client, b"request");
    assert_eq!(receive_exactly(&server, 7), b"request");
    reset(client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "client-reset");
    assert_carried(&relay.agent, path, 1);
}

fn reset_by_the_server_reaches_the_client(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.handed_over(path);
    say(&server, b"banner");
    assert_eq!(receive_exactly(&client, 6), b"banner");
    reset(server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "server-reset");
    assert_carried(&relay.agent, path, 1);
}

/// The client does not read, so that the agent holds bytes for it that nobody takes; its RST must not wait behind them.
fn reset_arrives_while_the_other_direction_is_blocked(path: Path) {
    let relay = Relay::with(path, required(path));
    let (client, server) = relay.handed_over(path);
    send_until_blocked(&server, 1, Duration::from_millis(500));
    assert_carried_so_far(&relay.agent, path, BLOCKED);
    reset(client);
    assert_eq!(receive_all(&server).1, End::Reset);
    assert_eq!(relay.close_reason(), "client-reset");
}

fn reset_after_a_half_close_arrives(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.handed_over(path);
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    reset(server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    assert_eq!(relay.close_reason(), "server-reset");
    assert_carried(&relay.agent, path, 1);
}

/// All bytes that the server's kernel had taken arrive, and then its FIN.
fn a_killed_server_ends_as_it_would_directly(path: Path) {
    kill_a_sender(path, b"", |received, taken| assert_received(received, taken, End::Finished));
}

/// A server that dies with bytes unread resets the connection (RFC 1122 section 4.2.2.13): some of its bytes are lost in the
/// kernels, but what arrives is exact and the end is loud.
fn a_killed_server_with_unread_bytes_ends_as_it_would_directly(path: Path) {
    kill_a_sender(path, b"never read", |received, taken| {
        assert_eq!((received.wrong_at, received.end), (None, End::Reset));
        assert!(received.bytes <= taken, "{} of {taken}", received.bytes);
    });
}

/// Kills a server that has sent until it was blocked and has not read `message`, once without the agent and once behind it. `check` is given
/// what its client receives from then on, and how many bytes the server's kernel had taken.
fn kill_a_sender(path: Path, message: &[u8], check: impl Fn(&Received, u64)) {
    let net = Net::new(1);
    let agent = Agent::start(&net, &tcp_config(&net, path, required(path)));
    let directly = net.server().address(SERVER_PORT);
    for address in [directly, net.frontend(PORT)] {
        let (mut sender, client) = blocked_sender(&net, address, message);
        if address != directly {
            // What waits in the agent's socket when the end comes is spliced.
            assert_carried_so_far(&agent, path, BLOCKED);
        }
        sender.signal(Signal::KILL);
        sender.wait();
        check(&receive(&client, 1), sender.stdout()[1].parse().expect("a count of bytes"));
    }
    agent.assert_own_path(path, 1);
}

/// Starts a server process that sends until it is blocked, connects to `address`, sends it a message that it does not read, and waits until it
/// is blocked. Returns the process and the client's end.
fn blocked_sender(net: &Net, address: SocketAddr, message: &[u8]) -> (Process, TcpStream) {
    let port = SERVER_PORT.to_string();
    let sender = net.server().spawn(Command::new(env!("CARGO_BIN_EXE_lb-peer")).arg(&port));
    until("the sender to listen", || sender.stdout_lines() == 1);
    let client = net.client.connect(address);
    say(&client, message);
    until("the sender to be blocked", || sender.stdout_lines() == 2);
    (sender, client)
}

fn curl_reports_an_error_when_nginx_is_killed(path: Path) {
    let net = Net::new(1);
    let authority = Authority::new();
    let mut nginx = Nginx::start(net.server(), &authority.issue("alpha.example"));
    let config = Config::new()
        .path(path)
        .passthrough("tls", &[net.frontend(PORT)], "")
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(443), &format!("send-proxy = \"v2\"\n{}", required(path)));
    let agent = Agent::start(&net, &config);
    let mut command = curl_command(&authority, "alpha.example", net.frontend(PORT), "/zeros");
    let mut curl = net.client.spawn(command.args(["--output", "/dev/null"]));
    assert_carried_so_far(&agent, path, ZEROS / 50);
    nginx.kill();
    let code = curl.wait().code().expect("curl exits by itself");
    // Partial file, failure in receiving, HTTP/2 framing or stream error (curl(1), EXIT CODES).
    assert!([18, 56, 16, 92].contains(&code), "exit code {code}");
    agent.assert_own_path(path, 1);
}

fn a_killed_agent_resets_both_ends(path: Path) {
    let net = Net::new(1);
    let config = tcp_config(&net, path, required(path))
        .passthrough("tls", &[net.frontend(PORT + 1)], "client-hello-timeout = \"30s\"")
        .route("tls", "alpha.example", "out");
    let listener = net.server().listen(SERVER_PORT);
    let agent = Agent::start(&net, &config);
    let pair = || (net.client.connect(net.frontend(PORT)), listener.accept());

    let quiet = pair();
    let busy = pair();
    let half_closed = pair();
    // Whoever ends before the hand-over is refused where the path is required.
    greet(&half_closed.0, &half_closed.1);
    finish(&half_closed.0);
    assert_eq!(receive_all(&half_closed.1), (Vec::new(), End::Finished));
    let without_hello = net.client.connect(net.frontend(PORT + 1));
    say(&without_hello, &Hello::named("alpha.example").wire()[..500]);
    agent.until_count("lb_frontend_connections_active", &[], 4);

    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&busy.0, 1, u64::MAX).expect_err("nobody can take so much"));
        assert_received(&receive_at_most(&busy.1, 1, 10_000_000), 10_000_000, End::Silent);
        assert_carried_so_far(&agent, path, 10_000_000);
        agent.process.signal(Signal::KILL);
        let end = receive_all(&busy.1).1;
        assert_eq!(end, End::Reset);
        sender.join().expect("no panic");
    });
    for stream in [&quiet.0, &quiet.1, &half_closed.0, &without_hello] {
        assert_eq!(receive_all(stream), (Vec::new(), End::Reset));
    }
    let mut server = &half_closed.1;
    until("RST at the server that had seen a FIN", || std::io::Write::write(&mut server, b"x").is_err());
}
