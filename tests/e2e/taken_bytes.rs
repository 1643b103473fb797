// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client sends is looked at, and not taken, before its flow is handed over: the agent's system calls show it.

use std::net::SocketAddr;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::kernel::named_sockets;
use lb_tests::net::{Listener, Net};
use lb_tests::proxy_header;
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};
use lb_tests::trace::{Call, Trace};
use lb_tests::wait::until;

use crate::support::{PORT, SERVER_PORT};

/// Every call by which bytes of a socket can be taken or looked at, or get into one; and those that a hand-over consists of.
const CALLS: &str = "accept4,connect,read,readv,recvfrom,recvmsg,splice,write,writev,sendto,sendmsg,bpf";

on_all_paths! {
    nothing_of_a_hello_is_taken_before_the_hand_over,
    of_a_proxy_header_exactly_its_length_is_taken,
}

fn nothing_of_a_hello_is_taken_before_the_hand_over(path: Path) {
    let (calls, client) = traced(path, Mode::Tls, &[]);
    assert_eq!(taken_before_hand_over(&calls, client), 0, "{calls:#?}");
    let looks = calls.iter().filter(|call| call.is_on(client) && call.text.contains("MSG_PEEK"));
    assert!(looks.count() > 0, "nobody has looked at the hello: {calls:#?}");
}

/// In mode `tcp`, because behind a hello that waits path `sockmap` takes no flow of which something was taken.
fn of_a_proxy_header_exactly_its_length_is_taken(path: Path) {
    let header = b"PROXY TCP4 198.51.100.7 203.0.113.1 50123 443\r\n";
    let (calls, client) = traced(path, Mode::Tcp, header);
    assert_eq!(taken_before_hand_over(&calls, client), header.len(), "{calls:#?}");
}

/// Bytes of the client that were taken before the last preparation of a hand-over: on `sockmap`, when a map got a socket; on the others,
/// when the server got the PROXY header, or the taking of the first bytes right before that, which go out with it. On `sockmap` none may be
/// taken behind it, either; on the others, all must be, or else the trace misses them.
fn taken_before_hand_over(calls: &[Call], client: SocketAddr) -> usize {
    let is_mapping =
        |call: &Call| call.text.starts_with("bpf(BPF_MAP_UPDATE_ELEM") && call.returned() == Some(0);
    let is_sending = |call: &Call| call.is_on(server()) && !is_mapping(call) && call.taken() == 0;
    let mapped = calls.iter().rposition(is_mapping);
    let sent = calls.iter().position(is_sending).expect("a PROXY header goes to the server");
    let is_joined = sent > 0 && calls[sent - 1].is_on(client) && calls[sent - 1].taken() > 0;
    let begun = if is_joined { sent - 1 } else { sent };
    let (before, behind) = calls.split_at(mapped.unwrap_or(begun));
    let taken =
        |calls: &[Call]| calls.iter().filter(|call| call.is_on(client)).map(Call::taken).sum::<usize>();
    let is_inside = mapped.is_some();
    assert_eq!(
        taken(behind) == 0,
        is_inside,
        "{} bytes taken behind the hand-over: {calls:#?}",
        taken(behind)
    );
    taken(before)
}

/// Where the agent connects to.
fn server() -> SocketAddr {
    SocketAddr::from(([10, 2, 0, 2], SERVER_PORT))
}

/// What the client begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Its hello.
    Tls,
    /// A PROXY header, and nothing else until the server is connected.
    Tcp,
}

/// Carries one flow. Returns the agent's calls since the client was accepted, and the client's address.
fn traced(path: Path, mode: Mode, header: &[u8]) -> (Vec<Call>, SocketAddr) {
    let (trace, net) = (Trace::new(), Net::new(1));
    let listener = net.server().listen(SERVER_PORT);
    let (config, frontend) = (Config::new().path(path), net.frontend(PORT));
    let config = match mode {
        Mode::Tls => config.passthrough("in", &[frontend], "").route("in", "alpha.example", "out"),
        Mode::Tcp => config.tcp("in", frontend, "out", "accept-proxy-from = \"10.1.0.0/16\""),
    };
    let config = config.backend("out", net.server().address(SERVER_PORT), "send-proxy = \"v2\"");
    let wrapper = trace.wrapper(CALLS);
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let agent = Agent::launch(&net).through(&wrapper).start(&config);
    let is_inside = || path != Path::Sockmap || named_sockets(&agent.process) == 2;
    let (client, bytes) = talk(&net, &listener, mode, header, &is_inside);
    let record = &agent.until_records(1)[0];
    assert_eq!((record.close(), record.number("received_bytes")), ("finished", bytes));
    assert!(path.own_labels().contains(&record.text("path")), "{record:?}");
    let calls = trace.calls();
    let accepted = format!("{client}]>");
    let first = calls.iter().position(|call| call.name() == "accept4" && call.text.contains(&accepted));
    (calls[first.expect("the client is accepted")..].to_vec(), client)
}

/// Returns the client's address, and how many bytes it has sent behind a PROXY header.
fn talk(
    net: &Net,
    listener: &Listener,
    mode: Mode,
    header: &[u8],
    is_inside: &dyn Fn() -> bool,
) -> (SocketAddr, u64) {
    let (hello, more) = (Hello::named("alpha.example").wire(), b"and more");
    let client = net.client.connect(net.frontend(PORT));
    say(&client, if mode == Mode::Tls { &hello } else { header });
    let server = listener.accept();
    proxy_header::read(&server);
    if mode == Mode::Tcp {
        // Behind a header that was taken, nothing may wait when the kernel takes over.
        until("the hand-over", is_inside);
        say(&client, &hello);
    }
    assert!(receive_exactly(&server, hello.len()) == hello, "the hello was changed");
    say(&client, more);
    finish(&client);
    assert_eq!(receive_all(&server), (more.to_vec(), End::Finished));
    finish(&server);
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    (client.local_addr().expect("connected"), (hello.len() + more.len()) as u64)
}
