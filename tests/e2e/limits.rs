// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits on open connections: in all, by frontend, by server.

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::peer::{ask, echo};
use lb_tests::stream::{End, receive_exactly, say};

use crate::support::{PORT, SERVER_PORT};

/// How long a connection must stay waiting, to count as not served.
const WAITING: Duration = Duration::from_secs(1);

#[test]
fn the_total_limit_lets_clients_wait_until_others_leave() {
    let net = Net::new(1);
    let config = Config::new().global("max-connections = 3");
    let config = two_frontends(&net, config, "");
    let first = net.frontend(PORT);
    waits_for_room(&net, &config, [first, net.frontend(PORT + 1), first], net.frontend(PORT + 1));
}

#[test]
fn the_limit_of_a_frontend_lets_its_clients_wait() {
    let net = Net::new(1);
    let config = two_frontends(&net, Config::new(), "max-connections = 3");
    let full = net.frontend(PORT);
    let agent = waits_for_room(&net, &config, [full; 3], full);
    // The other frontend has no limit.
    let others: Vec<_> = (0..10).map(|_| net.client.connect(net.frontend(PORT + 1))).collect();
    let _server = echo(net.server(), SERVER_PORT);
    for other in &others {
        assert_eq!(ask(other, b"x"), b"x");
    }
    drop(agent);
}

#[test]
fn a_full_server_passes_connections_on_to_others() {
    let net = Net::new(2);
    let config = Config::new()
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", "")
        .server("pool", "small", net.servers[0].address(SERVER_PORT), "max-connections = 2")
        .server("pool", "large", net.servers[1].address(SERVER_PORT), "");
    let agent = Agent::start(&net, &config);
    let _servers: Vec<_> = net.servers.iter().map(|place| echo(place, SERVER_PORT)).collect();
    let clients: Vec<_> = (0..10).map(|_| net.client.connect(net.frontend(PORT))).collect();
    for client in &clients {
        say(client, b"x");
        assert_eq!(receive_exactly(client, 1), b"x");
    }
    let active = |name| agent.scrape().count("lb_server_connections_active", &[("server", name)]);
    assert_eq!((active("small"), active("large")), (2, 8));
}

#[test]
fn full_servers_turn_clients_away_loudly() {
    let net = Net::new(1);
    let config = Config::new()
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", "max-queue = 0")
        .server("pool", "small", net.server().address(SERVER_PORT), "max-connections = 2");
    let agent = Agent::start(&net, &config);
    let listener = net.server().listen(SERVER_PORT);
    let clients = [(); 2].map(|()| net.client.connect(net.frontend(PORT)));
    let servers = [(); 2].map(|()| listener.accept());
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "servers-full");
    drop((clients, servers));
    agent.until_idle();
    let _fourth = net.client.connect(net.frontend(PORT));
    listener.accept();
}

/// Fills the room for three connections; a fourth must wait, and be served with all its bytes when another leaves.
fn waits_for_room(net: &Net, config: &Config, clients: [SocketAddr; 3], fourth: SocketAddr) -> Agent {
    let agent = Agent::start(net, config);
    let listener = net.server().listen(SERVER_PORT);
    let mut open: Vec<_> =
        clients.map(|frontend| (net.client.connect(frontend), listener.accept())).into_iter().collect();
    let waiting = net.client.connect(fourth);
    say(&waiting, b"my turn?");
    assert!(listener.accept_within(WAITING).is_none(), "a fourth connection was served");
    assert_eq!(agent.scrape().count("lb_frontend_connections_active", &[]), 3);
    drop(open.pop());
    let server = listener.accept();
    assert_eq!(receive_exactly(&server, 8), b"my turn?");
    drop((open, waiting, server));
    agent.until_idle();
    agent
}

/// On two ports, in front of the same server.
fn two_frontends(net: &Net, config: Config, first_lines: &str) -> Config {
    config
        .tcp("first", net.frontend(PORT), "out", first_lines)
        .tcp("second", net.frontend(PORT + 1), "out", "")
        .backend("out", net.server().address(SERVER_PORT), "")
}
