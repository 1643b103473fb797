// SPDX-License-Identifier: MIT OR Apache-2.0
//! A new connection wakes one worker that waits, not all of them.
//!
//! Every worker's epoll instance watches the shared listening sockets, and the kernel wakes all who wait, unless they asked for
//! EPOLLEXCLUSIVE (epoll_ctl(2), Linux 4.5): all but one of them for nothing. tokio cannot ask for it and does not give its epoll
//! instance away, so that it is found by what /proc says of it, and the registration is made anew with the same token.
#![expect(unsafe_code, reason = "the runtime's epoll instance is known by its number only")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

/// What a listening socket is watched for; EPOLLEXCLUSIVE allows hardly more (epoll_ctl(2)).
const EVENTS: EventFlags = EventFlags::IN.union(EventFlags::ET).union(EventFlags::EXCLUSIVE);

/// Has the runtime of the calling thread, with which `listener` is registered, wake up for it alone. The descriptor is no other
/// worker's. False: there is no /proc to ask, and everything stays as it was.
///
/// # Errors
/// epoll_ctl(2) refuses: the socket is not registered any more.
pub fn wait_exclusively(listener: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    let Some(Registration { epoll, data, events }) = find(listener.as_raw_fd()) else { return Ok(false) };
    // SAFETY: the epoll instance watches `listener`, which is registered with the runtime of this very thread and, being this worker's
    // own descriptor, with nobody else: it is that runtime's, which outlives everything that runs on it, this function included.
    let epoll = unsafe { BorrowedFd::borrow_raw(epoll) };
    let data = EventData::new_u64(data);
    epoll::delete(epoll, listener)?;
    // Adding reports what came meanwhile (fs/eventpoll.c, ep_insert).
    if epoll::add(epoll, listener, data, EVENTS).is_err() {
        epoll::add(epoll, listener, data, EventFlags::from_bits_retain(events))?;
        return Ok(false);
    }
    Ok(true)
}

/// What an epoll instance watches a descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registration {
    epoll: i32,
    data: u64,
    events: u32,
}

/// Finds the epoll instance of this process that watches a descriptor.
fn find(watched: i32) -> Option<Registration> {
    let folder = std::fs::read_dir("/proc/thread-self/fdinfo").ok()?;
    folder.flatten().find_map(|entry| {
        let epoll = entry.file_name().to_str()?.parse().ok()?;
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let (data, events) = text.lines().find_map(|line| registration(line, watched))?;
        Some(Registration { epoll, data, events })
    })
}

/// Token and events in a line `tfd: DECIMAL events: HEX data: HEX …` (Documentation/filesystems/proc.rst, section 3.8), if it is of
/// this descriptor.
fn registration(line: &str, watched: i32) -> Option<(u64, u32)> {
    let mut words = line.strip_prefix("tfd:")?.split_whitespace();
    let is_it = words.next()?.parse() == Ok(watched);
    let mut value = |name: &str| (words.next()? == name).then(|| words.next())?;
    let events = u32::from_str_radix(value("events:")?, 16).ok()?;
    let data = u64::from_str_radix(value("data:")?, 16).ok()?;
    is_it.then_some((data, events))
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::net::register;

    #[test]
    fn a_line_of_fdinfo() {
        let line = "tfd:       11 events: 8000201f data:     7f2a5c000d80  pos:0 ino:1a2b sdev:9";
        assert_eq!(registration(line, 11), Some((0x7f2a_5c00_0d80, 0x8000_201f)));
        for other in ["pos:\t0", "tfd:", "tfd: 11 events: zz data: 1", &line.replace("data", "date")] {
            assert_eq!(registration(other, 11), None, "{other}");
        }
        assert_eq!(registration(line, 1), None);
    }

    /// How often the calling thread has gone to sleep (proc_pid_status(5)).
    fn sleeps() -> usize {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc is mounted");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).expect("a count")
    }

    /// A worker that accepts until `all` have come; it returns how often it slept.
    fn accept(listener: &TcpListener, accepted: Arc<AtomicUsize>, all: usize) -> thread::JoinHandle<usize> {
        let fd = OwnedFd::from(listener.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = register(fd).expect("registered");
                assert!(wait_exclusively(&listener).expect("watched"));
                let found = find(listener.as_raw_fd()).expect("watched once more");
                assert!(EventFlags::from_bits_retain(found.events).contains(EVENTS));
                let before = sleeps();
                while accepted.load(Ordering::SeqCst) < all {
                    let waited = tokio::time::timeout(Duration::from_millis(100), listener.readable());
                    let Ok(ready) = waited.await else { continue };
                    match rustix::net::accept(&listener) {
                        Ok(_) => _ = accepted.fetch_add(1, Ordering::SeqCst),
                        Err(_) => ready.expect("ready").clear_ready(),
                    }
                }
                sleeps() - before
            })
        })
    }

    #[test]
    fn a_connection_wakes_one_of_those_who_wait_and_none_is_missed() {
        const CONNECTIONS: usize = 200;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let accepted = Arc::new(AtomicUsize::new(0));
        let workers = [(); 4].map(|()| accept(&listener, Arc::clone(&accepted), CONNECTIONS));
        for number in 0..CONNECTIONS {
            let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
            let begun = Instant::now();
            while accepted.load(Ordering::SeqCst) <= number {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody accepts number {number}");
                thread::yield_now();
            }
            client.shutdown(Shutdown::Both).expect("ended");
            // All wait again.
            thread::sleep(Duration::from_millis(1));
        }
        let sleeps: usize = workers.map(|worker| worker.join().expect("it ends")).iter().sum();
        // Each of the four sleeps once for every connection if all are woken for each.
        assert!(sleeps < CONNECTIONS * 3, "{sleeps} sleeps for {CONNECTIONS} connections");
    }
}
