// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of path `packet` set up: an agent between two networks, and flows of which the path's own counters say that they have left it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::flows::FlowMaps;
use lb_tests::net::{Listener, Namespace, Net};
use lb_tests::stream::{finish_both, receive_exactly, say};
use lb_tests::wait::until;

use crate::support::{PORT, SERVER_PORT, stream_both_ways};

/// Makes tests of scenarios that take a family: one in module `v4` and one in module `v6`.
macro_rules! on_both_families {
    ($($scenario:ident,)+) => {
        mod v4 { $(#[test] fn $scenario() { super::$scenario(crate::packet_lab::Family::V4); })+ }
        mod v6 { $(#[test] fn $scenario() { super::$scenario(crate::packet_lab::Family::V6); })+ }
    };
}

/// What both connections of a flow speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The first address of a namespace, with a port.
    pub(crate) fn of(self, place: &Namespace, port: u16) -> SocketAddr {
        match self {
            Self::V4 => place.address(port),
            Self::V6 => place.address6(port),
        }
    }

    /// As ip(8) wants it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// One frontend of mode `tcp` on path `packet`, in front of one server, whose connections the test accepts itself.
pub(crate) struct Lab {
    pub(crate) agent: Agent,
    pub(crate) listener: Listener,
    pub(crate) net: Net,
    pub(crate) family: Family,
}

/// A flow that the programs at the interfaces carry. Its sockets are the client's and the server's.
pub(crate) struct Spliced {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

/// What the lab's configuration says besides, and where its server is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lines<'a> {
    pub(crate) global: &'a str,
    pub(crate) frontend: &'a str,
    pub(crate) backend: &'a str,
    /// Where it is not the first address of the first namespace: an address of the last.
    pub(crate) server: Option<SocketAddr>,
}

impl Lab {
    pub(crate) fn start(family: Family) -> Self {
        Self::over(Net::new(1), family)
    }

    /// On a network with other settings.
    pub(crate) fn over(net: Net, family: Family) -> Self {
        Self::with(net, family, Lines::default())
    }

    /// With these lines in the configuration.
    pub(crate) fn with(net: Net, family: Family, lines: Lines<'_>) -> Self {
        let server = lines.server(&net, family);
        let config = Self::config(&net, family, lines);
        let place = if lines.server.is_some() { net.servers.last() } else { net.servers.first() };
        let place = place.expect("a server");
        let listener = place.listen(server.port());
        Self { agent: Agent::start(&net, &config), listener, net, family }
    }

    /// What its agent is told.
    pub(crate) fn config(net: &Net, family: Family, lines: Lines<'_>) -> Config {
        Config::new()
            .global(lines.global)
            .path(Path::Packet)
            .tcp("in", family.of(&net.balancer, PORT), "out", lines.frontend)
            .backend("out", lines.server(net, family), lines.backend)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.family.of(&self.net.balancer, PORT)
    }

    /// A new connection: the client's end and the server's.
    #[track_caller]
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        (self.net.client.connect(self.address()), self.listener.accept())
    }

    /// A new flow that has left the agent.
    #[track_caller]
    pub(crate) fn spliced(&self) -> Spliced {
        let [flow] = self.spliced_flows();
        flow
    }

    /// Several of them.
    #[track_caller]
    pub(crate) fn spliced_flows<const N: usize>(&self) -> [Spliced; N] {
        let flows = [(); N].map(|()| Spliced::from(self.pair()));
        self.until_spliced(&flows);
        flows
    }

    /// Talks until the programs carry these flows, by their own count, and no socket of the balancer's is left. All bytes from then on are the
    /// programs'.
    #[track_caller]
    pub(crate) fn until_spliced(&self, flows: &[Spliced]) {
        let away = self.agent.own_flows(Path::Packet) + flows.len() as u64;
        until("the flows to leave the agent", || {
            flows.iter().for_each(Spliced::ping);
            self.agent.own_flows(Path::Packet) >= away
        });
        for flow in flows {
            let port = flow.server.peer_addr().expect("connected").port();
            until("the agent's socket to be gone", || self.sockets(port) == 0);
        }
    }

    /// Sockets of the balancer's that have a connection with a server from this port.
    pub(crate) fn sockets(&self, port: u16) -> usize {
        let mut command = Command::new("ss");
        self.net.balancer.run(command.args(["-tnH", "sport", "=", &format!(":{port}")])).lines().count()
    }

    /// Bytes that others have carried than the programs.
    #[track_caller]
    pub(crate) fn bytes_beside(&self) -> u64 {
        let scrape = self.agent.scrape();
        let all = scrape.count("lb_path_bytes_total", &[]);
        all - scrape.count("lb_path_bytes_total", &[("path", "packet")])
    }

    /// A flow that stays in user space for the one reason, and is exact there; and that others leave beside it.
    #[track_caller]
    pub(crate) fn assert_kept(&self, flow: &Spliced, reason: &str) {
        const BYTES: u64 = 1 << 20;
        let mut pings = 0;
        let labels = [("path", "packet"), ("reason", reason)];
        until("it to be refused", || {
            flow.ping();
            pings += 1;
            self.agent.scrape().count("lb_path_fallbacks_total", &labels) > 0
        });
        stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
        let records = self.agent.until_records(1);
        assert_ne!(records[0].text("path"), "packet");
        assert_eq!((records[0].close(), records[0].number("sent_bytes")), ("finished", pings + BYTES));
        assert_eq!(self.bytes_beside(), 2 * (pings + BYTES));
        self.assert_refused(&[(reason, 1)]);
    }

    /// Asserts that flows were refused for these reasons, so often, and for no others.
    #[track_caller]
    pub(crate) fn assert_refused(&self, expected: &[(&str, u64)]) {
        let scrape = self.agent.scrape();
        let samples = scrape.samples.iter().filter(|sample| {
            sample.name == "lb_path_fallbacks_total"
                && sample.labels["path"] == "packet"
                && sample.value > 0.0
        });
        let refused: BTreeMap<&str, u64> = samples
            .map(|sample| {
                let reason = sample.labels["reason"].as_str();
                let labels = [("path", "packet"), ("reason", reason)];
                (reason, scrape.count("lb_path_fallbacks_total", &labels))
            })
            .collect();
        assert_eq!(refused, expected.iter().copied().collect());
    }

    /// Asserts that the agent has told of so many flows, all with this end, and that the programs have carried 99 % of their bytes.
    #[track_caller]
    pub(crate) fn assert_ended(&self, flows: usize, close: &str) {
        self.assert_closed(flows, close);
        self.agent.assert_share(Path::Packet, 99);
    }

    /// Asserts that the agent has told of so many flows that had left it, all with this end.
    #[track_caller]
    pub(crate) fn assert_closed(&self, flows: usize, close: &str) {
        self.assert_closes(&vec![close; flows]);
    }

    /// Asserts that the agent has told of flows that had left it, with these ends, in the order in which they were opened.
    #[track_caller]
    pub(crate) fn assert_closes(&self, closes: &[&str]) {
        let records = self.agent.until_records(closes.len());
        let told: Vec<_> = records.iter().map(|record| (record.close(), record.text("path"))).collect();
        let expected: Vec<_> = closes.iter().map(|close| (*close, "packet")).collect();
        assert_eq!(told, expected);
    }
}

impl Lines<'_> {
    fn server(&self, net: &Net, family: Family) -> SocketAddr {
        self.server.unwrap_or_else(|| family.of(net.server(), SERVER_PORT))
    }
}

impl From<(TcpStream, TcpStream)> for Spliced {
    fn from((client, server): (TcpStream, TcpStream)) -> Self {
        Self { client, server }
    }
}

impl Spliced {
    /// A message each way.
    #[track_caller]
    pub(crate) fn ping(&self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            say(from, b"?");
            assert_eq!(receive_exactly(to, 1), b"?");
        }
    }

    /// Who sends and who receives.
    pub(crate) fn towards(&self, is_upwards: bool) -> (&TcpStream, &TcpStream) {
        if is_upwards { (&self.client, &self.server) } else { (&self.server, &self.client) }
    }

    /// Ends it from both ends.
    #[track_caller]
    pub(crate) fn end(&self) {
        finish_both(&self.client, &self.server);
    }

    pub(crate) fn client_port(&self) -> u16 {
        self.client.local_addr().expect("connected").port()
    }
}

/// Waits until nothing is left of flows that have ended: no place, no port, and no connection that the programs know.
#[track_caller]
pub(crate) fn until_nothing_left(agent: &Agent) {
    agent.until_idle();
    for gauge in ["lb_packet_places_taken", "lb_packet_ports_taken"] {
        // Which is there.
        until(gauge, || agent.scrape().value(gauge, &[]) < 1.0);
    }
    assert_eq!(FlowMaps::of(&agent.process).keys(), 0, "connections that the programs know");
}
