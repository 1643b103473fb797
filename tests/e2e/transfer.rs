// SPDX-License-Identifier: MIT OR Apache-2.0
//! No byte is lost, doubled, reordered or changed.

use std::net::TcpStream;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::random::Random;
use lb_tests::stream::{End, finish, receive, receive_exactly, say, send};
use lb_tests::{proxy_header, size};

use crate::support::{PORT, Relay, SERVER_PORT, assert_carried, assert_received, required, stream_both_ways};

on_all_paths! {
    a_gigabyte_each_way_at_once_is_exact,
    conversations_of_every_shape_are_exact,
    single_bytes_are_passed_on_at_once,
    tiny_send_buffers_neither_double_nor_lose,
}

/// What is copied at once where no pipe is free, at most.
const CHUNK: u64 = 64 << 10;

/// A stream leaves the kernel's hands by design (path `sockmap`), unless the path is required.
fn a_gigabyte_each_way_at_once_is_exact(path: Path) {
    let bytes: u64 = 1 << 30;
    let net = Net::new(1);
    let config = Config::new()
        .path(path)
        .passthrough("tls", &[net.frontend(PORT)], "")
        .route("tls", "alpha.example", "alpha")
        .backend(
            "alpha",
            net.server().address(SERVER_PORT),
            &format!("send-proxy = \"v2\"\n{}", required(path)),
        );
    let agent = Agent::start(&net, &config);
    let listener = net.server().listen(SERVER_PORT);

    let client = net.client.connect(net.frontend(PORT));
    let hello = Hello::named("alpha.example").wire();
    say(&client, &hello);
    let server = listener.accept();
    assert_eq!(proxy_header::read(&server).source(), client.local_addr().expect("connected"));
    assert_eq!(receive_exactly(&server, hello.len()), hello);
    stream_both_ways(&client, &server, bytes, bytes);

    let record = &agent.until_records(1)[0];
    assert_eq!(record.close(), "finished");
    assert_eq!(record.number("received_bytes"), bytes + hello.len() as u64);
    assert_eq!(record.number("sent_bytes"), bytes);
    assert_eq!(agent.assert_own_path(path, 1), 2 * bytes + hello.len() as u64);
    agent.assert_share(path, 99);
    // Tests beside this one are of the same user, and may have all pages for pipes for a while (pipe(7)).
    let copied = agent.scrape().count("lb_pipes_exhausted_total", &[]);
    assert!(copied * CHUNK < bytes / 5, "{copied} chunks found no pipe");
}

/// Each is handed over with its first byte, and its ends come as they may. It brings less than what may wait inside the kernel before a
/// direction pauses, so that nothing is spliced behind an end.
fn conversations_of_every_shape_are_exact(path: Path) {
    let relay = Relay::start(path);
    let mut random = Random::new(2);
    let (conversations, mut total) = (size(24, 400), 0);
    for _ in 0..conversations {
        let [up, down] = [(); 2].map(|()| {
            let scale = random.below(22);
            (random.below(1 << scale)) as u64
        });
        let (client, server) = relay.greeted();
        both_ways(&client, &server, up, down);
        total += up + down + 2;
    }
    let records = relay.agent.until_records(conversations);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_eq!(relay.agent.assert_own_path(path, conversations as u64), total);
    relay.agent.assert_share(path, 99);
}

fn single_bytes_are_passed_on_at_once(path: Path) {
    let relay = Relay::start(path);
    let (client, server) = relay.pair();
    for round in 0..200_u8 {
        say(&client, &[round]);
        assert_eq!(receive_exactly(&server, 1), [round]);
        say(&server, &[!round]);
        assert_eq!(receive_exactly(&client, 1), [!round]);
    }
    // An open flow may not be counted yet.
    drop((client, server));
    relay.agent.until_idle();
    assert_carried(&relay.agent, path, 1);
}

/// The balancer's sockets take 4 KiB at a time, so that the kernel hands over nearly everything in parts (net/core/skmsg.c once sent a
/// part again after it: Linux commit 3b4f14b79428).
fn tiny_send_buffers_neither_double_nor_lose(path: Path) {
    let net = Net::new(1);
    net.balancer.sysctl("net/ipv4/tcp_wmem", "4096 4096 4096");
    // What waits for them may not grow beyond `sockmap-direction-memory`, whatever this machine allows.
    net.balancer.sysctl("net/ipv4/tcp_rmem", "4096 131072 8388608");
    let relay = Relay::over(net, path, required(path));
    let bytes = size(16 << 20, 64 << 20);
    for (up, down) in [(bytes, 0), (0, bytes), (bytes, bytes)] {
        let (client, server) = relay.handed_over(path);
        stream_both_ways(&client, &server, up, down);
    }
    relay.assert_nothing_left(path);
    relay.agent.assert_share(path, 99);
}

/// Both ends send and receive at once, then end; everything must arrive.
#[track_caller]
fn both_ways(client: &TcpStream, server: &TcpStream, up: u64, down: u64) {
    let send_all = |stream, seed, bytes| {
        let sent = send(stream, seed, bytes).expect("a reader that keeps reading");
        finish(stream);
        sent
    };
    std::thread::scope(|scope| {
        let sent_up = scope.spawn(move || send_all(client, 1, up));
        let sent_down = scope.spawn(move || send_all(server, 2, down));
        let received_down = scope.spawn(|| receive(client, 2));
        let received_up = receive(server, 1);
        let received_down = received_down.join().expect("no panic");
        assert_received(&received_up, up, End::Finished);
        assert_received(&received_down, down, End::Finished);
        assert_eq!(received_up.sha256, sent_up.join().expect("no panic"));
        assert_eq!(received_down.sha256, sent_down.join().expect("no panic"));
    });
}
