// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: a WebSocket over TLS, through nginx to its server, is held open while agents come and go.

use lb_tests::agent::Agent;
use lb_tests::authority::{Authority, Identity};
use lb_tests::bpffs::Bpffs;
use lb_tests::clients::Browser;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::process::text;
use lb_tests::servers::Nginx;
use lb_tests::size;
use lb_tests::wait::{until, until_some};
use lb_tests::websocket::{self, PAGE, SocketServer};
use serde_json::Value;

use crate::packet_lab::Family;
use crate::packet_stage::{STATE, kill};
use crate::support::PORT;

on_both_families! {
    a_websocket_is_held_open_across_agents,
    a_browsers_websocket_is_held_open_across_agents,
}

const NAME: &str = "alpha.example";

/// All but the agents.
struct Stage {
    net: Net,
    family: Family,
    authority: Authority,
    identity: Identity,
    nginx: Nginx,
    sockets: SocketServer,
    bpffs: Bpffs,
}

fn a_websocket_is_held_open_across_agents(family: Family) {
    let stage = Stage::new(family);
    let agent = stage.agent();
    let frontend = family.of(&stage.net.balancer, PORT);
    let mut client = websocket::connect(&stage.net.client, &stage.authority, NAME, frontend);
    let (agent, session) = stage.change_agents(agent);
    assert_eq!(websocket::close(&mut client), ["closed 1000"], "{:?}", client.stderr());
    assert_eq!(stage.sockets.until_closed(), "1000");
    stage.assert_told(&agent, &session);
    agent.until_idle();
}

fn a_browsers_websocket_is_held_open_across_agents(family: Family) {
    let stage = Stage::new(family);
    stage.nginx.give_page("socket.html", PAGE);
    let agent = stage.agent();
    let frontend = family.of(&stage.net.balancer, PORT);
    let mut browser = Browser::open(&stage.net.client, &stage.identity, frontend, "/files/socket.html");
    let (agent, session) = stage.change_agents(agent);
    browser.close();
    stage.assert_told(&agent, &session);
}

impl Stage {
    fn new(family: Family) -> Self {
        let (net, authority) = (Net::new(1), Authority::new());
        let identity = authority.issue(NAME);
        let nginx = Nginx::start(net.server(), &identity);
        let sockets = SocketServer::start(net.server());
        Self { net, family, authority, identity, nginx, sockets, bpffs: Bpffs::new() }
    }

    fn config(&self) -> Config {
        Config::new()
            .global(&format!("packet-state = \"{}\"", self.bpffs.path(STATE).display()))
            .path(Path::Packet)
            .passthrough("tls", &[self.family.of(&self.net.balancer, PORT)], "")
            .route("tls", NAME, "alpha")
            .backend("alpha", self.family.of(self.net.server(), 443), "send-proxy = \"v2\"")
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.net, &self.config())
    }

    /// Once the WebSocket has left its agent, kills and stops agents in turn while it talks on, and returns the last one, and what it lists of the WebSocket.
    #[track_caller]
    fn change_agents(&self, mut agent: Agent) -> (Agent, Value) {
        self.sockets.until_more(10);
        until("the WebSocket to leave the agent", || {
            self.sessions().iter().any(|session| session["path"] == "packet" && moved(session) > 20_000)
        });
        for round in 0..size(2, 20) {
            let before = self.largest_session();
            let is_killed = round % 2 == 0;
            if is_killed {
                kill(&mut agent);
            } else {
                agent.terminate();
                assert!(agent.wait().success());
            }
            self.sockets.until_more(20);
            // A browser has other connections, too.
            let records = agent.records();
            assert!(records.iter().all(|record| before["client"] != record.text("client")), "{records:?}");
            agent = self.agent();
            self.sockets.until_more(20);
            let after = self.largest_session();
            for field in ["id", "client", "local", "server_address"] {
                assert_eq!(before[field], after[field], "{field}");
            }
            assert_eq!(after["path"], "packet");
            assert!(moved(&after) > moved(&before), "{after} comes after {before}");
            until("this agent to count what the programs carry", || {
                agent.scrape().count("lb_path_bytes_total", &[("path", "packet")]) > 0
            });
        }
        (agent, self.largest_session())
    }

    /// What `lb sessions` lists.
    #[track_caller]
    fn sessions(&self) -> Vec<Value> {
        let said = Agent::launch(&self.net).verb(&["sessions", "--format", "json"], &self.config());
        let listed: Value = serde_json::from_str(&text(&said.stdout))
            .unwrap_or_else(|error| panic!("{error}: {}", text(&said.stderr)));
        listed["sessions"].as_array().expect("a list").clone()
    }

    /// The one that has moved most.
    #[track_caller]
    fn largest_session(&self) -> Value {
        self.sessions().into_iter().max_by_key(moved).expect("a session")
    }

    /// Asserts that the last agent tells of the WebSocket, and of all its bytes.
    #[track_caller]
    fn assert_told(&self, agent: &Agent, session: &Value) {
        let told = until_some("the WebSocket's line", || {
            agent.records().into_iter().find(|record| session["client"] == record.text("client"))
        });
        assert_eq!((told.text("path"), told.text("sni")), ("packet", NAME), "{told:?}");
        let heard = self.sockets.heard();
        for field in ["received_bytes", "sent_bytes"] {
            // TLS and WebSocket add less than 100 bytes to a message, and what they begin with is less than 10,000.
            let (bytes, most) = (told.number(field), heard.bytes + 100 * heard.messages as u64 + 10_000);
            assert!((heard.bytes..most).contains(&bytes), "{field}: {bytes} for {heard:?}");
        }
        let client = self.family.of(&self.net.client, 0).ip().to_string();
        let lines = self.nginx.log();
        assert!(lines.iter().any(|line| line.starts_with(&client) && line.ends_with("101")), "{lines:?}");
    }
}

/// Bytes of a session, both ways.
fn moved(session: &Value) -> u64 {
    ["received_bytes", "sent_bytes"].iter().filter_map(|field| session[*field].as_u64()).sum()
}
