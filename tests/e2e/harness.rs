// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness itself, without the agent: what the other tests believe of it must be true of direct connections.

use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::time::Duration;

use lb_tests::authority::{Authority, Identity};
use lb_tests::clients;
use lb_tests::hello::Hello;
use lb_tests::net::{Namespace, Net};
use lb_tests::peer::{answer, ask, echo, reporter};
use lb_tests::process::text;
use lb_tests::proxy_header;
use lb_tests::servers::{Haproxy, Nginx, Tshark};
use lb_tests::stream::{
    End, Pattern, finish, receive, receive_all, receive_exactly, reset, say, send, send_until_blocked,
};
use lb_tests::wait::until_some;

#[test]
fn a_client_reaches_a_server_directly_over_ipv4_and_ipv6() {
    let net = Net::new(1);
    let server = reporter(net.server(), 80, "server", false);
    for address in [net.server().address(80), net.server().address6(80)] {
        let stream = net.client.connect(address);
        let local = stream.local_addr().expect("connected");
        assert_eq!(ask(&stream, b"hello"), answer("server", b"hello").into_bytes());
        assert_eq!(server.outcome().peer, local);
    }
}

#[test]
fn bytes_and_ends_are_seen_as_they_are() {
    let net = Net::new(1);
    let listener = net.server().listen(80);
    let (client, server) = (net.client.connect(net.server().address(80)), listener.accept());
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| send(&client, 1, 10_000_001).inspect(|_| finish(&client)));
        let received = receive(&server, 1);
        assert_eq!((received.bytes, received.wrong_at, received.end), (10_000_001, None, End::Finished));
        assert_eq!(sent.join().expect("no panic").expect("sent"), received.sha256);
    });
    say(&server, b"x");
    assert_eq!(receive_exactly(&client, 1), b"x");
    reset(server);
    assert_eq!(receive(&client, 1).end, End::Reset);
}

#[test]
fn a_changed_byte_is_located() {
    let net = Net::new(1);
    let listener = net.server().listen(80);
    let (client, server) = (net.client.connect(net.server().address(80)), listener.accept());
    let mut bytes = Pattern::beginning(1, 200_000);
    bytes[150_000] ^= 1;
    let received = std::thread::scope(|scope| {
        scope.spawn(|| (say(&client, &bytes), finish(&client)));
        receive(&server, 1)
    });
    let at = received.wrong_at.expect("a difference");
    assert!((150_000 - 64 * 1024..=150_000).contains(&at), "{at}");
}

/// How a relay can be wrong about one byte.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Dropped,
    Doubled,
    Swapped,
}

/// A relay that is wrong about one byte in the middle of a megabyte is caught, and one that is not is not.
#[test]
fn a_relay_that_drops_doubles_or_swaps_a_byte_is_caught() {
    let bytes = 1_000_000;
    for (fault, arriving) in [
        (Fault::None, bytes),
        (Fault::Dropped, bytes - 1),
        (Fault::Doubled, bytes + 1),
        (Fault::Swapped, bytes),
    ] {
        let net = Net::new(1);
        let (front, back) = (net.balancer.listen(80), net.server().listen(80));
        let client = net.client.connect(net.balancer.address(80));
        let (inwards, outwards) = (front.accept(), net.balancer.connect(net.server().address(80)));
        let server = back.accept();
        let (sent, received) = std::thread::scope(|scope| {
            let sent = scope.spawn(|| send(&client, 1, bytes).inspect(|_| finish(&client)));
            scope.spawn(|| relay_with(fault, &inwards, &outwards));
            let received = receive(&server, 1);
            (sent.join().expect("no panic").expect("sent"), received)
        });
        let is_right = matches!(fault, Fault::None);
        assert_eq!((received.bytes, received.end), (arriving, End::Finished), "{fault:?}");
        assert_eq!(received.wrong_at.is_none(), is_right, "{fault:?}");
        assert_eq!(received.sha256 == sent, is_right, "{fault:?}");
    }
}

fn relay_with(fault: Fault, inwards: &TcpStream, outwards: &TcpStream) {
    let (mut bytes, _) = receive_all(inwards);
    let middle = bytes.len() / 2;
    match fault {
        Fault::None => {}
        Fault::Dropped => drop(bytes.remove(middle)),
        Fault::Doubled => bytes.insert(middle, bytes[middle]),
        Fault::Swapped => {
            // The next byte that differs.
            let other = (middle..).find(|at| bytes[*at] != bytes[middle]).expect("not all bytes are equal");
            bytes.swap(middle, other);
        }
    }
    say(outwards, &bytes);
    finish(outwards);
}

#[test]
fn a_reader_that_stops_blocks_the_sender() {
    let net = Net::new(1);
    let listener = net.server().listen(80);
    let (client, server) = (net.client.connect(net.server().address(80)), listener.accept());
    let taken = send_until_blocked(&client, 1, Duration::from_millis(500));
    finish(&client);
    let received = receive(&server, 1);
    assert_eq!((received.bytes, received.wrong_at, received.end), (taken, None, End::Finished));
}

#[test]
fn a_service_that_is_dropped_refuses_connections() {
    let net = Net::new(1);
    let service = echo(net.server(), 80);
    net.client.connect(net.server().address(80));
    drop(service);
    assert!(net.client.try_connect(net.server().address(80)).is_err());
}

/// What the tests of the agent expect of real programs must hold behind another balancer, too.
#[test]
fn real_programs_work_behind_another_balancer() {
    let net = Net::new(1);
    let authority = Authority::new();
    let identity = authority.issue("alpha.example");
    let nginx = Nginx::start(net.server(), &identity);
    let _balancer = Haproxy::relay(&net.balancer, 443, net.server().address(443));
    let tshark = Tshark::start(net.server());
    let frontend = net.frontend(443);

    let fetched = clients::curl(&net.client, &authority, "alpha.example", frontend, "/");
    let expected = format!("{} {} alpha.example 200", net.client.v4, fetched.local_port);
    assert_eq!(fetched.code, 0, "{fetched:?}");
    until_some(&format!("{expected:?} in nginx's log"), || {
        nginx.log().into_iter().find(|line| *line == expected)
    });
    let fields = tshark.header(0);
    assert_eq!((&fields[1], &fields[3]), (&net.client.v4.to_string(), &fetched.local_port.to_string()));

    let printed = text(&clients::openssl(&net.client, &authority, "alpha.example", frontend).stdout);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let shown = clients::shown_fingerprint(&printed, scratch.path());
    assert_eq!(shown, Identity::fingerprint(&identity.certificate));
    assert!(printed.contains("I am alpha.example, you are 10.1.0.2 "), "{printed}");

    let page = clients::chromium(&net.client, &identity, frontend);
    assert!(page.contains("I am alpha.example, you are 10.1.0.2 "), "{page}");
}

#[test]
fn servers_that_want_a_header_turn_others_away() {
    let net = Net::new(2);
    let authority = Authority::new();
    let identity = authority.issue("alpha.example");
    let nginx = Nginx::start(&net.servers[0], &identity);
    let _haproxy = Haproxy::start(&net.servers[1], &identity);
    for server in &net.servers {
        let fetched = clients::curl(&net.client, &authority, "alpha.example", server.address(443), "/");
        assert_eq!(fetched.code, 35, "{fetched:?}");
    }
    assert!(nginx.log().is_empty());
}

/// HAProxy's word on the checksum counts, because it turns a wrong one away.
#[test]
fn haproxy_checks_the_checksum() {
    let net = Net::new(1);
    let authority = Authority::new();
    let _haproxy = Haproxy::start(net.server(), &authority.issue("alpha.example"));
    let address = |place: &Namespace| SocketAddrV4::new(place.v4, 443);
    let answer_to = |error| {
        let stream = net.client.connect(net.server().address(443));
        let header = proxy_header::with_checksum(address(&net.client), address(net.server()), error);
        say(&stream, &[header, Hello::named("alpha.example").wire()].concat());
        // HAProxy may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
        receive_all(&stream).0
    };
    assert_eq!(answer_to(0).first(), Some(&22), "a TLS handshake record");
    assert_eq!(answer_to(1), b"");
}
