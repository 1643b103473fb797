// SPDX-License-Identifier: MIT OR Apache-2.0
//! A direction inside the kernel that pauses, because its reader does, and goes on, again and again.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{End, receive_in_pieces, send};

use crate::support::{INSIDE, Relay, assert_received, limit_socket_buffers};

/// What the kernel does with a segment while its socket is being taken out of the map depends on how full the socket's receive buffer is
/// (include/net/tcp.h, tcp_epollin_ready): so the buffers are small here, and full.
#[test]
fn pauses_lose_nothing_however_small_receive_buffers_are() {
    for buffer in [64 << 10, 128 << 10, 1 << 20] {
        let net = Net::new(1);
        limit_socket_buffers(&net, buffer);
        // Segments of 64 KiB are half of the smaller ones.
        net.allow_large_segments();
        let relay = Relay::over(net, Path::Sockmap, INSIDE);
        let pairs: Vec<_> = (0..4).map(|_| relay.handed_over(Path::Sockmap)).collect();
        std::thread::scope(|scope| {
            for (client, server) in &pairs {
                scope.spawn(move || stream_with_pauses(client, server, 1));
                scope.spawn(move || stream_with_pauses(server, client, 2));
            }
        });
        let pauses = relay.agent.scrape().count("lb_sockmap_pauses_total", &[]);
        assert!(pauses >= 8, "{pauses} pauses with receive buffers of {buffer} bytes");
        drop(pairs);
        relay.agent.until_idle();
        relay.agent.assert_inside(99);
    }
}

fn stream_with_pauses(from: &TcpStream, to: &TcpStream, seed: u64) {
    let bytes = size(24 << 20, 256 << 20);
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| send(from, seed, bytes));
        let mut reads = 0_u64;
        let received = receive_in_pieces(to, seed, bytes, || {
            if reads.is_multiple_of(64) {
                sleep(Duration::from_millis(200));
            }
            reads += 1;
            usize::MAX
        });
        assert_received(&received, bytes, End::Silent);
        assert_eq!(received.sha256, sent.join().expect("no panic").expect("a slow reader"));
    });
}
