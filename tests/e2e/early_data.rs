// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client sends together with its hello arrives once, in order, behind the PROXY header.

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::proxy_header;
use lb_tests::stream::{End, Pattern, finish, receive_all, say};

use crate::support::{PORT, SERVER_PORT};

on_all_paths! {
    sixteen_kilobytes_behind_the_hello_arrive_once,
    a_client_that_has_already_finished_is_served,
}

fn sixteen_kilobytes_behind_the_hello_arrive_once(path: Path) {
    behind_the_hello(path, 16 * 1024);
}

fn a_client_that_has_already_finished_is_served(path: Path) {
    behind_the_hello(path, 0);
}

fn behind_the_hello(path: Path, bytes: usize) {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let config = Config::new()
        .path(path)
        .passthrough("tls", &[net.frontend(PORT)], "")
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(SERVER_PORT), "send-proxy = \"v2\"");
    let agent = Agent::start(&net, &config);
    let wire = [Hello::named("alpha.example").wire(), Pattern::beginning(1, bytes)].concat();
    let client = net.client.connect(net.frontend(PORT));
    say(&client, &wire);
    finish(&client);
    let server = listener.accept();
    assert_eq!(proxy_header::read(&server).source(), client.local_addr().expect("connected"));
    let (got, end) = receive_all(&server);
    assert_eq!((got.len(), end), (wire.len(), End::Finished));
    assert!(got == wire, "the bytes differ");
    say(&server, b"answer");
    finish(&server);
    assert_eq!(receive_all(&client), (b"answer".to_vec(), End::Finished));
    assert_eq!(agent.until_records(1)[0].number("received_bytes"), wire.len() as u64);
    assert_eq!(agent.assert_path(path, 1), wire.len() as u64 + 6);
}
