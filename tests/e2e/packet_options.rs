// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: what both ends agree on in their handshakes with the balancer. Where it is the same, or can be translated, the flow leaves;
//! where it is not, the flow stays, the metric says why, and every byte arrives all the same.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::{Namespace, Net};
use lb_tests::size;
use lb_tests::stream::receive_exactly;
use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::support::{SERVER_PORT, stream_both_ways};

on_both_families! {
    options_that_are_the_same_are_no_obstacle,
    what_the_client_lacks_is_offered_to_no_server,
    timestamps_of_the_client_alone_are_an_obstacle,
    selective_acknowledgements_of_the_client_alone_are_an_obstacle,
    congestion_notification_of_the_client_alone_is_an_obstacle,
    bytes_in_a_syn_are_an_obstacle,
    bytes_in_a_syn_are_an_obstacle_before_the_handshake_is_over,
    windows_are_scaled_from_any_to_any,
    packets_of_any_size_on_both_legs_are_no_obstacle,
    links_that_differ_need_no_message_of_a_router,
    clients_are_told_of_narrower_servers,
    a_smaller_segment_size_of_the_server_alone_is_an_obstacle,
    clients_of_multipath_tcp_are_no_obstacle,
    an_agent_that_is_to_speak_multipath_tcp_speaks_plain_tcp,
}

/// A part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Client,
    Balancer,
    Server,
}
use Place::{Balancer, Client, Server};

impl Place {
    fn of(self, net: &Net) -> &Namespace {
        match self {
            Client => &net.client,
            Balancer => &net.balancer,
            Server => net.server(),
        }
    }
}

const TIMESTAMPS: &str = "tcp_timestamps";
const SACK: &str = "tcp_sack";
const SCALING: &str = "tcp_window_scaling";
const ECN: &str = "tcp_ecn";

/// A setting of a place (ip-sysctl.rst).
type Setting<'a> = (Place, &'a str, &'a str);

/// A new flow, whose handshakes go by these settings; afterwards they are as before.
#[track_caller]
fn pair_with(lab: &Lab, settings: &[Setting<'_>]) -> Spliced {
    let set = |&(place, key, value): &Setting<'_>| {
        let (place, key) = (place.of(&lab.net), format!("net/ipv4/{key}"));
        let before = place.enter(|| std::fs::read_to_string(format!("/proc/sys/{key}")));
        place.sysctl(&key, value);
        (place, key, before.expect("a setting"))
    };
    let before: Vec<_> = settings.iter().map(set).collect();
    let flow = Spliced::from(lab.pair());
    before.iter().for_each(|(place, key, value)| place.sysctl(key, value.trim()));
    flow
}

/// With each of these settings, a flow leaves the agent and is exact.
#[track_caller]
fn leave(family: Family, rows: &[&[Setting<'_>]]) {
    let lab = Lab::start(family);
    let flows: Vec<_> = rows.iter().map(|settings| pair_with(&lab, settings)).collect();
    leave_and_are_exact(&lab, &flows);
}

#[track_caller]
fn leave_and_are_exact(lab: &Lab, flows: &[Spliced]) {
    lab.until_spliced(flows);
    let beside = lab.bytes_beside();
    converse(flows);
    lab.assert_ended(flows.len(), "finished");
    lab.assert_refused(&[]);
    assert_eq!(lab.bytes_beside(), beside, "bytes that came after the flows had left");
}

/// With each of these settings, a flow stays, for this reason alone, and is exact.
#[track_caller]
fn stay(family: Family, rows: &[&[Setting<'_>]], reason: &str) {
    let lab = Lab::start(family);
    let flows: Vec<_> = rows.iter().map(|settings| pair_with(&lab, settings)).collect();
    stay_and_are_exact(&lab, &flows, reason);
}

#[track_caller]
fn stay_and_are_exact(lab: &Lab, flows: &[Spliced], reason: &str) {
    converse(flows);
    let records = lab.agent.until_records(flows.len());
    for record in &records {
        assert!(record.close() == "finished" && record.text("path") != "packet", "{record:?}");
    }
    let count = flows.len() as u64;
    lab.assert_refused(&[(reason, count)]);
    let all = lab.agent.scrape().count("lb_path_bytes_total", &[]);
    assert_eq!((lab.bytes_beside(), all), (all, 2 * bytes() * count));
}

/// What goes each way.
fn bytes() -> u64 {
    size(4 << 20, 256 << 20)
}

/// Short messages, then streams, and an end.
#[track_caller]
fn converse(flows: &[Spliced]) {
    const PINGS: u64 = 50;
    for flow in flows {
        (0..PINGS).for_each(|_| flow.ping());
        stream_both_ways(&flow.client, &flow.server, bytes() - PINGS, bytes() - PINGS);
    }
}

fn options_that_are_the_same_are_no_obstacle(family: Family) {
    leave(
        family,
        &[
            &[(Balancer, TIMESTAMPS, "0")],
            &[(Client, TIMESTAMPS, "0"), (Server, TIMESTAMPS, "0")],
            &[(Balancer, SACK, "0")],
            &[(Client, SACK, "0"), (Server, SACK, "0")],
            &[(Balancer, SCALING, "0")],
            &[(Client, SCALING, "0"), (Server, SCALING, "0")],
            &[(Client, TIMESTAMPS, "0"), (Balancer, SACK, "0"), (Server, TIMESTAMPS, "0")],
            &[(Client, ECN, "1"), (Balancer, ECN, "1"), (Server, ECN, "1")],
        ],
    );
}

/// A server that has everything, and clients that lack one thing or all, as Windows lacks timestamps.
fn what_the_client_lacks_is_offered_to_no_server(family: Family) {
    leave(
        family,
        &[
            &[(Client, TIMESTAMPS, "0")],
            &[(Client, SACK, "0")],
            &[(Client, SCALING, "0")],
            &[(Client, TIMESTAMPS, "0"), (Client, SACK, "0"), (Client, SCALING, "0")],
            &[(Balancer, ECN, "1")],
            &[(Balancer, ECN, "1"), (Client, TIMESTAMPS, "0"), (Client, SACK, "0")],
        ],
    );
}

fn timestamps_of_the_client_alone_are_an_obstacle(family: Family) {
    stay(family, &[&[(Server, TIMESTAMPS, "0")]], "timestamps-differ");
}

fn selective_acknowledgements_of_the_client_alone_are_an_obstacle(family: Family) {
    stay(family, &[&[(Server, SACK, "0")]], "sack-differs");
}

/// Asked by the client, the balancer's kernel agrees; it does not ask itself unless net.ipv4.tcp_ecn is 1. Nor does a server agree whose is 0.
fn congestion_notification_of_the_client_alone_is_an_obstacle(family: Family) {
    let without = [(Client, ECN, "1"), (Balancer, ECN, "1"), (Server, ECN, "0")];
    stay(family, &[&[(Client, ECN, "1")], &without], "ecn-differs");
}

/// Connects with a byte in the SYN, if there is a cookie of the other end; asks for one if not, and sends it afterwards. `more` says how.
fn connect_with_a_byte(lab: &Lab, more: SendFlags) -> Spliced {
    /// MSG_FASTOPEN (include/linux/socket.h), which rustix does not have.
    const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
    let address = lab.address();
    let client = lab.net.client.enter(|| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
        let sent = rustix::net::sendto(&socket, b"!", FAST_OPEN | more, &address);
        assert_eq!(sent.expect("a listener"), 1);
        TcpStream::from(socket)
    });
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let server = lab.listener.accept();
    assert_eq!(receive_exactly(&server, 1), b"!");
    Spliced { client, server }
}

/// A network of which both ends know TCP Fast Open (RFC 7413): the first connection brings the client a cookie, with which the next ones send their
/// first byte in the SYN.
fn early_lab(family: Family) -> Lab {
    let net = Net::new(1);
    net.client.sysctl("net/ipv4/tcp_fastopen", "1");
    // For listeners that do not ask for it, too (ip-sysctl.rst).
    net.balancer.sysctl("net/ipv4/tcp_fastopen", "1026");
    let lab = Lab::over(net, family);
    lab.until_spliced(&[connect_with_a_byte(&lab, SendFlags::empty())]);
    lab
}

/// That a flow with bytes in its SYN stays, and carries everything.
fn stays_and_is_exact(lab: &Lab, early: &Spliced) {
    early.ping();
    assert_eq!(lab.agent.own_flows(Path::Packet), 1);
    lab.assert_refused(&[("fast-open", 1)]);
    stream_both_ways(&early.client, &early.server, bytes(), bytes());
    let ended = lab.agent.until_records(2);
    assert!(ended.iter().any(|record| record.close() == "finished" && record.text("path") != "packet"));
}

fn bytes_in_a_syn_are_an_obstacle(family: Family) {
    let lab = early_lab(family);
    stays_and_is_exact(&lab, &connect_with_a_byte(&lab, SendFlags::empty()));
}

/// Such a connection is accepted by its SYN alone: here the client hears no answer to it before the flow was looked at.
fn bytes_in_a_syn_are_an_obstacle_before_the_handshake_is_over(family: Family) {
    let lab = early_lab(family);
    let client = &lab.net.client;
    client.run(Command::new("nft").arg(
        "table inet deaf { chain in { type filter hook input priority 0;
            tcp flags & (syn | ack) == syn | ack drop; }
        }",
    ));
    let early = connect_with_a_byte(&lab, SendFlags::DONTWAIT);
    let labels = [("path", "packet"), ("reason", "fast-open")];
    lab.agent.until_count("lb_path_fallbacks_total", &labels, 1);
    client.run(Command::new("nft").args(["delete", "table", "inet", "deaf"]));
    stays_and_is_exact(&lab, &early);
}

/// A shift follows from how much a socket may receive, and from the window that its route allows (net/ipv4/tcp_output.c,
/// tcp_select_initial_window).
fn windows_are_scaled_from_any_to_any(family: Family) {
    leave(family, &[&[(Client, SCALING, "0")], &[(Server, SCALING, "0")]]);
    let lab = Lab::start(family);
    let flows = [(Client, Server, (2, 14)), (Server, Client, (14, 2))].map(|(narrow, wide, expected)| {
        // What is nearer than the default route is the link to the balancer.
        let of_link = link(&lab.net, family, narrow);
        let route = |verb: &str| {
            let mut command = Command::new("ip");
            command.args([family.flag(), "route", verb, &of_link, "dev", "uplink", "window", "131072"]);
            narrow.of(&lab.net).run(&mut command);
        };
        route("add");
        let flow = pair_with(&lab, &[(wide, "tcp_rmem", "4096 131072 536870912")]);
        let found = (shift(&lab.net.client, &flow.client), shift(lab.net.server(), &flow.server));
        assert_eq!(found, expected);
        route("del");
        flow
    });
    leave_and_are_exact(&lab, &flows);
}

/// The balancer's address on the link to an end.
fn link(net: &Net, family: Family, end: Place) -> String {
    let own = family.of(end.of(net), 0).ip().to_string();
    // Of a client and of a server it is the one before theirs.
    format!("{}1", own.strip_suffix('2').expect("an end's address"))
}

/// The shift of an end: the second that `ss` tells, which is of the windows that it announces itself.
fn shift(place: &Namespace, end: &TcpStream) -> u32 {
    let [own, peer] =
        [end.local_addr(), end.peer_addr()].map(|address| address.expect("connected").port().to_string());
    let mut command = Command::new("ss");
    command.args(["-tinH", "sport", "=", &format!(":{own}"), "and", "dport", "=", &format!(":{peer}")]);
    let said = place.run(&mut command);
    let shifts = said.split_whitespace().find_map(|word| word.strip_prefix("wscale:"));
    let own = shifts.and_then(|shifts| shifts.split_once(',')?.1.parse().ok());
    own.unwrap_or_else(|| panic!("no shift in: {said}"))
}

/// Both ends of a link take packets of so many bytes.
fn resize(net: &Net, end: Place, mtu: u16) {
    let (place, here) = match end {
        Client => (&net.client, "client"),
        Balancer | Server => (net.server(), "server0"),
    };
    for (place, interface) in [(place, "uplink"), (&*net.balancer, here)] {
        place.run(Command::new("ip").args(["link", "set", interface, "mtu", &mtu.to_string()]));
    }
}

fn packets_of_any_size_on_both_legs_are_no_obstacle(family: Family) {
    let lab = Lab::start(family);
    // In this order: what is there already goes through whatever comes.
    let flows = [1280, 1400, 9000].map(|mtu| {
        [Client, Server].into_iter().for_each(|end| resize(&lab.net, end, mtu));
        Spliced::from(lab.pair())
    });
    leave_and_are_exact(&lab, &flows);
}

/// Makes a namespace lose what routers say of packets that are too large (nft(8)).
fn deafen(place: &Namespace) {
    const RULES: [&str; 4] = [
        "add table inet deaf",
        "add chain inet deaf in { type filter hook input priority 0; }",
        "add rule inet deaf in icmp type destination-unreachable drop",
        "add rule inet deaf in icmpv6 type packet-too-big drop",
    ];
    for rule in RULES {
        place.run(Command::new("nft").args(rule.split(' ')));
    }
}

/// A network in which nobody hears of packets that are too large.
fn deaf_net() -> Net {
    let net = Net::new(1);
    [Client, Balancer, Server].into_iter().for_each(|place| deafen(place.of(&net)));
    net
}

/// Those towards the client and the server.
const BOTH_INTERFACES: &str = "packet-interfaces = [\"client\", \"server0\"]";

/// Both ends are told of the narrower link when they connect: servers by the client's own size, and clients by that of the narrowest interface.
fn links_that_differ_need_no_message_of_a_router(family: Family) {
    for narrow in [Client, Server] {
        let net = deaf_net();
        resize(&net, narrow, 1400);
        let lab = Lab::with(net, family, Lines { global: BOTH_INTERFACES, ..Lines::default() });
        leave_and_are_exact(&lab, &[Spliced::from(lab.pair())]);
    }
    // One that nobody has named counts for nothing: most have nothing to do with it.
    let net = deaf_net();
    resize(&net, Server, 1400);
    let lab = Lab::over(net, family);
    stay_and_are_exact(&lab, &[Spliced::from(lab.pair())], "segment-size");
    // One that gets narrow on the client's side afterwards is in its own SYN.
    let lab = Lab::over(deaf_net(), family);
    resize(&lab.net, Client, 1300);
    leave_and_are_exact(&lab, &[Spliced::from(lab.pair())]);
}

/// The links of the balancer are as wide as ever, those of the server are not.
fn clients_are_told_of_narrower_servers(family: Family) {
    let net = deaf_net();
    let lab = Lab::with(net, family, Lines { frontend: "mss = 1240", ..Lines::default() });
    lab.net.server().run(Command::new("ip").args(["link", "set", "uplink", "mtu", "1300"]));
    leave_and_are_exact(&lab, &[Spliced::from(lab.pair())]);
}

/// The client was told before the server was asked.
fn a_smaller_segment_size_of_the_server_alone_is_an_obstacle(family: Family) {
    let lab = Lab::over(deaf_net(), family);
    resize(&lab.net, Server, 1400);
    stay_and_are_exact(&lab, &[Spliced::from(lab.pair())], "segment-size");
}

/// They ask for it, and a listener of plain TCP does not answer that: so both speak plain TCP (RFC 8684 section 3.7).
fn clients_of_multipath_tcp_are_no_obstacle(family: Family) {
    let lab = Lab::start(family);
    let flows = [(); 2].map(|()| {
        let client = lab.net.client.connect_multipath(lab.address());
        Spliced { client, server: lab.listener.accept() }
    });
    assert_eq!(multipath_counts(&lab.net.client), [2, 0]);
    leave_and_are_exact(&lab, &flows);
}

/// The agent opens its sockets by system calls, and not by the library in whose stead mptcpize(8) puts another.
fn an_agent_that_is_to_speak_multipath_tcp_speaks_plain_tcp(family: Family) {
    let net = Net::new(1);
    let config = Lab::config(&net, family, Lines::default());
    let listener = net.server().listen(SERVER_PORT);
    let agent = Agent::launch(&net).through(&["mptcpize", "run"]).start(&config);
    let lab = Lab { agent, listener, net, family };
    let plain = Spliced::from(lab.pair());
    let client = lab.net.client.connect_multipath(lab.address());
    let multipath = Spliced { client, server: lab.listener.accept() };
    assert_eq!(multipath_counts(&lab.net.client), [1, 0]);
    leave_and_are_exact(&lab, &[plain, multipath]);
}

/// How many connections were opened from a place that asked for Multipath TCP, and how many got it (/proc/net/netstat; net/mptcp/mib.c).
#[track_caller]
fn multipath_counts(place: &Namespace) -> [u64; 2] {
    let text = place.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).expect("/proc");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("MPTcpExt: "));
    let (names, values) = lines.next().zip(lines.next()).expect("a kernel with CONFIG_MPTCP");
    let counts: Vec<_> = names.split(' ').zip(values.split(' ')).collect();
    ["MPCapableSYNTX", "MPCapableSYNACKRX"].map(|wanted| {
        let found = counts.iter().find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {wanted} in {names}"))
    })
}
