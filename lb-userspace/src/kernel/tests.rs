// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel of this machine makes of the object. Each test asserts one of two outcomes, by the privileges it finds.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use aya::maps::SockHash;
use lb_common::layout::SOCKETS;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::*;

/// Whether this thread may load programs: the capabilities count only in the initial user namespace (user_namespaces(7)).
fn is_privileged() -> bool {
    let effective = capabilities(None).expect("a thread can read its own capabilities").effective;
    let is_capable = effective.contains(CapabilitySet::SYS_ADMIN)
        || effective.contains(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
    let map = fs::read_to_string("/proc/self/uid_map").expect("/proc is mounted");
    is_capable && map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[test]
fn this_kernel_loads_the_object_or_says_that_privileges_are_missing() {
    match probe() {
        Ok(loaded) => {
            assert!(is_privileged());
            assert_eq!(loaded.sockmap_stats().expect("the map can be read"), SockmapStats::default());
        }
        Err(LoadError::NoPrivilege) => assert!(!is_privileged()),
        Err(error) => panic!("{error}: {error:?}"),
    }
}

#[test]
fn without_capabilities_the_reason_is_told() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let probed = thread::spawn(move || {
        // Capabilities belong to a thread: the other tests keep theirs.
        set_capabilities(None, none).expect("a thread can give up capabilities");
        probe().map(drop)
    });
    assert!(matches!(probed.join().expect("the thread ends"), Err(LoadError::NoPrivilege)));
}

#[test]
fn a_truncated_object_is_damaged() {
    for length in [0, 100, OBJECT.len() / 2] {
        let error = load(&OBJECT[..length]).map(drop);
        assert!(matches!(error, Err(LoadError::Damaged(_))), "{length} bytes: {error:?}");
    }
}

#[test]
fn the_verdict_counts_what_a_socket_receives_and_lets_it_pass() {
    let mut loaded = match probe() {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(matches!(error, LoadError::NoPrivilege) && !is_privileged(), "{error:?}");
            return;
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (mut server, _) = listener.accept().expect("accepted");
    let mut sockets: SockHash<_, u64> =
        loaded.ebpf.take_map(SOCKETS).expect("the map").try_into().expect("its kind");
    let map = sockets.fd().try_clone().expect("a descriptor");
    let verdict: &mut SkSkb =
        loaded.ebpf.program_mut(SOCKMAP_VERDICT).expect("the program").try_into().expect("its kind");
    verdict.attach(&map).expect("attached");
    sockets.insert(7, server.as_raw_fd(), 0).expect("inserted");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");

    let sent = vec![42; 100_000];
    client.write_all(&sent).expect("sent");
    let mut received = vec![0; sent.len()];
    server.read_exact(&mut received).expect("the bytes stay in the socket's own queue");

    assert_eq!(received, sent);
    let stats = loaded.sockmap_stats().expect("the map can be read");
    assert_eq!(stats.bytes, sent.len() as u64);
    assert!((1..=stats.bytes).contains(&stats.segments), "{stats:?}");
}

#[test]
fn errors_are_sorted_by_what_an_operator_would_do() {
    let creation = |errno: Errno| {
        LoadError::from_ebpf(
            MapError::CreateError { name: SOCKETS.to_owned(), io_error: errno.into() }.into(),
        )
    };
    assert!(matches!(creation(Errno::PERM), LoadError::NoPrivilege));
    assert!(matches!(creation(Errno::INVAL), LoadError::KernelTooOld(_)));
    assert!(matches!(creation(Errno::NOSYS), LoadError::KernelTooOld(_)));
    assert!(matches!(creation(Errno::NOMEM), LoadError::Refused(_)));
    assert!(matches!(LoadError::from_ebpf(MapError::KeyNotFound.into()), LoadError::Damaged(_)));
}
