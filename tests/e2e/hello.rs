// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ClientHello never goes to the wrong backend, however it is cut, written or broken.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use lb_tests::agent::Agent;
use lb_tests::hello::{Hello, Verdict, judge, records};
use lb_tests::net::{Net, try_connect_here};
use lb_tests::peer::{answer, ask};
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{finish, receive_all, receive_exactly, say};

use crate::support::{PORT, allow_many_connections, two_names, two_reporters};

/// How many connections are between their two segments at a time: that is what makes the agent see the first one alone.
const BATCH: usize = 64;

#[test]
fn a_hello_split_at_every_byte_in_one_record_goes_right() {
    split_everywhere(&[]);
}

#[test]
fn a_hello_split_at_every_byte_behind_a_one_byte_record_goes_right() {
    split_everywhere(&[1]);
}

#[test]
fn a_hello_split_at_every_byte_in_three_records_goes_right() {
    split_everywhere(&[600, 600]);
}

#[test]
fn a_hello_split_at_every_byte_with_a_record_border_in_the_name_goes_right() {
    split_everywhere(&[1793]);
}

#[test]
fn a_hello_split_at_every_byte_in_one_byte_records_goes_right() {
    split_everywhere(&[1; 1800]);
}

#[test]
fn hellos_of_all_sizes_and_spellings_go_right() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &two_names(&net, ""));
    let _servers = two_reporters(&net);
    let cases = [
        ("alpha", Hello::named("alpha.example").wire()),
        ("alpha", Hello::named("ALPHA.Example").wire()),
        ("alpha", Hello::named("alpha.example.").wire()),
        ("omega", Hello::named("OMEGA.test.").wire()),
        ("alpha", Hello::named("alpha.example").sized(16 * 1024).wire()),
        ("omega", records(&Hello::named("omega.test").sized(16 * 1024).handshake(), &[1, 1, 5000])),
        ("omega", Hello::named("omega.test").alpn(&[]).wire()),
        ("alpha", Hello::named("alpha.example").ech().wire()),
    ];
    let count = cases.len();
    for (name, wire) in cases {
        let client = net.client.connect(net.frontend(PORT));
        assert_eq!(ask(&client, &wire), answer(name, &wire).into_bytes(), "{name}, {} bytes", wire.len());
    }
    let records = agent.until_records(count);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_eq!(agent.scrape().count("lb_client_hello_ech_total", &[]), 1);
}

/// RFC 8446 section 5.1: a record may carry the end of one message and the beginning of the next; a client that sends more
/// behind its hello must not confuse routing.
#[test]
fn what_follows_the_hello_does_not_matter() {
    let net = Net::new(1);
    let _agent = Agent::start(&net, &two_names(&net, ""));
    let _servers = two_reporters(&net);
    let decoy = Hello::named("omega.test").wire();
    let wire = [Hello::named("alpha.example").wire(), decoy].concat();
    let client = net.client.connect(net.frontend(PORT));
    assert_eq!(ask(&client, &wire), answer("alpha", &wire).into_bytes());
}

/// What a receive low-water mark of the peeking phase would break, if it were left behind.
#[test]
fn single_bytes_flow_after_a_split_hello() {
    let net = Net::new(1);
    let _agent = Agent::start(&net, &two_names(&net, ""));
    let listener = net.server().listen(6001);
    let wire = Hello::named("alpha.example").sized(8000).wire();
    let client = net.client.connect(net.frontend(PORT));
    for part in wire.chunks(1000) {
        say(&client, part);
    }
    let server = listener.accept();
    assert_eq!(receive_exactly(&server, wire.len()), wire);
    for byte in 0..50 {
        say(&client, &[byte]);
        assert_eq!(receive_exactly(&server, 1), [byte]);
        say(&server, &[byte]);
        assert_eq!(receive_exactly(&client, 1), [byte]);
    }
}

/// The agent sleeps until all that its parser needs is there (SO_RCVLOWAT, socket(7)), whatever trickles in.
#[test]
fn a_hello_in_single_byte_segments_goes_right_and_wakes_nobody_in_vain() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &two_names(&net, ""));
    let _servers = two_reporters(&net);
    let wire = Hello::named("omega.test").sized(1800).wire();
    let client = net.client.connect(net.frontend(PORT));
    let wakeups = || agent.scrape().count("lb_worker_wakeups_total", &[]);
    let before = wakeups();
    for byte in &wire {
        say(&client, &[*byte]);
    }
    finish(&client);
    assert_eq!(receive_all(&client).0, answer("omega", &wire).into_bytes());
    agent.until_idle();
    let woken = wakeups() - before;
    assert!(woken < 200, "{woken} wake-ups for {} segments", wire.len());
}

/// Routing by rustls' reading of the same bytes: it accepts them with a name, then that name's backend must get them; it does
/// not, then no other backend than the unbroken hello's may.
#[test]
fn mutated_hellos_go_where_rustls_says() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &two_names(&net, ""));
    let _servers = two_reporters(&net);
    allow_many_connections(&net);
    let hellos = size(100_000, 300_000);
    let (valid, next, frontend) = (AtomicUsize::new(0), AtomicUsize::new(0), net.frontend(PORT));
    let send = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < hellos) {
            valid.fetch_add(usize::from(send_mutated(frontend, seed as u64)), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..8).for_each(|_| {
            scope.spawn(|| net.client.enter(send));
        });
    });
    let valid = valid.into_inner();
    assert!(valid >= hellos / 3, "only {valid} of {hellos} hellos stayed valid");
    agent.until_idle();
}

/// Returns whether rustls accepts the hello with a name of ours. To be called in the client's namespace.
fn send_mutated(frontend: SocketAddr, seed: u64) -> bool {
    let mut random = Random::new(seed);
    let original = ["alpha.example", "omega.test"][random.below(2)];
    let wire = mutated(&mut random, original);
    let client = try_connect_here(frontend).expect("the agent accepts");
    say(&client, &wire);
    // The agent may have reset the connection already: it only promises a clean end to those who stay within the limits.
    let _ = client.shutdown(std::net::Shutdown::Write);
    let (got, _) = receive_all(&client);
    let backend_of = |name: &str| match name.to_ascii_lowercase().trim_end_matches('.') {
        "alpha.example" => Some("alpha"),
        "omega.test" => Some("omega"),
        _ => None,
    };
    let verdict = judge(&wire);
    let expected = match &verdict {
        Verdict::Name(name) => backend_of(name),
        _ => None,
    };
    if let Some(backend) = expected {
        assert_eq!(got, answer(backend, &wire).into_bytes(), "seed {seed}: rustls says {verdict:?}");
        return true;
    }
    let intended = backend_of(original).expect("one of our names");
    let other = if intended == "alpha" { "omega" } else { "alpha" };
    assert!(!got.starts_with(other.as_bytes()), "seed {seed}: misrouted to {other}; rustls says {verdict:?}");
    false
}

/// A hello for `name` with one to three changes; more than half of them leave it valid.
fn mutated(random: &mut Random, name: &str) -> Vec<u8> {
    let mut hello = Hello::named(name);
    hello.random = random.bytes(32).try_into().expect("32 bytes");
    if random.below(2) == 0 {
        let upper = |byte: u8| if byte.is_multiple_of(3) { byte.to_ascii_uppercase() } else { byte };
        hello.server_name = Some(name.bytes().map(upper).collect());
    }
    if random.below(3) == 0 {
        let kind = 0x0a0a | (u16::from(random.byte() & 0xf0) * 0x0101);
        let length = random.below(300);
        hello.extensions.push((kind, random.bytes(length)));
    }
    hello.has_ech = random.below(4) == 0;
    let mut handshake = hello.handshake();
    let is_broken = random.below(2) == 0;
    if is_broken {
        for _ in 0..=random.below(3) {
            let at = random.below(handshake.len());
            handshake[at] = random.byte();
        }
    }
    let sizes: Vec<usize> = (0..random.below(6)).map(|_| 1 + random.below(400)).collect();
    let mut wire = records(&handshake, &sizes);
    match random.below(if is_broken { 4 } else { 12 }) {
        0 => wire.truncate(1 + random.below(wire.len() - 1)),
        1 if is_broken => {
            let at = random.below(wire.len());
            wire[at] ^= 1 << random.below(8);
        }
        _ => {}
    }
    wire
}

/// Sends hellos of 1,800 bytes in records of these sizes, each in two segments, cut at every byte, and asserts that each goes to
/// its backend, byte for byte.
fn split_everywhere(sizes: &[usize]) {
    let net = Net::new(1);
    let agent = Agent::start(&net, &two_names(&net, ""));
    let _servers = two_reporters(&net);
    let wires: Vec<(&str, Vec<u8>)> = [("alpha", "alpha.example"), ("omega", "omega.test")]
        .map(|(backend, name)| (backend, records(&Hello::named(name).sized(1800).handshake(), sizes)))
        .into();
    let cuts: Vec<usize> = (1..wires[0].1.len()).collect();
    for batch in cuts.chunks(BATCH) {
        let open = |cut: &usize| {
            let (backend, wire) = &wires[cut % 2];
            let client = net.client.connect(net.frontend(PORT));
            say(&client, &wire[..*cut]);
            (client, *backend, wire, *cut)
        };
        let begun: Vec<(TcpStream, &str, &Vec<u8>, usize)> = batch.iter().map(open).collect();
        for (client, backend, wire, cut) in begun {
            say(&client, &wire[cut..]);
            finish(&client);
            let got = receive_all(&client).0;
            assert_eq!(got, answer(backend, wire).into_bytes(), "cut at {cut}");
        }
    }
    let count = agent.scrape().count("lb_frontend_connections_total", &[]);
    assert_eq!(count, cuts.len() as u64);
}
