// SPDX-License-Identifier: MIT OR Apache-2.0
//! What TCP_REPAIR gives (tcp(7) does not have it; net/ipv4/tcp.c and Documentation/networking of CRIU do): the numbers of a connection's
//! segments, and an end that the peer does not hear of. It takes CAP_NET_ADMIN in the user namespace of the socket's network.

use std::io;
use std::os::fd::AsFd;

use super::syscalls::{get_int, set_int};

/// Values of TCP_REPAIR (include/uapi/linux/tcp.h): off without a window probe is there since Linux 4.20.
const ON: libc::c_int = 1;
const OFF: libc::c_int = 0;
const OFF_SILENTLY: libc::c_int = -1;

/// Queues of TCP_REPAIR_QUEUE (include/uapi/linux/tcp.h).
const RECEIVE_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;

/// Where a connection is, in the numbers of its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Of the next byte that is expected (rcv_nxt). A FIN that has come counts.
    pub received: u32,
    /// Of the next byte that will be written (write_seq).
    pub written: u32,
}

/// Asks for [`Numbers`], and how many of the received bytes nobody has taken: one after the other, and the last two fit together, because
/// nothing had come in between.
///
/// # Errors
/// The process lacks CAP_NET_ADMIN, or the connection is gone.
pub fn numbers(fd: impl AsFd) -> io::Result<(Numbers, u64)> {
    set_repair(&fd, ON)?;
    // A chosen queue means nothing once repair is over (net/ipv4/tcp_output.c, tcp_write_xmit).
    let numbers = look(&fd).and_then(|numbers| settle(&fd, numbers));
    end_repair(&fd, OFF_SILENTLY)?;
    numbers
}

/// Asks for [`Numbers`] for the last time: from here on the close of the connection says nothing to the peer, neither FIN nor RST (net/ipv4/tcp.c,
/// __tcp_close).
///
/// # Errors
/// As [`numbers`]; where that is the capability, the close is a reset.
pub fn discard(fd: impl AsFd) -> io::Result<Numbers> {
    set_repair(&fd, ON)?;
    look(fd)
}

/// Takes [`discard`] back: the close of the connection says again what it would have said.
///
/// # Errors
/// As [`numbers`].
pub fn keep(fd: impl AsFd) -> io::Result<()> {
    end_repair(fd, OFF_SILENTLY)
}

fn look(fd: impl AsFd) -> io::Result<Numbers> {
    // In this order, so that the queue for sending is chosen for a moment only: see `tcp_write_xmit`.
    let written = queue(&fd, SEND_QUEUE)?;
    Ok(Numbers { received: queue(fd, RECEIVE_QUEUE)?, written })
}

/// Goes on until nothing has come between a look at what waits and one at what has been received; the queue of what is received is chosen.
fn settle(fd: impl AsFd, mut numbers: Numbers) -> io::Result<(Numbers, u64)> {
    loop {
        let waiting = rustix::io::ioctl_fionread(&fd)?;
        let received = chosen(&fd)?;
        if std::mem::replace(&mut numbers.received, received) == received {
            return Ok((numbers, waiting));
        }
    }
}

/// Sends the peer an acknowledgement of what has come, with the window as it is: leaving repair does so.
///
/// # Errors
/// As [`numbers`].
pub fn announce_window(fd: impl AsFd) -> io::Result<()> {
    set_repair(&fd, ON)?;
    end_repair(&fd, OFF)
}

fn set_repair(fd: impl AsFd, value: libc::c_int) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, value)
}

/// Leaving repair clears SO_REUSEADDR (net/ipv4/tcp.c): connections in TIME_WAIT would then keep a listener from binding again.
fn end_repair(fd: impl AsFd, value: libc::c_int) -> io::Result<()> {
    set_repair(&fd, value)?;
    set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

fn queue(fd: impl AsFd, queue: libc::c_int) -> io::Result<u32> {
    set_int(&fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue)?;
    chosen(fd)
}

/// The number of the queue that is chosen.
fn chosen(fd: impl AsFd) -> io::Result<u32> {
    get_int(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ).map(libc::c_int::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::thread::{CapabilitySet, capabilities};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (client, listener.accept().expect("it has connected").0)
    }

    fn may_repair() -> bool {
        capabilities(None).expect("a thread can read its own").effective.contains(CapabilitySet::NET_ADMIN)
    }

    #[test]
    fn numbers_count_bytes_both_ways_and_the_connection_goes_on() {
        let (mut one, mut other) = pair();
        let before = match numbers(&one) {
            Ok((numbers, waiting)) => {
                assert_eq!(waiting, 0);
                numbers
            }
            Err(error) => {
                assert!(!may_repair() && Errno::from_io_error(&error) == Some(Errno::PERM), "{error}");
                return;
            }
        };
        one.write_all(b"seven b").expect("connected");
        other.write_all(b"four!").expect("connected");
        let mut buffer = [0; 7];
        one.read_exact(&mut buffer[..4]).expect("connected");
        let (after, waiting) = numbers(&one).expect("as before");
        assert_eq!(waiting, 1);
        assert_eq!(after.written.wrapping_sub(before.written), 7);
        assert_eq!(after.received.wrapping_sub(before.received), 5);
        one.write_all(b"!").expect("connected");
        let mut rest = [0; 8];
        other.read_exact(&mut rest).expect("what was written after the repair is sent");
        assert_eq!(&rest, b"seven b!");
    }

    #[test]
    fn what_is_kept_after_all_ends_as_ever() {
        let (one, mut other) = pair();
        rustix::net::sockopt::set_socket_linger(&one, Some(Duration::ZERO)).expect("a socket");
        if discard(&one).is_err() {
            return assert!(!may_repair());
        }
        keep(&one).expect("as before");
        drop(one);
        other.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        assert_eq!(other.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_discarded_connection_says_nothing() {
        let (one, mut other) = pair();
        let discarded = discard(&one);
        drop(one);
        if discarded.is_err() {
            return assert!(!may_repair());
        }
        other.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let error = other.read(&mut [0]).expect_err("neither an end nor a reset");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // Nobody is there any more, which what comes next finds out.
        other.write_all(b"?").expect("into the send buffer");
        other.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        assert_eq!(other.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}
