// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: agents that follow each other, and what is left when nobody follows.

use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Record};
use lb_tests::config::{Config, Path};
use lb_tests::process::text;
use lb_tests::stream::{End, receive_all};
use lb_tests::wait::until;
use serde_json::Value;

use crate::packet_lab::Family;
use crate::packet_stage::{Objects, Pair, STATE, Stage, assert_bytes, kill, until_said};
use crate::support::PORT;

on_both_families! {
    a_restart_holds_up_nobody_and_cuts_nobody,
    nothing_stays_when_no_flow_does,
    a_second_agent_is_refused_what_the_first_has,
    agents_beside_each_other_share_no_port,
    a_layout_that_is_not_understood_is_left_alone,
    a_layout_that_is_not_understood_makes_way_where_no_flow_is_in_it,
    a_flow_keeps_its_names_when_the_configuration_changes,
    flows_from_other_ports_are_left_alone,
    a_flush_leaves_nothing_and_resets_whom_it_ends,
    a_stop_lets_flows_go_on,
    sessions_are_listed_with_what_the_kernel_counts,
}

/// A flow that needs nobody is not waited for, and not cut.
fn a_restart_holds_up_nobody_and_cuts_nobody(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    for _ in 0..3 {
        let begun = Instant::now();
        agent.terminate();
        assert!(agent.wait().success());
        assert!(begun.elapsed() < Duration::from_secs(10), "it has waited");
        assert_eq!(agent.records().len(), 0);
        (0..100).for_each(|_| pair.ping());
        agent = stage.agent();
        (0..100).for_each(|_| pair.ping());
        assert_eq!(agent.scrape().count("lb_frontend_connections_active", &[]), 1);
    }
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

fn nothing_stays_when_no_flow_does(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    let objects = Objects::of(&agent);
    assert!(!stage.bpffs.names(STATE).is_empty());
    let pair = stage.spliced(&agent);
    pair.end();
    agent.until_records(1);
    agent.terminate();
    assert!(agent.wait().success());
    stage.assert_nothing_left(&objects);
}

/// The one that is there goes on; the other one carries its flows in user space, and says why.
fn a_second_agent_is_refused_what_the_first_has(family: Family) {
    let stage = Stage::of(family);
    let agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    let other = stage.bpffs.path("other");
    for (state, reason) in [
        (stage.bpffs.path(STATE), "belongs to an agent that is running"),
        (other.clone(), "packet-ports overlap with those of the agent"),
    ] {
        let config = Config::whole("[log]\ntarget = \"off\"\n")
            .global(&format!("packet-state = \"{}\"", state.display()))
            .path(Path::Packet)
            .tcp("in", family.of(&stage.net.balancer, PORT + 1), "out", "")
            .backend("out", stage.server(), "");
        let second = stage.run_beside(&config);
        until("a word of it", || second.stderr().iter().any(|line| line.contains(reason)));
        until("it to be ready", || second.stderr().iter().any(|line| line.contains("ready")));
        pair.ping();
    }
    assert!(!other.exists(), "what is refused leaves nothing behind");
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

/// Wherever they keep their flows, if anywhere: a port leads to one flow.
fn agents_beside_each_other_share_no_port(family: Family) {
    let stage = Stage::of(family);
    stage.net.balancer.sysctl("net/ipv4/ip_local_port_range", "32768 49999");
    let agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    let taken = format!(
        "packet-ports 61000 to 65535 are those of another lb that is running (process {})",
        agent.process.pid()
    );
    for (ports, expected) in [("65535-65535", &*taken), ("50000-60999", "path packet is available")] {
        let config = Config::whole("[log]\ntarget = \"off\"\n")
            .global(&format!("packet-state = \"off\"\npacket-ports = \"{ports}\""))
            .path(Path::Packet)
            .tcp("in", family.of(&stage.net.balancer, PORT + 1), "out", "")
            .backend("out", stage.server(), "");
        let second = stage.run_beside(&config);
        until("a word of it", || second.stderr().iter().any(|line| line.contains(expected)));
        until("it to be ready", || second.stderr().iter().any(|line| line.contains("ready")));
        pair.ping();
    }
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

/// What another lb has left is not touched, as long as flows are in it.
fn a_layout_that_is_not_understood_is_left_alone(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    stage.change_version(1);
    let mut second = stage.agent();
    until_said(&second, "its layout has version 4, this lb knows version 3");
    until_said(&second, "`lb stop --flush` ends them");
    assert_eq!(second.scrape().count("lb_path_available", &[("path", "packet")]), 0);
    pair.ping();
    second.terminate();
    second.wait();
    stage.change_version(-1);
    let third = stage.agent();
    pair.ping();
    pair.end();
    assert_bytes(&third.until_records(1)[0], pair.bytes);
}

fn a_layout_that_is_not_understood_makes_way_where_no_flow_is_in_it(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let objects = Objects::of(&first);
    kill(&mut first);
    stage.change_version(1);
    let mut second = stage.agent();
    let pair = stage.spliced(&second);
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
    second.terminate();
    assert!(second.wait().success());
    stage.assert_nothing_left(&objects);
}

/// Flows of a frontend and a server that are no more have their names all the same.
fn a_flow_keeps_its_names_when_the_configuration_changes(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    let config = stage.global("");
    let config = config.path(Path::Packet).tcp("new", stage.frontend(), "other", "");
    let second = Agent::start(&stage.net, &config.backend("other", stage.server(), ""));
    pair.ping();
    let later = stage.spliced(&second);
    pair.end();
    // The first of either agent has the same number.
    second.until_records(1);
    later.end();
    let records = second.until_records(2);
    let names =
        |record: &Record| ["frontend", "backend", "server"].map(|field| record.text(field).to_owned());
    assert_eq!(names(&records[0]), ["in", "out", "only"]);
    assert_eq!(names(&records[1]), ["new", "other", "only"]);
    assert_bytes(&records[0], pair.bytes);
}

/// Ports of flows cannot become somebody else's.
fn flows_from_other_ports_are_left_alone(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    let mut second = Agent::start(&stage.net, &stage.config_with("packet-ports = \"64000-64999\""));
    until_said(&second, "a flow of it comes from port 61000, which is not in packet-ports");
    pair.ping();
    kill(&mut second);
    let third = stage.agent();
    pair.end();
    assert_bytes(&third.until_records(1)[0], pair.bytes);
}

/// Whoever wants no flow to go on says so.
fn a_flush_leaves_nothing_and_resets_whom_it_ends(family: Family) {
    for is_killed in [false, true] {
        let stage = Stage::of(family);
        let mut agent = stage.agent();
        let pairs = [stage.spliced(&agent), stage.spliced(&agent)];
        let objects = Objects::of(&agent);
        if is_killed {
            kill(&mut agent);
        }
        let process = format!("lb (process {}) has ended\n", agent.process.pid());
        let flushed = format!("{} is gone, and 2 flows with it\n", stage.bpffs.path(STATE).display());
        let expected = if is_killed { flushed } else { process + &flushed };
        let said = stage.verb(&["stop", "--flush"]);
        assert_eq!(
            (text(&said.stdout), text(&said.stderr), said.status.success()),
            (expected, String::new(), true)
        );
        stage.assert_nothing_left(&objects);
        for pair in &pairs {
            for end in [&pair.client, &pair.server] {
                assert_eq!(receive_all(end), (Vec::new(), End::Reset));
            }
        }
        let again = stage.verb(&["stop", "--flush"]);
        let nothing = format!("nothing is kept in {}\n", stage.bpffs.path(STATE).display());
        assert_eq!((text(&again.stdout), again.status.success()), (nothing, true));
    }
}

fn a_stop_lets_flows_go_on(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    assert!(stage.verb(&["stop"]).status.success());
    assert!(agent.wait().success());
    pair.ping();
    let said = stage.verb(&["stop"]);
    let nobody = format!("error: no lb runs on {}\n", stage.bpffs.path(STATE).display());
    assert_eq!((text(&said.stderr), said.status.code()), (nobody, Some(69)));
    let next = stage.agent();
    pair.end();
    assert_bytes(&next.until_records(1)[0], pair.bytes);
}

/// What is open is seen, also by an agent that has not let it in.
fn sessions_are_listed_with_what_the_kernel_counts(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    let mut pairs = [stage.spliced(&agent), stage.spliced(&agent)];
    pairs[1].stream(1 << 20);
    kill(&mut agent);
    let agent = stage.agent();
    let said = stage.verb(&["sessions", "--format", "json"]);
    let listed: Value = serde_json::from_str(&text(&said.stdout)).expect("JSON");
    for (session, pair) in listed["sessions"].as_array().expect("a list").iter().zip(&pairs) {
        for (field, expected) in [
            ("client", pair.client_address()),
            ("local", stage.frontend().to_string()),
            ("server_address", stage.server().to_string()),
            ("server", "only".to_owned()),
            ("state", "open".to_owned()),
        ] {
            assert_eq!(session[field], expected, "{session}");
        }
        for field in ["received_bytes", "sent_bytes"] {
            assert_eq!(session[field], pair.bytes, "{session}");
        }
        assert!(session["sent_packets"].as_u64() > Some(0), "{session}");
    }
    let shown = text(&stage.verb(&["sessions"]).stdout);
    assert_eq!(shown.lines().filter(|line| line.contains("out/only")).count(), 2, "{shown}");
    pairs.iter().for_each(Pair::end);
    agent.until_records(2);
    until("both to be gone", || !text(&stage.verb(&["sessions"]).stdout).contains("out/only"));
}
