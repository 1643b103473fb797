// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: where there is no room or no port, flows are carried in user space and counted; ports that were used before lead to new flows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::agent::{Record, admin};
use lb_tests::config::Path;
use lb_tests::net::{Namespace, Net, try_connect_here};
use lb_tests::peer::Service;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, receive_exactly, reset, say};
use lb_tests::wait::{PATIENCE, until, until_some};
use socket2::{Domain, Socket, Type};

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};
use crate::support::{allow_many_connections, stream_both_ways};

on_both_families! {
    who_finds_no_port_is_carried_in_user_space,
    ports_that_the_kernel_gives_to_others_turn_the_path_off,
    who_finds_no_room_is_carried_in_user_space,
    a_client_that_has_vanished_may_come_back_from_the_same_port,
    ports_that_the_server_remembers_lead_to_new_flows,
}

/// What goes each way in user space.
const BYTES: u64 = 1 << 20;

/// Everything of a flow that is not for the path, and its end.
#[track_caller]
fn is_exact_beside(lab: &Lab, records: usize) {
    let beside = lab.bytes_beside();
    let flow = Spliced::from(lab.pair());
    (0..20).for_each(|_| flow.ping());
    stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
    let told = lab.agent.until_records(records);
    let of_flow = told.iter().filter(|record| record.text("path") != "packet");
    assert!(of_flow.clone().count() > 0 && of_flow.clone().all(|record| record.close() == "finished"));
    assert_eq!(lab.bytes_beside() - beside, 2 * (20 + BYTES));
}

fn who_finds_no_port_is_carried_in_user_space(family: Family) {
    let lines = Lines { global: "packet-ports = \"61000-61001\"", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    let flows: [_; 2] = lab.spliced_flows();
    let ports = flows.each_ref().map(|flow| flow.server.peer_addr().expect("connected").port());
    assert_eq!(ports, [61_000, 61_001]);
    is_exact_beside(&lab, 1);
    lab.assert_refused(&[("no-port", 1)]);
    // They go on, and when they have ended for good, their ports are free for others.
    flows.iter().for_each(Spliced::ping);
    flows.iter().for_each(Spliced::end);
    until("a port to be free", || {
        let flow = Spliced::from(lab.pair());
        let port = flow.server.peer_addr().expect("connected").port();
        let is_free = ports.contains(&port);
        if is_free {
            lab.until_spliced(slice::from_ref(&flow));
        }
        flow.end();
        is_free
    });
}

fn ports_that_the_kernel_gives_to_others_turn_the_path_off(family: Family) {
    let net = Net::new(1);
    net.balancer.sysctl("net/ipv4/ip_local_port_range", "32768 60999");
    let lab = Lab::with(net, family, Lines { global: "packet-ports = \"60990-61100\"", ..Lines::default() });
    let off = lab.agent.scrape().value("lb_path_available", &[("path", "packet"), ("reason", "ports")]);
    assert_eq!(off.to_bits(), 0_f64.to_bits());
    is_exact_beside(&lab, 1);
    lab.assert_refused(&[("unavailable", 1)]);
}

/// As many flows as there may be connections; one that has ended keeps its place for a while.
fn who_finds_no_room_is_carried_in_user_space(family: Family) {
    let lines = Lines { global: "max-connections = 3", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    let flows: [_; 3] = lab.spliced_flows();
    flows.iter().for_each(Spliced::end);
    lab.agent.until_records(3);
    is_exact_beside(&lab, 4);
    lab.assert_refused(&[("full", 1)]);
    // Late segments of those that have ended have come at some time, and their places are free.
    let refused = || lab.agent.scrape().count("lb_path_fallbacks_total", &[("reason", "full")]);
    until("room for a flow", || {
        let (before, away) = (refused(), lab.agent.own_flows(Path::Packet));
        let flow = Spliced::from(lab.pair());
        let has_room = until_some("the flow to leave or to be refused", || {
            flow.ping();
            let has_left = lab.agent.own_flows(Path::Packet) > away;
            (has_left || refused() > before).then_some(has_left)
        });
        flow.end();
        has_room
    });
}

/// Its reset is lost, as when it loses its power; then it begins anew with the same port, and the flow is still there. The server tells that it
/// knows nothing of that, the client resets the old connection by this, and tries again (RFC 9293 section 3.5.1, figure 9).
fn a_client_that_has_vanished_may_come_back_from_the_same_port(family: Family) {
    let lab = Lab::start(family);
    let Spliced { client, server } = lab.spliced();
    let own = client.local_addr().expect("connected");
    let route = |verb: &str| {
        let balancer = lab.address().ip().to_string();
        let mut command = Command::new("ip");
        lab.net.client.run(command.args([family.flag(), "route", verb, "blackhole", &balancer]));
    };
    route("add");
    reset(client);
    route("del");
    let again = connect_from(&lab.net.client, own, lab.address());
    let flow = Spliced { client: again, server: lab.listener.accept() };
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    lab.until_spliced(slice::from_ref(&flow));
    stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
    lab.assert_closes(&["client-reset", "finished"]);
    lab.agent.assert_share(Path::Packet, 99);
}

/// A connection from this address of a namespace.
pub(crate) fn connect_from(place: &Namespace, own: SocketAddr, to: SocketAddr) -> TcpStream {
    let connected = place.enter(|| {
        let socket = Socket::new(Domain::for_address(own), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&own.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_tcp_nodelay(true)?;
        Ok::<_, std::io::Error>(TcpStream::from(socket))
    });
    connected.unwrap_or_else(|error| panic!("cannot connect from {own}: {error}"))
}

/// The server ends each flow, and remembers it for a minute (TIME_WAIT). A new one from the same port of the balancer's is taken for new by its
/// time and number (RFC 6191 section 2), which are behind those that the programs have written. Ports come by turns, so that only some thousand are
/// used again within that minute: a large range is gone through in parts.
fn ports_that_the_server_remembers_lead_to_new_flows(family: Family) {
    let (parts, ports, racers) = size((1, 500, 16), (10, 5_500, 64));
    for part in 0..parts {
        use_ports_twice(family, 10_000 + part * ports, ports, racers);
    }
}

/// One use of a port of the balancer's, as the server saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    port: u16,
    begun: Instant,
    ended: Instant,
    /// The client's port.
    client: u16,
}

/// Lets so many clients at a time use each of so many ports twice.
#[track_caller]
fn use_ports_twice(family: Family, first: u16, ports: u16, racers: usize) {
    let net = Net::new(1);
    allow_many_connections(&net);
    net.balancer.sysctl("net/ipv4/ip_local_port_range", "2000 9999");
    // Who asks the agent before it listens would get a connection with itself, if the kernel gave it this port.
    net.balancer.sysctl("net/ipv4/ip_local_reserved_ports", &admin().port().to_string());
    let global = format!("packet-ports = \"{first}-{}\"", first + ports - 1);
    let lab = Lab::with(net, family, Lines { global: &global, ..Lines::default() });
    let (address, reuses) = (lab.address(), usize::from(ports));
    let flows = 2 * reuses;
    let Lab { agent, listener, net, .. } = lab;
    let server = Service::start(listener, |stream| answer(&stream));
    let mut uses = thread::scope(|scope| {
        for racer in 0..racers {
            let net = &net;
            scope.spawn(move || {
                net.client.enter(|| (racer..flows).step_by(racers).for_each(|_| talk(address)));
            });
        }
        (0..flows).map(|_| server.outcome()).collect::<Vec<_>>()
    });
    let records = agent.until_records(flows);
    let others: Vec<_> = records.iter().filter(|record| record.close() != "finished").collect();
    assert!(others.is_empty(), "{others:?}");
    let by_packet = uses_by_packet(&uses, &records);
    uses.sort();
    let is_remembered = |pair: &&[Use]| {
        pair[0].port == pair[1].port && pair[1].begun - pair[0].ended < Duration::from_secs(60)
    };
    let remembered: Vec<Use> = uses.windows(2).filter(is_remembered).map(|pair| pair[1]).collect();
    let away = remembered.iter().filter(|again| by_packet.contains(again)).count();
    let (all, remembered) = (by_packet.len(), remembered.len());
    println!(
        "{all} of {flows} flows left the agent, {remembered} ports were remembered, {away} of these flows left"
    );
    assert!(remembered * 10 >= reuses * 9, "{remembered} of {reuses} ports were remembered");
    assert!(all * 2 >= flows, "{all} of {flows} flows left the agent");
    assert!(
        away * 2 >= reuses,
        "{away} of {remembered} flows from ports that were remembered left the agent"
    );
    until_nothing_left(&agent);
}

/// The uses whose flow has ended on the path. A client's port has its own uses one after the other, and so has the log.
fn uses_by_packet(uses: &[Use], records: &[Record]) -> BTreeSet<Use> {
    let mut by_client: BTreeMap<u16, Vec<Use>> = BTreeMap::new();
    uses.iter().for_each(|one| by_client.entry(one.client).or_default().push(*one));
    by_client.values_mut().for_each(|uses| uses.sort_by_key(|one| std::cmp::Reverse(one.begun)));
    let ended = records.iter().filter_map(|record| {
        let client: SocketAddr = record.text("client").parse().expect("an address");
        let one = by_client.get_mut(&client.port()).and_then(Vec::pop).expect("the server saw it");
        (record.text("path") == "packet").then_some(one)
    });
    ended.collect()
}

/// Messages each way of a flow that is to leave between them.
const PINGS: usize = 10;

fn talk(address: SocketAddr) {
    let client = try_connect_here(address).expect("a listener");
    say(&client, &client.local_addr().expect("connected").port().to_be_bytes());
    for _ in 0..PINGS {
        say(&client, b"?");
        assert_eq!(receive_exactly(&client, 1), b"!");
        thread::sleep(Duration::from_millis(12));
    }
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    finish(&client);
}

fn answer(stream: &TcpStream) -> Use {
    let (port, begun) = (stream.peer_addr().expect("connected").port(), Instant::now());
    let client = receive_exactly(stream, 2).try_into().expect("2 bytes");
    for _ in 0..PINGS {
        assert_eq!(receive_exactly(stream, 1), b"?");
        say(stream, b"!");
    }
    finish(stream);
    assert_eq!(receive_all(stream), (Vec::new(), End::Finished));
    Use { port, begun, ended: Instant::now(), client: u16::from_be_bytes(client) }
}
