// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: whatever else ends a flow but its ends, both get a reset; and what that takes.

use std::process::Command;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::peer::echo;
use lb_tests::stream::{End, receive_all, say};

use crate::packet_cut::{CHECK, CHECK_PORT, assert_reset};
use crate::packet_lab::{Family, Lab, Lines};
use crate::support::{PORT, SERVER_PORT};

on_both_families! {
    flows_that_are_silent_for_too_long_are_reset_at_both_ends,
    resets_that_do_not_leave_the_host_are_counted,
    flows_on_a_backup_that_is_relieved_are_reset_at_both_ends,
}

fn flows_that_are_silent_for_too_long_are_reset_at_both_ends(family: Family) {
    let lines = Lines { backend: "idle-timeout = \"3s\"", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    let flow = lab.spliced();
    assert_eq!(receive_all(&flow.client), (Vec::new(), End::Reset));
    assert_reset(&flow.server);
    lab.assert_closed(1, "idle-timeout");
    assert_counted(&lab, 6, 0);
}

/// Waits until so many resets are on their way, and so many are not. Each end gets its own three times.
#[track_caller]
fn assert_counted(lab: &Lab, sent: u64, failed: u64) {
    lab.agent.until_count("lb_packet_resets_total", &[("result", "sent")], sent);
    lab.agent.until_count("lb_packet_resets_total", &[("result", "failed")], failed);
}

/// The host's own rules may forbid anything.
fn resets_that_do_not_leave_the_host_are_counted(family: Family) {
    let net = Net::new(1);
    net.balancer.run(Command::new("nft").arg(
        "table inet wall { chain output { type filter hook output priority 0;
            tcp dport 6000 tcp flags & rst == rst drop; }
        }",
    ));
    let lab = Lab::with(net, family, Lines { backend: "idle-timeout = \"3s\"", ..Lines::default() });
    let flow = lab.spliced();
    assert_eq!(receive_all(&flow.client), (Vec::new(), End::Reset));
    lab.assert_closed(1, "idle-timeout");
    assert_counted(&lab, 3, 3);
}

fn flows_on_a_backup_that_is_relieved_are_reset_at_both_ends(family: Family) {
    let net = Net::new(2);
    let _spare_health = echo(&net.servers[1], CHECK_PORT);
    let address = |index: usize| family.of(&net.servers[index], SERVER_PORT);
    let config = Config::new()
        .path(Path::Packet)
        .tcp("in", family.of(&net.balancer, PORT), "pool", "")
        .pool("pool", CHECK)
        .server("pool", "main", address(0), "on-marked-up = \"shutdown-backup-sessions\"")
        .server("pool", "spare", address(1), "backup = true");
    let listener = net.servers[1].listen(SERVER_PORT);
    let lab = Lab { agent: Agent::start(&net, &config), listener, net, family };
    lab.agent.until_count("lb_server_up", &[("server", "main")], 0);
    let flow = lab.spliced();
    let _main_health = echo(lab.net.server(), CHECK_PORT);
    lab.agent.until_count("lb_server_up", &[("server", "main")], 1);
    assert_reset(&flow.client);
    assert_reset(&flow.server);
    lab.assert_closed(1, "active-server-up");
}

/// Whoever does not answer is told by the end of the agent itself, where nobody keeps the flow.
#[test]
fn flows_that_nobody_keeps_are_cut_when_the_agent_ends() {
    let lines = Lines { global: "packet-state = \"off\"\ndrain-timeout = \"100ms\"", ..Lines::default() };
    let mut lab = Lab::with(Net::new(1), Family::V4, lines);
    let flow = lab.spliced();
    lab.agent.terminate();
    assert!(lab.agent.wait().success());
    assert_reset(&flow.client);
    assert_reset(&flow.server);
}

/// The path is there, but ends hear of it when they speak; with the capability, which is then given up, at once.
#[test]
fn resets_take_a_capability_at_start_and_none_later() {
    let needed = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_NET_RAW"];
    for is_granted in [false, true] {
        let net = Net::new(1);
        let lines = "idle-timeout = \"2s\"";
        let config = Config::new().path(Path::Packet).tcp("in", net.frontend(PORT), "out", "");
        let config = config.backend("out", net.server().address(SERVER_PORT), lines);
        let listener = net.server().listen(SERVER_PORT);
        let granted = if is_granted { &needed[..] } else { &needed[..3] };
        let agent = Agent::launch(&net).with_capabilities(granted).start(&config);
        let lab = Lab { agent, listener, net, family: Family::V4 };
        let flow = lab.spliced();
        lab.assert_closed(1, "idle-timeout");
        let is_told = lab.agent.process.stderr().iter().any(|line| line.contains("which takes CAP_NET_RAW"));
        assert_eq!(is_told, !is_granted);
        if is_granted {
            assert_reset(&flow.client);
            assert_reset(&flow.server);
            continue;
        }
        flow.client.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
        assert_eq!(receive_all(&flow.client), (Vec::new(), End::Silent));
        for end in [&flow.client, &flow.server] {
            say(end, b"?");
            assert_eq!(receive_all(end), (Vec::new(), End::Reset));
        }
    }
}
