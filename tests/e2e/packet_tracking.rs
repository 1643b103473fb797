// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` on hosts with stateful rules and NAT (nftables): connection tracking sees a flow until it leaves the agent, and not what the
//! programs carry. Rules still judge what the host itself sends to its ends, and no entry stays behind.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Namespace, Net};
use lb_tests::peer::{Service, echo};
use lb_tests::size;
use lb_tests::stream::{End, end_of, finish_both, receive_all, reset, say};
use lb_tests::wait::until;

use crate::packet_cut::{CHECK, CHECK_PORT, assert_reset};
use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_limits::connect_from;
use crate::packet_stage::{Stage, assert_bytes, has_links, kill};
use crate::support::{PORT, SERVER_PORT, stream_both_ways};

on_both_families! {
    stateful_rules_let_flows_leave_and_end,
    flows_leave_no_entry_behind,
    a_port_that_is_used_again_at_once_keeps_its_entry,
    both_ends_of_a_flow_that_is_cut_hear_of_it_behind_stateful_rules,
    both_ends_of_a_flow_that_tracking_has_forgotten_hear_of_it_behind_stateful_rules,
    a_redirected_port_keeps_flows_in_user_space,
    a_server_that_is_another_keeps_flows_in_user_space,
    a_source_that_is_another_keeps_flows_in_user_space,
    translation_in_a_zone_keeps_flows_in_user_space,
    masquerading_that_changes_nothing_is_no_obstacle,
    a_flush_is_heard_behind_stateful_rules_and_leaves_no_entry,
}

/// What goes each way in user space.
const BYTES: u64 = 1 << 20;

/// What many a host has: nothing passes but what belongs to a connection, or begins one that is wanted. Loopback is not tracked, so that all
/// entries are those of flows.
const STATEFUL: &str = "
    table inet quiet {
        chain prerouting { type filter hook prerouting priority raw; iif lo notrack; }
        chain output { type filter hook output priority raw; oif lo notrack; }
    }
    table inet firewall {
        chain input {
            type filter hook input priority filter; policy drop;
            iif lo accept
            ct state invalid drop
            ct state established,related accept
            meta l4proto ipv6-icmp accept
            tcp dport 5000 tcp flags & (fin | syn | rst | ack) == syn ct state new accept
        }
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
        }
        chain output {
            type filter hook output priority filter; policy drop;
            oif lo accept
            ct state invalid drop
            ct state established,related accept
            meta l4proto ipv6-icmp accept
            tcp dport { 6000, 7000 } ct state new accept
        }
    }";

/// Loads rules.
#[track_caller]
pub(crate) fn rule(place: &Namespace, rules: &str) {
    place.run(Command::new("nft").arg(rules));
}

/// A network whose balancer has [`STATEFUL`] rules.
fn guarded() -> Net {
    let net = Net::new(1);
    rule(&net.balancer, STATEFUL);
    net
}

/// How many connections a namespace tracks.
fn tracked(place: &Namespace) -> u64 {
    let read = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    place.enter(read).expect("rules with `ct` bring it").trim().parse().expect("a number")
}

#[track_caller]
fn until_nothing_is_tracked(place: &Namespace) {
    until("no entry to be left", || tracked(place) == 0);
}

/// Ends a flow from both ends, this one first.
#[track_caller]
fn end(flow: &Spliced, is_by_client: bool) {
    let (first, second) = flow.towards(is_by_client);
    finish_both(first, second);
}

fn stateful_rules_let_flows_leave_and_end(family: Family) {
    let lab = Lab::over(guarded(), family);
    let flows: [_; 2] = lab.spliced_flows();
    let beside = lab.bytes_beside();
    (0..20).for_each(|_| flows.iter().for_each(Spliced::ping));
    assert_eq!(tracked(&lab.net.balancer), 4, "what lives is known");
    stream_both_ways(&flows[0].client, &flows[0].server, 16 << 20, 16 << 20);
    let [_, Spliced { client, server }] = flows;
    reset(client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    lab.assert_closes(&["finished", "client-reset"]);
    assert_eq!(lab.bytes_beside(), beside);
    lab.assert_refused(&[]);
    until_nothing_is_tracked(&lab.net.balancer);
}

/// However they end: an entry would stay for five days (nf_conntrack_tcp_timeout_established).
fn flows_leave_no_entry_behind(family: Family) {
    let (rounds, flows) = size((2, 50), (40, 250));
    let lab = Lab::over(guarded(), family);
    for _ in 0..rounds {
        let pairs: Vec<Spliced> = (0..flows).map(|_| Spliced::from(lab.pair())).collect();
        lab.until_spliced(&pairs);
        for (index, flow) in pairs.into_iter().enumerate() {
            match index % 4 {
                0 | 1 => end(&flow, index % 4 == 0),
                2 => reset(flow.client),
                _ => reset(flow.server),
            }
        }
    }
    lab.agent.until_records(rounds * flows);
    assert_eq!(lab.agent.own_flows(Path::Packet), (rounds * flows) as u64);
    lab.assert_refused(&[]);
    until_nothing_is_tracked(&lab.net.balancer);
}

/// The entry of a connection is that of the next one with the same ports, if that comes before the agent has let go of the first: it has to be there for
/// whoever says nothing at first.
fn a_port_that_is_used_again_at_once_keeps_its_entry(family: Family) {
    const LONGER_THAN_LATE_SEGMENTS_ARE_AWAITED: Duration = Duration::from_secs(5);
    let lab = Lab::over(guarded(), family);
    let begin = |first: Spliced, is_by_client: bool| {
        let own = first.client.local_addr().expect("connected");
        if is_by_client {
            reset(first.client);
            assert_eq!(receive_all(&first.server), (Vec::new(), End::Reset));
        } else {
            end(&first, false);
            drop(first);
        }
        let client = connect_from(&lab.net.client, own, lab.address());
        Spliced { client, server: lab.listener.accept() }
    };
    let [one, other] = lab.spliced_flows();
    let again = [begin(one, true), begin(other, false)];
    thread::sleep(LONGER_THAN_LATE_SEGMENTS_ARE_AWAITED);
    assert_eq!(tracked(&lab.net.balancer), 4, "what lives is known");
    lab.until_spliced(&again);
    again.iter().for_each(Spliced::ping);
    for flow in &again {
        end(flow, true);
    }
    lab.assert_closes(&["client-reset", "finished", "finished", "finished"]);
    lab.assert_refused(&[]);
    until_nothing_is_tracked(&lab.net.balancer);
}

/// A lab behind stateful rules, whose server's sessions end when it goes down.
fn guarded_ward(family: Family) -> (Lab, Service<()>) {
    let net = guarded();
    let health = echo(net.server(), CHECK_PORT);
    let server = family.of(net.server(), SERVER_PORT);
    let config = Config::new().path(Path::Packet).tcp("in", family.of(&net.balancer, PORT), "out", "");
    let lines = "on-marked-down = \"shutdown-sessions\"";
    let config = config.pool("out", CHECK).server("out", "only", server, lines);
    let listener = net.server().listen(SERVER_PORT);
    (Lab { agent: Agent::start(&net, &config), listener, net, family }, health)
}

fn both_ends_of_a_flow_that_is_cut_hear_of_it_behind_stateful_rules(family: Family) {
    let (lab, health) = guarded_ward(family);
    let flow = lab.spliced();
    drop(health);
    lab.agent.until_count("lb_server_up", &[("server", "only")], 0);
    assert_reset(&flow.server);
    assert_reset(&flow.client);
    lab.assert_closed(1, "server-down");
}

/// An entry does not live as long as a flow of which nothing is seen.
fn both_ends_of_a_flow_that_tracking_has_forgotten_hear_of_it_behind_stateful_rules(family: Family) {
    let (lab, health) = guarded_ward(family);
    lab.net.balancer.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "1");
    let flow = lab.spliced();
    thread::sleep(Duration::from_millis(2_500));
    drop(health);
    lab.agent.until_count("lb_server_up", &[("server", "only")], 0);
    assert_reset(&flow.server);
    assert_reset(&flow.client);
    lab.assert_closed(1, "server-down");
}

fn a_redirected_port_keeps_flows_in_user_space(family: Family) {
    let net = Net::new(1);
    rule(
        &net.balancer,
        "table inet ports { chain prerouting {
            type nat hook prerouting priority dstnat; tcp dport 443 redirect to :5000; }
        }",
    );
    let lab = Lab::over(net, family);
    let client = lab.net.client.connect(family.of(&lab.net.balancer, 443));
    lab.assert_kept(&Spliced { client, server: lab.listener.accept() }, "nat");
    lab.spliced().ping();
}

fn a_server_that_is_another_keeps_flows_in_user_space(family: Family) {
    let net = Net::new(2);
    let [named, real] = [0, 1].map(|index: usize| family.of(&net.servers[index], SERVER_PORT).ip());
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let rules = format!(
        "table inet servers {{ chain output {{
            type nat hook output priority -100; {ip} daddr {named} tcp dport 6000 dnat {ip} to {real}; }}
        }}"
    );
    rule(&net.balancer, &rules);
    let lab = Lab::over(net, family);
    let elsewhere = lab.net.servers[1].listen(SERVER_PORT);
    let client = lab.net.client.connect(lab.address());
    lab.assert_kept(&Spliced { client, server: elsewhere.accept() }, "nat");
    rule(&lab.net.balancer, "delete table inet servers");
    lab.spliced().ping();
}

fn a_source_that_is_another_keeps_flows_in_user_space(family: Family) {
    let net = Net::new(1);
    let (ip, source, bits) =
        if family == Family::V4 { ("ip", "10.2.0.77", "24") } else { ("ip6", "fd02::77", "64") };
    let address = format!("{source}/{bits}");
    let mut command = Command::new("ip");
    command.args([family.flag(), "address", "add", &address, "dev", "server0"]);
    if family == Family::V6 {
        // Not what a connection comes from by itself (RFC 6724 section 5, rule 3).
        command.args(["nodad", "preferred_lft", "0"]);
    }
    net.balancer.run(&mut command);
    let rules = format!(
        "table inet sources {{ chain postrouting {{
            type nat hook postrouting priority srcnat; tcp dport 6000 snat {ip} to {source}; }}
        }}"
    );
    rule(&net.balancer, &rules);
    let lab = Lab::over(net, family);
    lab.assert_kept(&Spliced::from(lab.pair()), "nat");
    rule(&lab.net.balancer, "delete table inet sources");
    lab.spliced().ping();
}

/// Nobody is asked about other zones than the default; but the programs do not see what is translated there.
fn translation_in_a_zone_keeps_flows_in_user_space(family: Family) {
    let net = Net::new(2);
    let [named, real] = [0, 1].map(|index: usize| family.of(&net.servers[index], SERVER_PORT).ip());
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let rules = format!(
        "table inet servers {{
            chain zoned {{ type filter hook output priority raw; tcp dport 6000 ct zone set 7; }}
            chain back {{ type filter hook prerouting priority raw; tcp sport 6000 ct zone set 7; }}
            chain output {{
                type nat hook output priority -100; {ip} daddr {named} tcp dport 6000 dnat {ip} to {real};
            }}
        }}"
    );
    rule(&net.balancer, &rules);
    let lab = Lab::over(net, family);
    let elsewhere = lab.net.servers[1].listen(SERVER_PORT);
    let client = lab.net.client.connect(lab.address());
    lab.assert_kept(&Spliced { client, server: elsewhere.accept() }, "unseen");
}

/// As on hosts with containers.
fn masquerading_that_changes_nothing_is_no_obstacle(family: Family) {
    let net = guarded();
    rule(
        &net.balancer,
        "table inet sources { chain postrouting {
            type nat hook postrouting priority srcnat; oifname \"server0\" masquerade; }
        }",
    );
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
    assert_eq!(lab.bytes_beside(), beside);
    lab.assert_ended(1, "finished");
    lab.assert_refused(&[]);
    until_nothing_is_tracked(&lab.net.balancer);
}

/// As with any other flow: the agent that has let it in need not be the one that sees its end.
#[test]
fn a_flow_that_another_agent_has_left_leaves_no_entry_behind() {
    let stage = Stage::new();
    rule(&stage.net.balancer, STATEFUL);
    let mut first = stage.agent();
    let pairs = [stage.spliced(&first), stage.spliced(&first)];
    kill(&mut first);
    // One ends while nobody is there.
    pairs[0].end();
    let second = stage.agent();
    pairs[1].end();
    for (record, pair) in second.until_records(2).iter().zip(&pairs) {
        assert_bytes(record, pair.bytes);
    }
    until_nothing_is_tracked(&stage.net.balancer);
}

/// What the host says to ends that it does not know any more is part of their connections.
#[test]
fn whoever_is_left_alone_behind_stateful_rules_hears_of_it() {
    let lab =
        Lab::with(guarded(), Family::V4, Lines { global: "packet-state = \"off\"", ..Lines::default() });
    let flow = lab.spliced();
    let Lab { mut agent, .. } = lab;
    (0..100).for_each(|_| flow.ping());
    kill(&mut agent);
    // Before that, programs stay at interfaces, and the flow goes on.
    if !has_links() {
        return flow.ping();
    }
    for mut end in [&flow.client, &flow.server] {
        // An acknowledgement that was due may have had its answer before.
        let failed =
            end.write_all(b"?").and_then(|()| end.read_exact(&mut [0])).expect_err("nobody is there");
        assert_eq!(end_of(&failed), End::Reset, "{failed}");
    }
}

/// Both ends of a flush are reset, whatever rules there are, and it leaves no entry behind: of a flow either that has ended while nobody was there.
fn a_flush_is_heard_behind_stateful_rules_and_leaves_no_entry(family: Family) {
    const LESS_THAN_CLOSED_ONES_STAY: Duration = Duration::from_secs(6);
    let stage = Stage::of(family);
    rule(&stage.net.balancer, STATEFUL);
    let mut agent = stage.agent();
    let [over, open @ ..] = [(); 3].map(|()| stage.spliced(&agent));
    kill(&mut agent);
    over.end();
    assert_eq!(tracked(&stage.net.balancer), 6, "what nobody has forgotten is known");
    assert!(stage.verb(&["stop", "--flush"]).status.success());
    let flushed = Instant::now();
    until_nothing_is_tracked(&stage.net.balancer);
    assert!(flushed.elapsed() < LESS_THAN_CLOSED_ONES_STAY, "{:?}", flushed.elapsed());
    for pair in &open {
        assert_reset(&pair.client);
        assert_reset(&pair.server);
    }
}

/// Without CAP_NET_RAW ends hear of a cut when they speak: the host answers, if rules still know the connection.
#[test]
fn whoever_speaks_after_a_cut_without_resets_hears_of_it_behind_stateful_rules() {
    let net = guarded();
    let config = Config::new().path(Path::Packet).tcp("in", net.frontend(PORT), "out", "");
    let config = config.backend("out", net.server().address(SERVER_PORT), "idle-timeout = \"2s\"");
    let listener = net.server().listen(SERVER_PORT);
    let agent =
        Agent::launch(&net).with_capabilities(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]).start(&config);
    let lab = Lab { agent, listener, net, family: Family::V4 };
    let flow = lab.spliced();
    lab.assert_closed(1, "idle-timeout");
    for end in [&flow.client, &flow.server] {
        say(end, b"?");
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
}

/// The kernel's part of it may come later than the agent.
#[test]
fn rules_that_come_later_are_heeded() {
    let lab = Lab::start(Family::V4);
    let before = lab.spliced();
    rule(&lab.net.balancer, STATEFUL);
    let flow = lab.spliced();
    before.ping();
    end(&flow, true);
    end(&before, true);
    lab.assert_closed(2, "finished");
    until_nothing_is_tracked(&lab.net.balancer);
}
