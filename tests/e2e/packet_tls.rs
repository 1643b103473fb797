// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` under real programs: curl downloads from nginx by HTTP/2 over TLS, and nginx knows who asks.

use std::fs::File;
use std::io::Read;

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients::curl_command;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::process::{output, text};
use lb_tests::servers::Nginx;
use lb_tests::size;
use lb_tests::stream::Pattern;

use crate::packet_lab::Family;
use crate::support::PORT;

on_both_families! {
    a_download_by_http2_is_whole,
}

const NAME: &str = "alpha.example";

/// An nginx behind an agent that tells it by PROXY v2 who the client is.
fn serve(family: Family) -> (Net, Authority, Nginx, Agent) {
    let (net, authority) = (Net::new(1), Authority::new());
    let nginx = Nginx::start(net.server(), &authority.issue(NAME));
    let config = Config::new()
        .path(Path::Packet)
        .passthrough("tls", &[family.of(&net.balancer, PORT)], "")
        .route("tls", NAME, "alpha")
        .backend("alpha", family.of(net.server(), 443), "send-proxy = \"v2\"");
    let agent = Agent::start(&net, &config);
    (net, authority, nginx, agent)
}

/// Two short requests, and after a pause of a third of a second a long one, on the same connection: it has left by then.
fn a_download_by_http2_is_whole(family: Family) {
    let (net, authority, nginx, agent) = serve(family);
    let bytes = size(32 << 20, 1 << 30);
    nginx.give("words", 1, bytes);
    let files = tempfile::tempdir().expect("a temporary directory");
    let fetched = files.path().join("words");
    let mut command = curl_command(&authority, NAME, family.of(&net.balancer, PORT), "/");
    command.args([&format!("https://{NAME}/ends"), &format!("https://{NAME}/files/words")]);
    command.args(["--http2", "--rate", "3/s", "--write-out", "%{http_version} %{num_connects}\n"]);
    command.args(["--output", "/dev/null", "--output", "/dev/null", "--output"]).arg(&fetched);
    let output = net.client.enter(|| output(&mut command));
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    assert_eq!(text(&output.stdout), "2 1\n2 0\n2 0\n", "version and new connections of each");
    assert_pattern(&fetched, 1, bytes);
    let clients: Vec<String> = nginx.log();
    let client = family.of(&net.client, 0).ip().to_string();
    assert!(clients.len() == 3 && clients.iter().all(|line| line.starts_with(&client)), "{clients:?}");
    let records = agent.until_records(1);
    assert_eq!((records[0].text("path"), records[0].text("sni")), ("packet", NAME));
    // curl closes as soon as it has said goodbye.
    assert!(["finished", "client-reset", "server-closed"].contains(&records[0].close()), "{records:?}");
    agent.assert_share(Path::Packet, 99);
}

/// The file is the beginning of the pattern of a seed.
#[track_caller]
fn assert_pattern(file: &std::path::Path, seed: u64, bytes: u64) {
    let mut file = File::open(file).expect("curl has written it");
    assert_eq!(file.metadata().expect("a file").len(), bytes);
    let (mut pattern, mut read, mut expected) = (Pattern::new(seed), vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut read).expect("a file");
        if count == 0 {
            return;
        }
        pattern.fill(&mut expected[..count]);
        assert!(read[..count] == expected[..count], "the file is not what was given");
    }
}
