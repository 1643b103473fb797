// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that repeat a part of what has come already, as after a lost acknowledgement: nobody gets a byte twice.

use std::process::Command;

use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::stream::{End, receive_all, receive_exactly, say};
use lb_tests::wait::until;

use crate::support::{PORT, Relay};

/// Connects, sends 100 bytes, hears an answer, and then sends segments of its own making beside the socket: each repeats the last 50 bytes
/// and brings more. For that it asks where its socket's numbers are (TCP_REPAIR, tcp(7), include/uapi/linux/tcp.h).
const CLIENT: &str = r#"
import socket, struct, sys, time
REPAIR, QUEUE, SEQ = 19, 20, 21
address, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.create_connection((address, port))
s.settimeout(10)
def number(queue):
    s.setsockopt(socket.IPPROTO_TCP, QUEUE, queue)
    return s.getsockopt(socket.IPPROTO_TCP, SEQ) & 0xffffffff
data = bytes(i % 251 for i in range(100 + 1000 * rounds))
s.sendall(data[:100])
assert s.recv(6) == b"answer"
time.sleep(0.2)
s.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
received, sent = number(1), number(2)
s.setsockopt(socket.IPPROTO_TCP, REPAIR, -1)
begin = (sent - 100) & 0xffffffff
(own, own_port), (peer, _) = s.getsockname(), s.getpeername()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
def total(text):
    text += b"\0" * (len(text) % 2)
    n = sum(struct.unpack("!%dH" % (len(text) // 2), text))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def send(start, end, flags=0x18):
    head = struct.pack("!HHIIBBHHH", own_port, port, (begin + start) & 0xffffffff, received, 5 << 4, flags, 500, 0, 0)
    text = head + data[start:end]
    pseudo = socket.inet_aton(own) + socket.inet_aton(peer) + struct.pack("!BBH", 0, 6, len(text))
    raw.sendto(text[:16] + struct.pack("!H", total(pseudo + text)) + text[18:], (peer, 0))
at = 100
for round in range(rounds):
    end = at + 1000
    if round % 2:
        # Out of order first, and what fills the hole overlaps both.
        send(at + 600, end)
        send(at - 50, at + 700)
    else:
        send(at - 50, end)
    at = end
    time.sleep(0.02)
# All of it has come before, but for the FIN.
send(at - 50, at, 0x19)
time.sleep(5)
"#;

on_all_paths! {
    what_is_sent_again_with_more_arrives_once,
}

fn what_is_sent_again_with_more_arrives_once(path: Path) {
    const ROUNDS: usize = 20;
    let net = Net::new(1);
    for place in [&net.client, &*net.balancer] {
        // A segment of one's own making would need a time that fits.
        place.sysctl("net/ipv4/tcp_timestamps", "0");
    }
    let relay = Relay::over(net, path, "");
    let address = relay.net.frontend(PORT).ip().to_string();
    let arguments = ["-c", CLIENT, &address, &PORT.to_string(), &ROUNDS.to_string()];
    let client = relay.net.client.spawn(Command::new("python3").args(arguments));
    let server = relay.listener.accept();
    let first = receive_exactly(&server, 100);
    say(&server, b"answer");
    let rest = receive_exactly(&server, 1000 * ROUNDS);
    let expected = (0..100 + 1000 * ROUNDS).map(|at| (at % 251) as u8);
    assert!(first.into_iter().chain(rest).eq(expected), "bytes are out of place");
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    // The client's own socket knows nothing of those segments: the connection will not end well, and is left open.
    let all = 100 + 1000 * ROUNDS as u64 + 6;
    until("all bytes to be counted", || relay.agent.scrape().count("lb_path_bytes_total", &[]) == all);
    relay.agent.assert_share(path, if path == Path::Auto { 0 } else { 99 });
    drop(client);
}
