// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking headers from real loopback sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::config::{ProxyTlvs, SendProxy};
use crate::net;
use crate::proxy::{Content, header};
use crate::runtime::testing::run;
use crate::runtime::{sleep, timeout};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The default of `proxy-header-max`.
const MAX: usize = 4096;

/// What a waiting connection is charged, with the kernel's default buffer.
const ROOM_FOR_ONE: u64 = 300 << 10;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[test]
fn exactly_the_header_is_taken_of_one_segment() {
    run(async {
        for header in [v2(), v1()] {
            let mut peer = Peer::new(0);
            peer.send(&[&header[..], b"hello, and early data"].concat());
            peer.socket.readable().await;
            // Neither budget nor time would allow it to wait.
            let preface = peer.preface(Moment::now()).await;
            assert!(
                matches!(&preface, Preface::Header(taken) if taken.wire_len == header.len()),
                "{preface:?}"
            );
            peer.assert_left(b"hello, and early data");
        }
    });
}

#[test]
fn a_header_split_at_every_byte_is_taken() {
    run(async {
        for header in [v2(), v1(), b"PROXY UNKNOWN\r\n".to_vec()] {
            for at in 1..header.len() {
                let mut peer = Peer::new(ROOM_FOR_ONE);
                let sending = async |client: &mut TcpStream| {
                    client.write_all(&header[..at]).unwrap();
                    pause().await;
                    client.write_all(&[&header[at..], b"x"].concat()).unwrap();
                };
                let preface = peer.preface_while(Moment::now() + PATIENCE, sending).await;
                assert!(matches!(&preface, Preface::Header(_)), "split at {at}: {preface:?}");
                peer.assert_left(b"x");
                peer.assert_released().await;
            }
        }
    });
}

#[test]
fn a_header_byte_by_byte_wakes_nobody_until_it_is_there() {
    run(async {
        let header = v2();
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let sending = async |client: &mut TcpStream| {
            for byte in &header {
                client.write_all(std::slice::from_ref(byte)).unwrap();
                pause().await;
            }
        };
        let preface = peer.preface_while(Moment::now() + PATIENCE, sending).await;
        assert!(matches!(preface, Preface::Header(_)), "{preface:?}");
        // The first byte, the fixed part, the whole.
        let parses = peer.buffers.parses.get();
        assert!(parses <= 4, "{parses} parses");
        peer.assert_released().await;
    });
}

/// More than the receive buffer holds, and of which none may be lost or taken too much.
#[test]
fn a_long_header_is_taken_piece_by_piece() {
    run(async {
        let longest =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[9; 12], b"\xe0\xff\xf0", &[7; 0xfff0]].concat();
        for at in [1, 15, 16, 17, 1024, 1025, 5000, longest.len() - 1, longest.len()] {
            let mut peer = Peer::new(1 << 20);
            peer.max = longest.len();
            rustix::net::sockopt::set_socket_recv_buffer_size(peer.socket.get_ref(), 4096).unwrap();
            let sending = async |client: &mut TcpStream| {
                client.write_all(&longest[..at]).unwrap();
                pause().await;
                client.set_nonblocking(true).unwrap();
                let rest = [&longest[at..], b"behind"].concat();
                let mut sent = 0;
                while sent < rest.len() {
                    sent += client.write(&rest[sent..]).unwrap_or(0);
                    pause().await;
                }
            };
            let preface = peer.preface_while(Moment::now() + PATIENCE, sending).await;
            let Preface::Header(received) = preface else { panic!("split at {at}: {preface:?}") };
            assert_eq!(
                (received.wire_len, received.tlvs().find(0xe0)),
                (longest.len(), Some(&[7; 0xfff0][..]))
            );
        }
    });
}

#[test]
fn nothing_behind_a_long_header_is_taken() {
    run(async {
        let header =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x13\x87"[..], &[9; 12], b"\xe0\x13\x78", &[7; 0x1378]].concat();
        assert_eq!(header.len(), 16 + 0x1387);
        for at in [0, 1, 16, 1025, 4999, header.len() - 1] {
            let mut peer = Peer::new(ROOM_FOR_ONE);
            peer.max = header.len();
            let sending = async |client: &mut TcpStream| {
                client.write_all(&header[..at]).unwrap();
                pause().await;
                client.write_all(&[&header[at..], b"hello, and early data"].concat()).unwrap();
            };
            let preface = peer.preface_while(Moment::now() + PATIENCE, sending).await;
            assert!(matches!(&preface, Preface::Header(_)), "split at {at}: {preface:?}");
            peer.assert_left(b"hello, and early data");
            peer.assert_released().await;
        }
    });
}

#[test]
fn the_deadline_is_absolute() {
    run(async {
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let deadline = Moment::now() + Duration::from_millis(200);
        let sending = async |client: &mut TcpStream| {
            client.write_all(b"PROXY UNKNOWN ").unwrap();
            for _ in 0..80 {
                client.write_all(b"x").unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        };
        let preface = peer.preface_while(deadline, sending).await;
        assert!(matches!(preface, Preface::Invalid(ProxyReason::Timeout)), "{preface:?}");
        assert!(
            Moment::now().since(deadline) < Duration::from_secs(5),
            "{:?} late",
            Moment::now().since(deadline)
        );
        peer.assert_released().await;
    });
}

#[test]
fn who_sends_no_header_is_told_apart() {
    run(async {
        let check = async |bytes: &[u8], expected: ProxyReason| {
            let mut peer = Peer::new(ROOM_FOR_ONE);
            peer.send(bytes);
            let preface = peer.preface(Moment::now() + PATIENCE).await;
            assert!(matches!(preface, Preface::Invalid(reason) if reason == expected), "{preface:?}");
        };
        check(b"\x16\x03\x01\x02", ProxyReason::Missing).await;
        check(b"PROXY TCP4 x\r\n", ProxyReason::Malformed).await;
        check(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0", ProxyReason::TooLarge).await;
        check(b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c", ProxyReason::UnsupportedVersion).await;
    });
}

#[test]
fn who_leaves_before_the_header_is_complete_is_gone() {
    run(async {
        let header = v2();
        for sent in [0, 1, 16, header.len() - 1] {
            let mut peer = Peer::new(ROOM_FOR_ONE);
            let sending = async |client: &mut TcpStream| {
                client.write_all(&header[..sent]).unwrap();
                pause().await;
                client.shutdown(Shutdown::Write).unwrap();
            };
            let preface = peer.preface_while(Moment::now() + PATIENCE, sending).await;
            assert!(matches!(preface, Preface::Gone), "after {sent} bytes: {preface:?}");
        }
    });
}

#[test]
fn who_waits_longest_gives_way() {
    run(async {
        let gauge = Gauge::default();
        let pending = PendingHellos::new(ROOM_FOR_ONE, gauge.clone());
        let (mut first, mut second) = (Peer::among(&pending), Peer::among(&pending));
        first.send(b"PROXY");
        let waiting = first.preface(Moment::now() + PATIENCE);
        let pushing = async {
            pause().await;
            assert!(gauge.get() > 0);
            second.preface(Moment::now() + Duration::from_millis(50)).await
        };
        let (evicted, timed_out) = tokio::join!(waiting, pushing);
        assert!(matches!(evicted, Preface::Evicted), "{evicted:?}");
        assert!(matches!(timed_out, Preface::Invalid(ProxyReason::Timeout)), "{timed_out:?}");
        assert_eq!(gauge.get(), 0);
    });
}

fn v1() -> Vec<u8> {
    b"PROXY TCP4 192.0.2.1 198.51.100.7 51234 443\r\n".to_vec()
}

fn v2() -> Vec<u8> {
    let tlvs = ProxyTlvs { authority: true, crc32c: true, ..ProxyTlvs::default() };
    let (client, local) = ("192.0.2.1:51234".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
    let content = Content { authority: Some("www.shop.example"), ..Content::of(client, local) };
    header(SendProxy::V2(tlvs), &content)
}

/// A client and the socket that it is accepted as.
struct Peer {
    client: TcpStream,
    socket: Socket,
    buffers: HelloBuffers,
    pending: PendingHellos,
    max: usize,
}

impl Peer {
    fn new(budget_bytes: u64) -> Self {
        Self::among(&PendingHellos::new(budget_bytes, Gauge::default()))
    }

    fn among(pending: &PendingHellos) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::connection(OwnedFd::from(server)).unwrap();
        Self { client, socket, buffers: HelloBuffers::new(1 << 17), pending: pending.clone(), max: MAX }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    async fn preface(&mut self, deadline: Moment) -> Preface {
        self.preface_while(deadline, async |_| {}).await
    }

    /// What came first, while the client does what `sending` says, until it is known.
    async fn preface_while(
        &mut self,
        deadline: Moment,
        sending: impl AsyncFnOnce(&mut TcpStream),
    ) -> Preface {
        let Self { client, socket, buffers, pending, max } = self;
        let preface = take_header(socket, *max, deadline, buffers, pending, SOURCE);
        let sending = async {
            sending(client).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            preface = timeout(PATIENCE, preface) => preface.expect("an end"),
            () = sending => unreachable!("it goes on until it is dropped"),
        }
    }

    /// Exactly these bytes are still in the socket.
    #[track_caller]
    fn assert_left(&mut self, expected: &[u8]) {
        let mut stream = TcpStream::from(self.socket.get_ref().try_clone().unwrap());
        let mut left = vec![0; expected.len() + 1];
        let mut len = 0;
        while len < expected.len() {
            len += stream.read(&mut left[len..]).unwrap();
        }
        assert_eq!(&left[..len], expected);
        let error = stream.read(&mut left).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    /// A single byte makes the socket readable again, as every path expects.
    async fn assert_released(&mut self) {
        self.socket.readable().await;
        let mut rest = [0; 1 << 12];
        while net::receive(&self.socket, &mut rest).is_ok() {}
        self.socket.clear_read_ready();
        self.client.write_all(&[1]).unwrap();
        let readable = timeout(PATIENCE, self.socket.readable()).await;
        readable.expect("the low-water mark is 1");
    }
}

/// Lets the runtime and the other side run.
async fn pause() {
    sleep(Duration::from_millis(1)).await;
}
