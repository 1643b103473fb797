// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client sends together with its hello arrives once, in order, behind the PROXY header.

use std::net::TcpStream;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::{Listener, Net};
use lb_tests::proxy_header;
use lb_tests::stream::{End, Pattern, finish, receive_all, receive_exactly, say};
use rustix::process::Signal;

use crate::support::{PORT, SERVER_PORT, assert_left, until_carried};

on_all_paths! {
    sixteen_kilobytes_behind_the_hello_arrive_once,
    a_client_that_has_already_finished_is_served,
}

fn sixteen_kilobytes_behind_the_hello_arrive_once(path: Path) {
    let early = Early::start(path);
    let wire = Early::wire(16 * 1024);
    let client = early.client();
    say(&client, &wire);
    let server = early.accept(&client);
    assert!(receive_exactly(&server, wire.len()) == wire, "the bytes differ");
    until_carried(&early.agent, path, 1, wire.len() as u64);
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    early.answer(&client, &server, &wire);
    early.agent.assert_own_path(path, 1);
    early.agent.assert_share(path, 100);
}

/// Nobody has accepted it before its end, so that its socket is in no state in which a socket map takes it.
fn a_client_that_has_already_finished_is_served(path: Path) {
    let early = Early::start(path);
    let wire = Early::wire(0);
    early.agent.process.signal(Signal::STOP);
    early.agent.process.until_stopped();
    let client = early.client();
    say(&client, &wire);
    finish(&client);
    early.agent.process.signal(Signal::CONT);
    let server = early.accept(&client);
    assert_eq!(receive_all(&server), (wire.clone(), End::Finished));
    early.answer(&client, &server, &wire);
    assert_left(&early.agent, path, "not-established", 1);
}

/// A frontend of mode `tls-passthrough` in front of one server for the name `alpha.example`, which gets a PROXY header.
struct Early {
    agent: Agent,
    listener: Listener,
    net: Net,
    path: Path,
}

impl Early {
    fn start(path: Path) -> Self {
        let net = Net::new(1);
        let listener = net.server().listen(SERVER_PORT);
        let config = Config::new()
            .path(path)
            .passthrough("tls", &[net.frontend(PORT)], "")
            .route("tls", "alpha.example", "alpha")
            .backend("alpha", net.server().address(SERVER_PORT), "send-proxy = \"v2\"");
        Self { agent: Agent::start(&net, &config), listener, net, path }
    }

    /// A hello with so many bytes behind it.
    fn wire(bytes: usize) -> Vec<u8> {
        [Hello::named("alpha.example").wire(), Pattern::beginning(1, bytes)].concat()
    }

    fn client(&self) -> TcpStream {
        self.net.client.connect(self.net.frontend(PORT))
    }

    /// The server's end, behind the header.
    #[track_caller]
    fn accept(&self, client: &TcpStream) -> TcpStream {
        let server = self.listener.accept();
        assert_eq!(proxy_header::read(&server).source(), client.local_addr().expect("connected"));
        server
    }

    /// The server answers a client that has finished, and both are done. All is counted.
    #[track_caller]
    fn answer(&self, client: &TcpStream, server: &TcpStream, wire: &[u8]) {
        say(server, b"answer");
        finish(server);
        assert_eq!(receive_all(client), (b"answer".to_vec(), End::Finished));
        assert_eq!(self.agent.until_records(1)[0].number("received_bytes"), wire.len() as u64);
        assert_eq!(self.agent.assert_path(self.path, 1), wire.len() as u64 + 6);
    }
}
