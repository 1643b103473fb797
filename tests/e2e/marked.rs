// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of sessions when checks mark servers down and up.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Listener, Net};
use lb_tests::peer::{Service, echo};
use lb_tests::stream::{End, receive_all, receive_exactly, say};

use crate::support::{PORT, SERVER_PORT, assert_carried};

/// The port that checks go to, so that a server can be marked down while it serves.
const CHECK_PORT: u16 = 7000;

on_all_paths! {
    sessions_of_a_server_that_is_marked_down_end_if_they_shall,
    sessions_on_backups_end_when_the_server_is_back_if_they_shall,
}

/// A frontend in front of a server at the first address and a backup at the second, each with these lines.
fn start(net: &Net, path: Path, server_lines: &str, backup_lines: &str) -> Agent {
    let check = format!(
        "check = {{ type = \"tcp\", port = {CHECK_PORT}, interval = \"100ms\", rise = 1, fall = 1 }}"
    );
    let config = Config::new()
        .path(path)
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", &check)
        .server("pool", "main", net.servers[0].address(SERVER_PORT), server_lines)
        .server(
            "pool",
            "spare",
            net.servers[1].address(SERVER_PORT),
            &format!("backup = true\n{backup_lines}"),
        );
    Agent::start(net, &config)
}

/// Answers the checks of a server until it is dropped.
fn healthy(net: &Net, index: usize) -> Service<()> {
    echo(&net.servers[index], CHECK_PORT)
}

fn up(agent: &Agent, server: &str, is_up: u64) {
    agent.until_count("lb_server_up", &[("server", server)], is_up);
}

/// A connection that carries bytes both ways.
fn session(net: &Net, listener: &Listener) -> (TcpStream, TcpStream) {
    let (client, server) = (net.client.connect(net.frontend(PORT)), listener.accept());
    still_talks(&(client, server))
}

fn still_talks(session: &(TcpStream, TcpStream)) -> (TcpStream, TcpStream) {
    let (client, server) = session;
    for (from, to) in [(client, server), (server, client)] {
        say(from, b"still there");
        assert_eq!(receive_exactly(to, 11), b"still there");
    }
    (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"))
}

fn assert_cut((client, server): &(TcpStream, TcpStream)) {
    assert_eq!(receive_all(client), (Vec::new(), End::Reset));
    assert_eq!(receive_all(server), (Vec::new(), End::Reset));
}

fn sessions_of_a_server_that_is_marked_down_end_if_they_shall(path: Path) {
    let net = Net::new(2);
    // From the first check on: the first failure takes a server down.
    let (main_health, spare_health) = (healthy(&net, 0), healthy(&net, 1));
    let agent = start(&net, path, "on-marked-down = \"shutdown-sessions\"", "");
    let [main, spare] = [0, 1].map(|index| net.servers[index].listen(SERVER_PORT));
    let sessions = [session(&net, &main), session(&net, &main)];
    drop(main_health);
    sessions.iter().for_each(assert_cut);
    for record in agent.until_records(2) {
        assert_eq!((record.close(), record.text("termination")), ("server-down", "DD"));
        assert_eq!((record.number("received_bytes"), record.number("sent_bytes")), (11, 11));
    }
    // The backup's keep theirs: that is the default.
    let kept = session(&net, &spare);
    drop(spare_health);
    up(&agent, "spare", 0);
    std::thread::sleep(Duration::from_millis(300));
    still_talks(&kept);
    assert_eq!(agent.scrape().count("lb_server_connections_active", &[("server", "spare")]), 1);
    assert_carried(&agent, path, 3);
}

fn sessions_on_backups_end_when_the_server_is_back_if_they_shall(path: Path) {
    let net = Net::new(2);
    let _spare_health = healthy(&net, 1);
    let agent = start(&net, path, "on-marked-up = \"shutdown-backup-sessions\"", "");
    let [main, spare] = [0, 1].map(|index| net.servers[index].listen(SERVER_PORT));
    up(&agent, "main", 0);
    let relieved = session(&net, &spare);
    let _main_health = healthy(&net, 0);
    assert_cut(&relieved);
    let record = &agent.until_records(1)[0];
    assert_eq!((record.close(), record.text("termination")), ("active-server-up", "UD"));
    up(&agent, "main", 1);
    still_talks(&session(&net, &main));
    assert_carried(&agent, path, 2);
}
