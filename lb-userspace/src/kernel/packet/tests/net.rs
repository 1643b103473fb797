// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real connections over real devices: packets as the kernel makes them, many segments in one and checksums that are left to the interface.
//!
//! Not covered: interfaces that merge what they receive. CHECKSUM_COMPLETE, which veth does not make, is in `bench`.
#![expect(unsafe_code, reason = "options of TCP and of interfaces that no safe wrapper covers")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lb_common::packet::flow::{End, Flow, Phase, Position};
use lb_common::packet::record::{Counter, RUNG, Record};
use lb_common::packet::tcp::Translation;
use rustix::event::Timespec;
use rustix::net::netdevice::name_to_index;

use super::super::{Bells, Packet, family, ports, way};
use super::bench::{Family, loaded};
use super::place::{Row, address, request};

/// What the client sends first, and what the balancer has to read and to write before it can be thrown away.
const HELLO: &[u8; 5] = b"hello";

/// Bytes that go each way afterwards.
const LEN: usize = 4 << 20;

const PORT: u16 = 443;

/// How long anybody waits for something that takes no time.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Whose interfaces leave checksums and cutting to the other side, as veth can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offload {
    /// Everybody's: nobody ever looks at a checksum.
    All,
    /// Not the balancer's: what it translated before there was a checksum gets one there, and the ends check it.
    Ends,
    /// Nobody's: the balancer translates checksums, and the ends check them.
    None,
}

#[test]
fn real_connections_are_spliced_over_real_devices() {
    let Some(mut loaded) = loaded(4) else { return };
    for offload in [Offload::All, Offload::Ends, Offload::None] {
        let row = Row::new();
        if offload != Offload::All {
            row.balancer.enter(|| ["client", "server"].map(make_checksums));
        }
        if offload == Offload::None {
            row.client.enter(|| make_checksums("uplink"));
            row.server.enter(|| make_checksums("uplink"));
        }
        for family in [Family::V4, Family::V6] {
            carry(&row, family, offload, &mut loaded);
        }
    }
}

/// One connection, from its first byte to its last, both ends and the balancer each on a thread.
fn carry(row: &Row, version: Family, offload: Offload, loaded: &mut (Packet, Bells)) {
    let (watched, when_watched) = mpsc::channel();
    let (flipped, when_flipped) = mpsc::channel();
    let listen = |wire, end| TcpListener::bind((address(version, wire, end), PORT)).expect("a free port");
    let frontend = row.balancer.enter(|| listen(0, 1));
    let server = row.server.enter(|| listen(1, 2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = patient(server.accept().expect("a connection").0);
            let mut hello = [0; HELLO.len()];
            stream.read_exact(&mut hello).expect("the hello");
            assert_eq!(&hello, HELLO);
            thread::scope(|scope| {
                let mut writing = stream.try_clone().expect("descriptors");
                scope.spawn(move || send(&mut writing));
                receive(&mut stream);
            });
        });
        scope.spawn(move || {
            row.client.enter(move || {
                let stream = TcpStream::connect((address(version, 0, 1), PORT));
                let mut stream = patient(stream.expect("a connection"));
                when_watched.recv().expect("the balancer goes on");
                stream.write_all(HELLO).expect("a connection");
                when_flipped.recv().expect("the balancer goes on");
                thread::scope(|scope| {
                    let mut writing = stream.try_clone().expect("descriptors");
                    scope.spawn(move || send(&mut writing));
                    receive(&mut stream);
                });
            });
        });
        row.balancer.enter(|| {
            let (client, _) = frontend.accept().expect("a connection");
            let server = TcpStream::connect((address(version, 1, 2), PORT)).expect("a connection");
            balance([&client, &server], &watched, &flipped, offload, loaded);
        });
    });
}

/// What the agent does: watches the flow, reads and writes what there is, arms, and waits until the flow is over.
fn balance(
    [mut client, mut server]: [&TcpStream; 2],
    watched: &mpsc::Sender<()>,
    flipped: &mpsc::Sender<()>,
    offload: Offload,
    (packet, bells): &mut (Packet, Bells),
) {
    let counters = packet.counters().expect("descriptors");
    let before = counters.read().expect("memory");
    let _attached = ["client", "server"].map(|interface| packet.attach(interface).expect("an interface"));
    let (slot, mut keys) = (packet.slot().expect("a slot"), packet.keys().expect("descriptors"));
    let (record, [client_at, server_at]) = record(client, server);
    slot.begin(record);
    keys.publish(&slot).expect("nobody has them");
    watched.send(()).expect("the client waits");
    let mut hello = [0; HELLO.len()];
    client.read_exact(&mut hello).expect("the hello");
    let len = HELLO.len() as u32;
    slot.edit(|record| {
        record.flow.arm(
            Position { taken: client_at.taken.wrapping_add(len), ..client_at },
            Position { given: server_at.given.wrapping_add(len), ..server_at },
        );
    });
    server.write_all(&hello).expect("a connection");
    let mut wait_until = |reached: fn(&Flow) -> bool| {
        let looked = |record: &mut Record| {
            record.flags &= !RUNG;
            reached(&record.flow)
        };
        while !slot.edit(looked) {
            assert!(bells.wait(Some(&PATIENCE)), "{:?}", slot.edit(|record| *record));
            bells.answer();
        }
    };
    wait_until(|flow| flow.phase() == Phase::Spliced);
    flipped.send(()).expect("the client waits");
    wait_until(Flow::is_over);
    let record = slot.edit(|record| *record);
    let delivered = [record.flow.delivered_to_server, record.flow.delivered_to_client];
    assert_eq!(delivered, [LEN as u64; 2], "{offload:?}");
    let counts = counters.read().expect("memory").since(&before);
    let segments = record.to_server.segments + record.to_client.segments;
    let packets = counts.of(Counter::Translated);
    if offload == Offload::All {
        assert!(packets < segments, "{packets} packets of {segments} segments: none was made of many");
    }
    assert_eq!([Counter::Failed, Counter::Corrupt].map(|counter| counts.of(counter)), [0; 2], "{offload:?}");
    // Whoever has a lock can lose the processor in a virtual machine.
    let locked_out = counts.of(Counter::LockedOut);
    assert!(locked_out * 100 <= packets, "{locked_out} of {packets} packets");
    keys.withdraw(&slot);
}

/// The flow of two connections over which nothing has gone yet, and where the balancer stands with each.
fn record(client: &TcpStream, server: &TcpStream) -> (Record, [Position; 2]) {
    let ([client_leg, server_leg], positions) =
        ([client, server].map(Leg::of), [client, server].map(position));
    let ends = positions.map(|at| End::resumed(at, 0, 1 << 14));
    let translation = |from: &Leg, to: &Leg| Translation {
        ports: ports(to.local, to.remote),
        shift_from: from.its_shift,
        shift_to: to.our_shift,
        ..Translation::default()
    };
    let by = [translation(&client_leg, &server_leg), translation(&server_leg, &client_leg)];
    let mut flow = Flow::tracked(ends, by[0], by[1]);
    flow.timestamps = 1;
    let leave = |leg: &Leg, interface| {
        let index = name_to_index(client.as_fd(), interface).expect("an interface");
        way(leg.local.ip(), leg.remote.ip(), index)
    };
    let (to_server, to_client) = (leave(&server_leg, "server"), leave(&client_leg, "client"));
    (Record::new(flow, family(client_leg.local.ip()), to_server, to_client), positions)
}

/// One connection of the balancer.
struct Leg {
    local: SocketAddr,
    remote: SocketAddr,
    its_shift: u8,
    our_shift: u8,
}

impl Leg {
    fn of(stream: &TcpStream) -> Self {
        let mut info = [0; 8];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: both pointers are to live values, and the length is that of the buffer that the kernel writes to.
        let result = unsafe {
            let info = info.as_mut_ptr().cast();
            libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut len)
        };
        assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
        // tcpi_snd_wscale and tcpi_rcv_wscale (include/uapi/linux/tcp.h).
        let shifts: u8 = info[6];
        Self {
            local: stream.local_addr().expect("connected"),
            remote: stream.peer_addr().expect("connected"),
            its_shift: shifts & 0xf,
            our_shift: shifts >> 4,
        }
    }
}

/// The next byte that comes from an end and the next that goes there, as the socket knows them.
fn position(stream: &TcpStream) -> Position {
    // TCP_RECV_QUEUE, TCP_SEND_QUEUE, and TCP_REPAIR_OFF_NO_WP (include/uapi/linux/tcp.h).
    const RECEIVE: i32 = 1;
    const SEND: i32 = 2;
    set(stream, libc::TCP_REPAIR, 1);
    let [taken, given] = [RECEIVE, SEND].map(|queue| {
        set(stream, libc::TCP_REPAIR_QUEUE, queue);
        number(stream, libc::TCP_QUEUE_SEQ)
    });
    set(stream, libc::TCP_REPAIR, -1);
    Position { taken, given }
}

fn set(stream: &TcpStream, option: i32, value: i32) {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer is to a live value of this length.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, value, len)
    };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
}

fn number(stream: &TcpStream, option: i32) -> u32 {
    let (mut value, mut len) = (0_u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: both pointers are to live values, and the length is that of the one that the kernel writes to.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, value, &raw mut len)
    };
    assert_eq!(result, 0, "option {option}: {}", io::Error::last_os_error());
    value
}

/// Has the kernel make checksums before packets come to an interface (ETHTOOL_STXCSUM, include/uapi/linux/ethtool.h).
fn make_checksums(interface: &str) {
    const SET: u32 = 0x17;
    let mut command = [SET, 0];
    let content = libc::__c_anonymous_ifr_ifru { ifru_data: command.as_mut_ptr().cast() };
    let mut request = request(interface, content);
    // Any socket of the namespace will do.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: the request is live, and so is the command that it points to; the kernel reads both.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "{interface}: {}", io::Error::last_os_error());
}

/// A stream on which nobody waits for ever.
fn patient(stream: TcpStream) -> TcpStream {
    let patience = Duration::try_from(PATIENCE).expect("a short time");
    stream.set_read_timeout(Some(patience)).expect("a socket");
    stream
}

/// Byte by byte what the position says.
fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

fn send(stream: &mut TcpStream) {
    let bytes: Vec<u8> = (0..LEN).map(pattern).collect();
    stream.write_all(&bytes).expect("a connection");
    stream.shutdown(Shutdown::Write).expect("a connection");
}

fn receive(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a clean end");
    let wrong = bytes.iter().enumerate().position(|(at, byte)| *byte != pattern(at));
    assert_eq!((bytes.len(), wrong), (LEN, None), "bytes, and the first wrong one");
}
