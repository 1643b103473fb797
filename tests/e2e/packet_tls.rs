// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` under real programs: curl and Chromium download from nginx by HTTP/2 over TLS, and nginx knows who asks.

use std::fs::File;
use std::io::Read;

use lb_tests::agent::Agent;
use lb_tests::authority::{Authority, Identity};
use lb_tests::clients::{chromium_at, curl_command};
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
    a_browser_gets_the_whole_page,
}

const NAME: &str = "alpha.example";

/// An nginx behind an agent that tells it by PROXY v2 who the client is.
fn serve(family: Family) -> (Net, (Authority, Identity), Nginx, Agent) {
    let (net, authority) = (Net::new(1), Authority::new());
    let identity = authority.issue(NAME);
    let nginx = Nginx::start(net.server(), &identity);
    let config = Config::new()
        .path(Path::Packet)
        .passthrough("tls", &[family.of(&net.balancer, PORT)], "")
        .route("tls", NAME, "alpha")
        .backend("alpha", family.of(net.server(), 443), "send-proxy = \"v2\"");
    let agent = Agent::start(&net, &config);
    (net, (authority, identity), nginx, agent)
}

/// Two short requests, and after a pause of a third of a second a long one, on the same connection: it has left by then.
fn a_download_by_http2_is_whole(family: Family) {
    let (net, (authority, _), nginx, agent) = serve(family);
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

/// Waits for half a second, fetches BYTES of a file in the connection by which it came itself, and shows how long that is, with its FNV-1a of 32
/// bits. It asks for parts that fit into a string.
const PAGE: &str = r#"<!doctype html><title>words</title><p id="said">nothing</p><script>
const until = Date.now() + 500;
while (Date.now() < until);
let all = 0, sum = 0x811c9dc5;
while (all < BYTES) {
  const request = new XMLHttpRequest();
  request.open("GET", "/files/words", false);
  request.setRequestHeader("Range", `bytes=${all}-${all + (64 << 20) - 1}`);
  request.overrideMimeType("text/plain; charset=x-user-defined");
  request.send();
  const words = request.responseText;
  if (request.status != 206 || words.length == 0) break;
  for (let at = 0; at < words.length; at++) sum = Math.imul(sum ^ (words.charCodeAt(at) & 255), 0x01000193);
  all += words.length;
}
document.getElementById("said").textContent = `${all} bytes, sum ${sum >>> 0}`;
</script>"#;

fn a_browser_gets_the_whole_page(family: Family) {
    // The authority has the files.
    let (net, (_authority, identity), nginx, agent) = serve(family);
    let bytes = size(16 << 20, 1 << 30);
    nginx.give("words", 1, bytes);
    nginx.give_page("page.html", &PAGE.replace("BYTES", &bytes.to_string()));
    let shown = chromium_at(&net.client, &identity, family.of(&net.balancer, PORT), "/files/page.html");
    let expected = format!("{bytes} bytes, sum {}", fnv_of_pattern(1, bytes));
    assert!(
        shown.contains(&expected),
        "{expected:?} is not in {shown:?}; {:?} {:?}",
        nginx.log(),
        agent.records()
    );
    // Chromium may ask for an icon, too, and open a connection that it does not use.
    let client = family.of(&net.client, 0).ip().to_string();
    let lines = nginx.log();
    assert!(lines.len() >= 2 && lines.iter().all(|line| line.starts_with(&client)), "{lines:?}");
    let asked = nginx.protocols();
    let words = asked.iter().filter(|line| **line == "/files/words HTTP/2.0").count() as u64;
    assert_eq!(words, bytes.div_ceil(64 << 20), "{asked:?}");
    agent.until_idle();
    let records = agent.records();
    let page = records.iter().max_by_key(|record| record.number("sent_bytes")).expect("a connection");
    assert_eq!((page.text("path"), page.text("sni")), ("packet", NAME));
    assert!(page.number("sent_bytes") > bytes, "{page:?}");
    agent.assert_share(Path::Packet, 98);
}

/// FNV-1a of 32 bits (Fowler, Noll and Vo), as the page computes it, of the beginning of the pattern of a seed.
fn fnv_of_pattern(seed: u64, bytes: u64) -> u32 {
    let (mut pattern, mut chunk, mut sum) = (Pattern::new(seed), vec![0; 1 << 20], 0x811c_9dc5_u32);
    for _ in 0..bytes >> 20 {
        pattern.fill(&mut chunk);
        for byte in &chunk {
            sum = (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
    sum
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
