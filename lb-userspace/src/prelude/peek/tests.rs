// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting on real loopback sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::hello::testing::{PADDING, message, records};
use super::*;
use crate::runtime::testing::run;
use crate::runtime::{sleep, timeout};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The defaults of the configuration.
const LIMITS: HelloLimits = HelloLimits { handshake_max: 16 << 10, wire_max: 64 << 10 };

/// What a waiting connection is charged, with [`LIMITS`] and the kernel's default buffer.
const ROOM_FOR_ONE: u64 = 300 << 10;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[test]
fn a_hello_that_is_there_waits_for_nothing() {
    run(async {
        let mut peer = Peer::new(0);
        peer.send(&records(&message(PADDING, &[0; 100]), 1 << 14));
        readable(&peer.socket).await;
        // Neither budget nor time would allow it to wait.
        let seen = peer.first_bytes(Moment::now()).await;
        assert!(matches!(seen, FirstBytes::Hello(_)), "{seen:?}");
        peer.assert_released().await;
    });
}

#[test]
fn a_hello_in_parts_is_complete_with_its_last_byte() {
    run(async {
        let wire = records(&message(PADDING, &[0; 3000]), 1000);
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let parts =
            [&wire[..1], &wire[1..7], &wire[7..1500], &wire[1500..wire.len() - 1], &wire[wire.len() - 1..]];
        let sending = async |client: &mut TcpStream| {
            for part in parts {
                client.write_all(part).unwrap();
                pause().await;
            }
        };
        let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
        assert!(matches!(&seen, FirstBytes::Hello(hello) if hello.wire_len == wire.len()), "{seen:?}");
        peer.assert_released().await;
    });
}

#[test]
fn the_deadline_is_absolute() {
    run(async {
        let wire = records(&message(PADDING, &[0; 10_000]), 1);
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let deadline = Moment::now() + Duration::from_millis(200);
        let sending = async |client: &mut TcpStream| {
            for byte in &wire {
                client.write_all(std::slice::from_ref(byte)).unwrap();
                pause().await;
            }
        };
        let seen = peer.first_bytes_while(deadline, sending).await;
        assert!(matches!(seen, FirstBytes::TimedOut { has_begun: true }), "{seen:?}");
        assert!(
            Moment::now().since(deadline) < Duration::from_secs(5),
            "{:?} late",
            Moment::now().since(deadline)
        );
        peer.assert_released().await;
    });
}

#[test]
fn a_silent_client_has_not_begun() {
    run(async {
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let seen = peer.first_bytes(Moment::now() + Duration::from_millis(50)).await;
        assert!(matches!(seen, FirstBytes::TimedOut { has_begun: false }), "{seen:?}");
        peer.assert_released().await;
    });
}

#[test]
fn who_closes_before_the_hello_is_complete_is_gone() {
    run(async {
        let wire = records(&message(PADDING, &[0; 3000]), 1000);
        for sent in [0, 1, 1500, wire.len() - 1] {
            let mut peer = Peer::new(ROOM_FOR_ONE);
            let sending = async |client: &mut TcpStream| {
                client.write_all(&wire[..sent]).unwrap();
                pause().await;
                client.shutdown(Shutdown::Write).unwrap();
            };
            let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
            assert!(matches!(seen, FirstBytes::Gone), "after {sent} bytes: {seen:?}");
        }
    });
}

#[test]
fn who_resets_is_gone() {
    run(async {
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let sending = async |client: &mut TcpStream| {
            client.write_all(&[22, 3, 1]).unwrap();
            pause().await;
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // Drops, and so resets, the one that was there.
            *client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        };
        let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
        assert!(matches!(seen, FirstBytes::Gone), "{seen:?}");
    });
}

#[test]
fn a_hello_whose_sender_closes_behind_it_counts() {
    run(async {
        let wire = records(&message(PADDING, &[0; 3000]), 1000);
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let sending = async |client: &mut TcpStream| {
            client.write_all(&wire[..10]).unwrap();
            pause().await;
            client.write_all(&wire[10..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        };
        let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
        assert!(matches!(seen, FirstBytes::Hello(_)), "{seen:?}");
    });
}

#[test]
fn what_is_no_hello_is_told_after_a_wait_too() {
    run(async {
        let begin = records(&message(PADDING, &[0; 3000]), 1000)[..500].to_vec();
        let check = async |first: &[u8], second: &[u8], is_expected: fn(&FirstBytes) -> bool| {
            let mut peer = Peer::new(ROOM_FOR_ONE);
            let sending = async |client: &mut TcpStream| {
                client.write_all(first).unwrap();
                pause().await;
                client.write_all(second).unwrap();
            };
            let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
            assert!(is_expected(&seen), "{seen:?}");
            peer.assert_released().await;
        };
        check(b"", b"GET /", |seen| matches!(seen, FirstBytes::NotTls)).await;
        check(&[22, 3], &[1, 0, 9, 2], |seen| matches!(seen, FirstBytes::NotTls)).await;
        check(&[22, 3, 1, 0, 9], &[1, 1, 0, 0], |seen| matches!(seen, FirstBytes::TooLarge)).await;
        check(&begin, &[0xff; 4000], |seen| matches!(seen, FirstBytes::Malformed)).await;
    });
}

#[test]
fn who_waits_longest_gives_way() {
    run(async {
        let gauge = Gauge::default();
        let hellos = PendingHellos::new(ROOM_FOR_ONE, gauge.clone());
        let (mut first, mut second) = (Peer::among(&hellos), Peer::among(&hellos));
        first.send(&[22, 3, 1]);
        let waiting = first.first_bytes(Moment::now() + PATIENCE);
        let pushing = async {
            pause().await;
            assert!(gauge.get() > 0);
            second.first_bytes(Moment::now() + Duration::from_millis(50)).await
        };
        let (evicted, timed_out) = tokio::join!(waiting, pushing);
        assert!(matches!(evicted, FirstBytes::Evicted), "{evicted:?}");
        assert!(matches!(timed_out, FirstBytes::TimedOut { has_begun: false }), "{timed_out:?}");
        assert_eq!(gauge.get(), 0);
        first.assert_released().await;
        second.assert_released().await;
    });
}

#[test]
fn what_is_kept_of_a_proxy_header_counts() {
    run(async {
        let charged = async |kept| {
            let gauge = Gauge::default();
            let mut peer = Peer { kept, ..Peer::among(&PendingHellos::new(1 << 20, gauge.clone())) };
            let waiting = peer.first_bytes(Moment::now() + Duration::from_millis(50));
            let looking = async {
                pause().await;
                gauge.get()
            };
            tokio::join!(waiting, looking).1
        };
        let without = charged(0).await;
        assert!(without > 0);
        assert_eq!(charged(60_000).await, without + 60_000);
    });
}

/// The parser's need grows with what it knows, so that records of one byte cost some dozens of parses, not thousands.
#[test]
fn asking_for_what_is_needed_takes_few_parses() {
    for fragment_len in [1, 2, 3, 7, 100] {
        let wire = records(&message(PADDING, &[0; 9_000]), fragment_len);
        let (mut have, mut parses) = (1, 1);
        while let HelloOutcome::NeedMore(more) = parse(&wire[..have], LIMITS, &mut Vec::new()) {
            have += more;
            parses += 1;
        }
        assert_eq!(have, wire.len());
        assert!(parses <= 64, "{parses} for records of {fragment_len} bytes");
    }
}

/// Above the highest low-water mark every segment wakes.
#[test]
fn a_drip_above_the_low_water_mark_is_not_parsed_each_time() {
    run(async {
        let wire = records(&message(PADDING, &[0; 9_000]), 1);
        let mut peer = Peer::new(ROOM_FOR_ONE);
        let sending = async |client: &mut TcpStream| {
            let (at_once, dripping) = wire.split_at(36 << 10);
            client.write_all(at_once).unwrap();
            for byte in &dripping[..1000] {
                client.write_all(std::slice::from_ref(byte)).unwrap();
                pause().await;
            }
            client.write_all(&dripping[1000..]).unwrap();
        };
        let seen = peer.first_bytes_while(Moment::now() + PATIENCE, sending).await;
        assert!(matches!(seen, FirstBytes::Hello(_)), "{seen:?}");
        let parses = peer.buffers.parses.get();
        assert!(parses <= 64, "{parses} parses");
        peer.assert_released().await;
    });
}

/// A client and the socket that it is accepted as.
struct Peer {
    client: TcpStream,
    socket: Socket,
    buffers: HelloBuffers,
    hellos: PendingHellos,
    kept: usize,
}

impl Peer {
    fn new(budget_bytes: u64) -> Self {
        Self::among(&PendingHellos::new(budget_bytes, Gauge::default()))
    }

    fn among(hellos: &PendingHellos) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::connection(OwnedFd::from(server)).unwrap();
        Self { client, socket, buffers: HelloBuffers::new(LIMITS.wire_max), hellos: hellos.clone(), kept: 0 }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    async fn first_bytes(&mut self, deadline: Moment) -> FirstBytes {
        self.first_bytes_while(deadline, async |_| {}).await
    }

    /// The first bytes, while the client does what `sending` says, until they are known.
    async fn first_bytes_while(
        &mut self,
        deadline: Moment,
        sending: impl AsyncFnOnce(&mut TcpStream),
    ) -> FirstBytes {
        let Self { client, socket, buffers, hellos, kept } = self;
        let waiting = Waiting { pending: hellos, source: SOURCE, kept: *kept };
        let first = first_bytes(socket, LIMITS, deadline, buffers, waiting);
        let sending = async {
            sending(client).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            first = timeout(PATIENCE, first) => first.expect("an end"),
            () = sending => unreachable!("it goes on until it is dropped"),
        }
    }

    /// A single byte makes the socket readable, and none was taken before.
    async fn assert_released(&mut self) {
        let mut buffer = vec![0; 1 << 17];
        let mut stream = TcpStream::from(self.socket.get_ref().try_clone().unwrap());
        while stream.read(&mut buffer).is_ok() {}
        self.client.write_all(&[1]).unwrap();
        let mut fds = [PollFd::new(self.socket.get_ref(), PollFlags::IN)];
        let patience = Timespec::try_from(Duration::from_secs(5)).unwrap();
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "the low-water mark is still above 1");
    }
}

/// Lets the runtime and the other side run.
async fn pause() {
    sleep(Duration::from_millis(1)).await;
}

async fn readable(socket: &Socket) {
    socket.readable().await;
}
