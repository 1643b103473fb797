// SPDX-License-Identifier: MIT OR Apache-2.0
//! First bytes that do not name a backend get what the configuration says, by reason, and are counted by reason.

use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Record};
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{answer, reporter};
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};

use crate::support::{PORT, SERVER_PORT};

/// A way to fail at naming a backend.
struct Case {
    reason: &'static str,
    bytes: Vec<u8>,
    /// Level and description of the alert (RFC 8446 section 6) that a rejected client must get.
    alert: Option<[u8; 2]>,
}

/// Short enough to wait for, long enough to finish everything else before.
const TIMEOUT: Duration = Duration::from_secs(2);

const SETTINGS: &str = "client-hello-timeout = \"2s\"\nclient-hello-max = \"4KiB\"";

const REASONS: [&str; 6] = ["no-name", "unknown-name", "not-tls", "malformed", "too-large", "timeout"];

#[test]
fn rejected_clients_get_the_right_alert_and_a_clean_end() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &config(&net, ""));
    for (index, case) in cases().into_iter().enumerate() {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, &case.bytes);
        let (got, end) = receive_all(&client);
        assert_eq!(end, End::Finished, "{}: {got:02x?}", case.reason);
        assert_alert(&case, &got);
        assert_recorded(&agent.until_records(index + 1)[index], &case, "hello-rejected");
    }
    assert_counted_once_more_for(&agent, cases());
}

#[test]
fn a_backend_as_policy_gets_the_bytes_untouched() {
    let net = Net::new(1);
    let policies = REASONS.map(|reason| format!("on-{reason} = \"fallback\"")).join("\n");
    let server = reporter(net.server(), SERVER_PORT + 1, "fallback", false);
    let agent = Agent::start(&net, &config(&net, &policies));
    for (index, case) in cases().into_iter().enumerate() {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, &case.bytes);
        let log_position = index + 1;
        agent.until_count("lb_client_hello_exceptions_total", &[], log_position as u64);
        say(&client, b" and more");
        finish(&client);
        let expected = [&case.bytes[..], b" and more"].concat();
        let (got, end) = receive_all(&client);
        assert_eq!(
            (got, end),
            (answer("fallback", &expected).into_bytes(), End::Finished),
            "{}",
            case.reason
        );
        assert_eq!(server.outcome().bytes, expected, "{}", case.reason);
        let record = &agent.until_records(log_position)[index];
        assert_recorded(record, &case, "finished");
        assert_eq!(record.text("backend"), "fallback");
    }
    assert_counted_once_more_for(&agent, cases());
}

#[test]
fn a_silent_client_is_closed_at_the_deadline_without_a_byte() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &config(&net, ""));
    let begin = Instant::now();
    let client = net.client.connect(net.frontend(PORT));
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    assert!(begin.elapsed() >= TIMEOUT, "{:?}", begin.elapsed());
    assert_eq!(agent.until_records(1)[0].close(), "hello-rejected");
    agent.until_count("lb_client_hello_exceptions_total", &[("reason", "timeout")], 1);
}

#[test]
fn a_client_that_leaves_before_its_hello_is_no_exception() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &config(&net, ""));
    let partial = &Hello::named("alpha.example").wire()[..100];
    for bytes in [&b""[..], partial] {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, bytes);
        finish(&client);
        let (got, end) = receive_all(&client);
        assert!(got.is_empty() && end != End::Silent, "{got:02x?}, {end:?}");
    }
    let records = agent.until_records(2);
    assert!(records.iter().all(|record| record.close() == "hello-aborted"), "{records:?}");
    assert_eq!(agent.scrape().count("lb_client_hello_exceptions_total", &[]), 0);
}

/// The deadline is absolute: bytes do not extend it.
#[test]
fn a_client_that_drips_is_closed_at_the_deadline() {
    let net = Net::new(1);
    let _agent = Agent::start(&net, &config(&net, ""));
    let wire = Hello::named("alpha.example").wire();
    let begin = Instant::now();
    let client = net.client.connect(net.frontend(PORT));
    let (mut next, patience) = (wire.iter(), Duration::from_millis(100));
    client.set_read_timeout(Some(patience)).expect("a socket");
    // Each wait for an answer is the pause before the next byte.
    while begin.elapsed() < TIMEOUT * 5 {
        say(&client, &[*next.next().expect("fewer pauses than bytes")]);
        match receive_all(&client) {
            (_, End::Silent) => {}
            (alert, end) => {
                assert!((TIMEOUT..TIMEOUT * 4).contains(&begin.elapsed()), "{:?}", begin.elapsed());
                assert_eq!(end, End::Finished);
                assert_eq!(&alert[5..], [1, 0], "close_notify");
                return;
            }
        }
    }
    panic!("still open after {:?}", begin.elapsed());
}

/// A rejected client that goes on sending must still get its alert, not a RST for unread bytes.
#[test]
fn an_alert_survives_bytes_behind_the_hello() {
    let net = Net::new(1);
    let _agent = Agent::start(&net, &config(&net, ""));
    let client = net.client.connect(net.frontend(PORT));
    say(&client, &[Hello::named("unknown.example").wire(), vec![0; 1000]].concat());
    let alert = receive_exactly(&client, 7);
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 112][..]));
    assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
}

fn cases() -> Vec<Case> {
    let mut malformed = Hello::named("alpha.example").wire();
    // The length of the session identifier (RFC 8446 section 4.1.2: at most 32), behind 5 bytes of record header, 4 of handshake
    // header, 2 of version and 32 of random.
    malformed[43] = 0xff;
    let case = |reason, bytes, alert| Case { reason, bytes, alert };
    vec![
        case("no-name", Hello::nameless().wire(), Some([2, 109])),
        case("unknown-name", Hello::named("unknown.example").wire(), Some([2, 112])),
        case("not-tls", b"GET / HTTP/1.1\r\nHost: alpha.example\r\n\r\n".to_vec(), None),
        case("malformed", malformed, Some([2, 50])),
        case("too-large", Hello::named("alpha.example").sized(8000).wire(), Some([2, 47])),
        case("timeout", Hello::named("alpha.example").wire()[..300].to_vec(), Some([1, 0])),
    ]
}

fn config(net: &Net, policies: &str) -> Config {
    Config::new()
        .passthrough("tls", &[net.frontend(PORT)], &format!("{SETTINGS}\n{policies}"))
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(SERVER_PORT), "")
        .backend("fallback", net.server().address(SERVER_PORT + 1), "")
}

#[track_caller]
fn assert_alert(case: &Case, got: &[u8]) {
    let Some([level, description]) = case.alert else {
        assert!(got.is_empty(), "{}: {got:02x?}", case.reason);
        return;
    };
    let [21, 3, 1..=3, 0, 2, got_level, got_description] = *got else {
        panic!("{}: not one alert: {got:02x?}", case.reason);
    };
    assert_eq!((got_level, got_description), (level, description), "{}", case.reason);
}

#[track_caller]
fn assert_recorded(record: &Record, case: &Case, close: &str) {
    assert_eq!((record.close(), record.text("hello_exception")), (close, case.reason));
}

#[track_caller]
fn assert_counted_once_more_for(agent: &Agent, cases: Vec<Case>) {
    let scrape = agent.scrape();
    for Case { reason, .. } in cases {
        let count = scrape.count("lb_client_hello_exceptions_total", &[("reason", reason)]);
        assert_eq!(count, 1, "{reason}");
    }
}
