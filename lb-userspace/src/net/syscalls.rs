// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that rustix does not have, and the registration of descriptors.
#![expect(
    unsafe_code,
    reason = "setsockopt and ioctl with integers that no safe wrapper covers; AsyncFd::register"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the reactor reports of a descriptor. Priority is urgent data (tcp(7)).
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// Registers a non-blocking descriptor with the reactor of this worker.
///
/// # Errors
/// epoll_ctl(2) refuses: no memory, or fs.epoll.max_user_watches is reached.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `OwnedFd` answers as_raw_fd with the same open descriptor for as long as it lives, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, INTEREST) }?)
}

/// Sets SO_RCVLOWAT (socket(7)): fewer received bytes than this do not make the socket readable. The kernel caps the value
/// at half of net.ipv4.tcp_rmem\[2\] (net/ipv4/tcp.c, tcp_set_rcvlowat), so that waking up early is possible.
///
/// # Errors
/// The socket is gone.
pub fn set_receive_low_water(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    set_int(
        fd,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        libc::c_int::try_from(bytes.max(1)).unwrap_or(libc::c_int::MAX),
    )
}

/// SOCK_RCVBUF_LOCK (include/uapi/linux/socket.h, not in libc).
const RECEIVE_LOCK: libc::c_int = 2;

/// Tells the kernel to leave the size of the receive buffer alone, or to tune it again (SO_BUF_LOCK, net/core/sock.c). The send
/// buffer's lock is taken back.
///
/// # Errors
/// The kernel is older than 5.15, or the socket is gone.
pub fn lock_receive_buffer(fd: impl AsFd, is_locked: bool) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_BUF_LOCK, if is_locked { RECEIVE_LOCK } else { 0 })
}

/// Lets bind(2) choose an address alone: the port is chosen by connect(2), which knows the other end and so can use a port several
/// times (IP_BIND_ADDRESS_NO_PORT, ip(7); counts for IPv6 sockets too).
///
/// # Errors
/// The socket is gone.
pub fn defer_source_port(fd: impl AsFd) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Sets an option that is an integer.
fn set_int(fd: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is a live c_int and the length passed is its size; the kernel only reads it during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether [`lock_receive_buffer`] is on.
///
/// # Errors
/// As there.
#[cfg(test)]
pub fn is_receive_buffer_locked(fd: impl AsFd) -> io::Result<bool> {
    let (mut locks, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: both pointers are to live values, and the length is that of the value that the kernel writes to.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw mut locks).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(locks & RECEIVE_LOCK != 0) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were sent and that the peer's kernel has not acknowledged, unsent ones included (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// The socket is gone.
pub fn unacknowledged_bytes(fd: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one c_int to the pointer, which is to a live c_int.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}
