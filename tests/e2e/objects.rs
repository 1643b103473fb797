// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `sockmap` needs in the kernel is made before the agent is ready. From then on it works on maps that are there, which takes no
//! privilege: the agent's calls of bpf(2) show it.

use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::stream::{
    End, finish, receive_all, receive_at_most, receive_exactly, reset, say, send_until_blocked,
};
use lb_tests::trace::{Call, Trace};

use crate::support::{
    INSIDE, Relay, SERVER_PORT, assert_carried, assert_nothing_left, assert_received, limit_socket_buffers,
    stream_both_ways, tcp_config,
};

/// What works on entries of maps, and makes nothing (bpf(2)).
const ON_ENTRIES: [&str; 3] = ["BPF_MAP_LOOKUP_ELEM", "BPF_MAP_UPDATE_ELEM", "BPF_MAP_DELETE_ELEM"];

/// Flows that begin, stream, pause and end in every way.
const FLOWS: u64 = 4;

#[test]
fn no_bpf_object_is_made_once_the_agent_is_ready() {
    let (trace, net) = (Trace::new(), Net::new(1));
    limit_socket_buffers(&net, 128 << 10);
    let listener = net.server().listen(SERVER_PORT);
    let wrapper = trace.wrapper("bpf");
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let agent = Agent::launch(&net).through(&wrapper).start(&tcp_config(&net, Path::Sockmap, INSIDE));
    let before = trace.calls();
    // That nothing is seen afterwards means something only if these are seen.
    for command in ["BPF_PROG_LOAD", "BPF_MAP_CREATE"] {
        let made = before.iter().filter(|call| is(call, command) && call.returned().is_some());
        assert!(made.count() >= 2, "no {command} before the agent is ready: {before:#?}");
    }

    carry_flows(&Relay { agent, listener, net });

    let calls = trace.calls();
    let (_, since) = calls.split_at(before.len());
    let others: Vec<&Call> =
        since.iter().filter(|call| !ON_ENTRIES.iter().any(|command| is(call, command))).collect();
    assert!(others.is_empty(), "{others:#?}");
    let updates = since.iter().filter(|call| is(call, "BPF_MAP_UPDATE_ELEM") && call.returned() == Some(0));
    // Each has two sockets, and each of those a name, a target and a hook.
    let (updates, least) = (updates.count() as u64, FLOWS * 2 * 3);
    assert!(updates >= least, "{updates} updates of maps for {FLOWS} flows");
}

/// Whether it is this command of bpf(2).
fn is(call: &Call, command: &str) -> bool {
    call.text.starts_with(&format!("bpf({command},"))
}

/// All of them inside the kernel.
fn carry_flows(relay: &Relay) {
    let (client, server) = relay.handed_over(Path::Sockmap);
    stream_both_ways(&client, &server, 1_000_000, 1_000_000);

    let (client, server) = relay.handed_over(Path::Sockmap);
    let taken = send_until_blocked(&client, 1, Duration::from_millis(500));
    let pauses = relay.agent.scrape().count("lb_sockmap_pauses_total", &[]);
    assert!(pauses > 0, "no pause after {taken} bytes");
    assert_received(&receive_at_most(&server, 1, taken), taken, End::Silent);
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    say(&server, b"answer");
    assert_eq!(receive_exactly(&client, 6), b"answer");
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));

    for is_client in [true, false] {
        let (client, server) = relay.handed_over(Path::Sockmap);
        let (gone, left) = if is_client { (client, server) } else { (server, client) };
        reset(gone);
        assert_eq!(receive_all(&left), (Vec::new(), End::Reset));
    }
    assert_nothing_left(&relay.agent, Path::Sockmap);
    assert_carried(&relay.agent, Path::Sockmap, FLOWS);
}
