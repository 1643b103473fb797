// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: flows of a server that goes down. Both ends get a reset, though nobody here has a socket of theirs, and though they may say
//! nothing.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Listener, Namespace, Net};
use lb_tests::peer::{Service, echo};
use lb_tests::size;
use lb_tests::stream::{End, finish, receive, receive_all, receive_exactly, say, send, send_until_blocked};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Spliced};
use crate::packet_stage::{Stage, kill};
use crate::support::{PORT, SERVER_PORT};

on_both_families! {
    a_server_that_goes_down_resets_both_ends_of_flows_that_are_idle,
    a_server_that_goes_down_resets_both_ends_of_flows_that_are_busy,
    an_end_that_has_everything_and_has_not_said_so_is_reset,
    an_end_that_has_lost_something_is_reset,
    a_reset_that_gets_lost_is_sent_again,
    a_client_that_waits_for_room_is_reset,
    an_end_that_has_sent_its_last_byte_is_reset,
    many_flows_are_cut_at_once_and_leave_nothing_behind,
}

/// The port that checks go to, so that a server can be marked down while it serves.
pub(crate) const CHECK_PORT: u16 = 7000;

/// How soon an end hears of it, from when the server is down.
const SOON: Duration = Duration::from_secs(2);

/// A lab whose server's sessions end when it goes down; and a second server, to which the next port leads, which stays up.
struct Ward {
    lab: Lab,
    beside: Listener,
    health: Option<Service<()>>,
    _others_health: Service<()>,
}

impl Ward {
    fn start(family: Family) -> Self {
        Self::with(family, "")
    }

    /// With these lines in the table `global`.
    fn with(family: Family, global: &str) -> Self {
        let net = Net::new(2);
        let [health, others_health] = [0, 1].map(|index| echo(&net.servers[index], CHECK_PORT));
        let config = Config::new().global(global).path(Path::Packet);
        let address = |index: usize| family.of(&net.servers[index], SERVER_PORT);
        let config = config
            .tcp("in", family.of(&net.balancer, PORT), "out", "")
            .pool("out", CHECK)
            .server("out", "only", address(0), SHUTDOWN)
            .tcp("in2", family.of(&net.balancer, PORT + 1), "beside", "")
            .pool("beside", CHECK)
            .server("beside", "other", address(1), SHUTDOWN);
        let [listener, beside] = [0, 1].map(|index| net.servers[index].listen(SERVER_PORT));
        let lab = Lab { agent: Agent::start(&net, &config), listener, net, family };
        Self { lab, beside, health: Some(health), _others_health: others_health }
    }

    /// A flow to the server that stays up.
    #[track_caller]
    fn bystander(&self) -> Spliced {
        let address = self.lab.family.of(&self.lab.net.balancer, PORT + 1);
        let flow = Spliced::from((self.lab.net.client.connect(address), self.beside.accept()));
        self.lab.until_spliced(std::slice::from_ref(&flow));
        flow
    }

    /// Lets the checks fail, and waits until the server is down.
    #[track_caller]
    fn take_down(&mut self) {
        self.health = None;
        self.lab.agent.until_count("lb_server_up", &[("server", "only")], 0);
    }

    /// Lets the checks succeed again.
    #[track_caller]
    fn bring_up(&mut self) {
        self.health = Some(echo(self.lab.net.server(), CHECK_PORT));
        self.lab.agent.until_count("lb_server_up", &[("server", "only")], 1);
    }

    /// Asserts that so many flows have ended because the server is down, by log and metrics, and nobody else's.
    #[track_caller]
    fn assert_cut(&self, flows: usize) {
        self.lab.assert_closed(flows, "server-down");
        for record in self.lab.agent.records() {
            assert_eq!((record.text("server"), record.text("termination")), ("only", "DD"));
        }
        let scrape = self.lab.agent.scrape();
        assert_eq!(scrape.count("lb_server_connections_active", &[("server", "only")]), 0);
        let closed = scrape.count("lb_connections_closed_total", &[("reason", "server-down")]);
        assert_eq!(closed, flows as u64);
    }
}

/// Lines of backends, and of their servers.
pub(crate) const CHECK: &str =
    "check = { type = \"tcp\", port = 7000, interval = \"100ms\", rise = 1, fall = 1 }";
const SHUTDOWN: &str = "on-marked-down = \"shutdown-sessions\"";

/// Asserts that an end that says nothing is reset, and soon.
#[track_caller]
pub(crate) fn assert_reset(end: &TcpStream) {
    let begun = Instant::now();
    assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
}

fn a_server_that_goes_down_resets_both_ends_of_flows_that_are_idle(family: Family) {
    let mut ward = Ward::start(family);
    let bystander = ward.bystander();
    let flows: [_; 10] = ward.lab.spliced_flows();
    ward.take_down();
    let begun = Instant::now();
    for flow in &flows {
        assert_reset(&flow.client);
        assert_reset(&flow.server);
    }
    assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
    ward.assert_cut(flows.len());
    (0..10).for_each(|_| bystander.ping());
}

fn a_server_that_goes_down_resets_both_ends_of_flows_that_are_busy(family: Family) {
    const ENDLESS: u64 = u64::MAX;
    let mut ward = Ward::start(family);
    let bystander = ward.bystander();
    let flows: [_; 4] = ward.lab.spliced_flows();
    let ended = thread::scope(|scope| {
        let ends = flows.iter().flat_map(|flow| [&flow.client, &flow.server]);
        let busy: Vec<_> = ends
            .map(|end| {
                let sender = scope.spawn(move || send(end, 1, ENDLESS).expect_err("nobody ends cleanly"));
                let reader = scope.spawn(move || (receive(end, 1), Instant::now()));
                (sender, reader)
            })
            .collect();
        let moved = || ward.lab.agent.scrape().count("lb_path_bytes_total", &[("path", "packet")]);
        until("bytes to go both ways", || moved() > 64 << 20);
        ward.health = None;
        ward.lab.agent.until_count("lb_server_up", &[("server", "only")], 0);
        let down = Instant::now();
        for (sender, reader) in busy {
            let (received, ended) = reader.join().expect("no panic");
            let refused = sender.join().expect("no panic");
            // Whoever asks first is told (net/core/sock.c, sock_error), the other one that the connection is over.
            let is_told = [received.end == End::Reset, refused.kind() == ErrorKind::ConnectionReset];
            assert!(is_told.contains(&true), "{received:?}, {refused}");
            assert_eq!(received.wrong_at, None);
            assert!(ended.saturating_duration_since(down) < SOON);
        }
        flows.len()
    });
    ward.assert_cut(ended);
    (0..10).for_each(|_| bystander.ping());
}

/// Makes a namespace lose what it sends or gets, by where it is on its way there and what it says (nft(8)), until [`mend`].
#[track_caller]
fn lose(place: &Namespace, hook: &str, what: &str) {
    for words in [
        "add table inet wall".to_owned(),
        format!("add chain inet wall {hook} {{ type filter hook {hook} priority 0 ; }}"),
        format!("add rule inet wall {hook} {what} counter drop"),
    ] {
        place.run(Command::new("nft").arg(words));
    }
}

/// Whether every rule of [`lose`] has lost something.
#[track_caller]
fn has_lost(place: &Namespace) -> bool {
    let listing = place.run(Command::new("nft").args(["list", "table", "inet", "wall"]));
    listing.contains("counter packets ") && !listing.contains("counter packets 0 ")
}

/// Ends [`lose`].
#[track_caller]
fn mend(place: &Namespace) {
    place.run(Command::new("nft").args(["delete", "table", "inet", "wall"]));
}

/// What the server acknowledges without saying anything else.
const ACKNOWLEDGEMENTS: &str = "tcp sport 6000 tcp flags & (fin | syn | rst | psh) == 0x0";

/// As with a delayed acknowledgement: what the balancer has heard last is not what the end expects.
fn an_end_that_has_everything_and_has_not_said_so_is_reset(family: Family) {
    let mut ward = Ward::start(family);
    let flow = ward.lab.spliced();
    lose(ward.lab.net.server(), "output", ACKNOWLEDGEMENTS);
    say(&flow.client, b"?");
    assert_eq!(receive_exactly(&flow.server, 1), b"?");
    // It is delayed, for up to 200 ms (include/net/tcp.h, TCP_DELACK_MAX).
    until("the acknowledgement to be lost", || has_lost(ward.lab.net.server()));
    ward.take_down();
    assert_reset(&flow.server);
    assert_reset(&flow.client);
    ward.assert_cut(1);
}

/// It expects neither what was sent to it nor what it has acknowledged. It says so itself, and whoever has sent that is gone.
fn an_end_that_has_lost_something_is_reset(family: Family) {
    let mut ward = Ward::start(family);
    let flow = ward.lab.spliced();
    let server = ward.lab.net.server();
    flow.client.set_nodelay(true).expect("a socket");
    lose(server, "output", ACKNOWLEDGEMENTS);
    // Longer than the first by a byte: with headers, 58 over IPv4. The rule is there before, for a client that has sent the first again sends nothing else.
    let lengths = if family == Family::V4 { "> 57" } else { "> 77" };
    lose(server, "input", &format!("tcp dport 6000 meta length {lengths}"));
    say(&flow.client, b"first");
    assert_eq!(receive_exactly(&flow.server, 5), b"first");
    say(&flow.client, b"second");
    until("both to be lost", || has_lost(server));
    ward.lab.net.client.run(Command::new("ip").args(["link", "set", "uplink", "down"]));
    mend(server);
    ward.take_down();
    assert_reset(&flow.server);
    ward.assert_cut(1);
}

fn a_reset_that_gets_lost_is_sent_again(family: Family) {
    let mut ward = Ward::start(family);
    let flow = ward.lab.spliced();
    let server = ward.lab.net.server();
    // The first one alone: it has no options.
    let quota = if family == Family::V4 { 41 } else { 61 };
    lose(server, "input", &format!("tcp dport 6000 tcp flags & rst == rst quota until {quota} bytes"));
    ward.take_down();
    assert_reset(&flow.client);
    assert_reset(&flow.server);
    assert!(has_lost(ward.lab.net.server()));
    ward.assert_cut(1);
}

/// One end sends more than the other reads.
fn a_client_that_waits_for_room_is_reset(family: Family) {
    let mut ward = Ward::start(family);
    let flow = ward.lab.spliced();
    send_until_blocked(&flow.client, 1, Duration::from_millis(300));
    ward.take_down();
    let begun = Instant::now();
    assert_eq!(receive_all(&flow.client).1, End::Reset);
    assert_eq!(receive(&flow.server, 1).end, End::Reset);
    assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
    ward.assert_cut(1);
}

fn an_end_that_has_sent_its_last_byte_is_reset(family: Family) {
    let mut ward = Ward::start(family);
    let flows = ward.lab.spliced_flows::<2>();
    for (flow, is_upwards) in flows.iter().zip([true, false]) {
        let (from, to) = flow.towards(is_upwards);
        finish(from);
        assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    }
    ward.take_down();
    for (flow, is_upwards) in flows.iter().zip([true, false]) {
        let (from, to) = flow.towards(is_upwards);
        assert_reset(from);
        // It has read to the end, so that a socket tells it nothing but its error.
        until("it to be reset", || to.take_error().expect("a socket").is_some());
    }
    ward.assert_cut(2);
}

/// As many as there are ports and places for: after each time all are free again. Others go on meanwhile.
fn many_flows_are_cut_at_once_and_leave_nothing_behind(family: Family) {
    let flows = size(250_usize, 1_000);
    let last = 61_000 + flows;
    let global = format!("max-connections = {}\npacket-ports = \"61000-{last}\"", flows + 1);
    let mut ward = Ward::with(family, &global);
    let bystander = ward.bystander();
    for round in 1..=size(2_usize, 5) {
        let pairs: Vec<Spliced> = (0..flows).map(|_| Spliced::from(ward.lab.pair())).collect();
        ward.lab.until_spliced(&pairs);
        let worst = thread::scope(|scope| {
            let ends = scope.spawn(|| pairs.iter().for_each(|flow| assert_reset_slowly(flow)));
            ward.health = None;
            let (failing, mut worst) = (Instant::now(), Duration::ZERO);
            while !ends.is_finished() {
                let begun = Instant::now();
                bystander.ping();
                worst = worst.max(begun.elapsed());
            }
            ends.join().expect("no panic");
            assert!(failing.elapsed() < SOON, "after {:?}", failing.elapsed());
            worst
        });
        assert!(worst < SOON, "somebody else waited for {worst:?}");
        ward.assert_cut(round * flows);
        ward.bring_up();
        // Ports and places are kept as long as resets go out.
        thread::sleep(Duration::from_millis(1_500));
    }
    bystander.ping();
    ward.lab.assert_refused(&[]);
}

#[track_caller]
fn assert_reset_slowly(flow: &Spliced) {
    for end in [&flow.client, &flow.server] {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
}

/// As with any other flow: the agent that has let it in need not be the one that ends it.
#[test]
fn a_flow_that_another_agent_has_left_is_cut() {
    let stage = Stage::new();
    let health = echo(stage.net.server(), CHECK_PORT);
    let server = stage.net.server().address(SERVER_PORT);
    let config = stage.global("").path(Path::Packet).tcp("in", stage.net.frontend(PORT), "out", "");
    let config = config.pool("out", CHECK).server("out", "only", server, SHUTDOWN);
    let mut first = Agent::start(&stage.net, &config);
    let pairs = [stage.spliced(&first), stage.spliced(&first)];
    kill(&mut first);
    let second = Agent::start(&stage.net, &config);
    second.until_count("lb_server_connections_active", &[("server", "only")], 2);
    drop(health);
    second.until_count("lb_server_up", &[("server", "only")], 0);
    for pair in &pairs {
        assert_reset(&pair.client);
        assert_reset(&pair.server);
    }
    for record in second.until_records(2) {
        assert_eq!((record.close(), record.text("path")), ("server-down", "packet"));
    }
    second.until_count("lb_server_connections_active", &[("server", "only")], 0);
}
