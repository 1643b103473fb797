// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that rustix does not have, and the registration of descriptors.
#![expect(
    unsafe_code,
    reason = "setsockopt and ioctl with integers that no safe wrapper covers; AsyncFd::register"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the reactor of this worker.
///
/// # Errors
/// epoll_ctl(2) refuses: no memory, or fs.epoll.max_user_watches is reached.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `OwnedFd` answers as_raw_fd with the same open descriptor for as long as it lives, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Sets SO_RCVLOWAT (socket(7)): fewer received bytes than this do not make the socket readable. The kernel caps the value
/// at half of net.ipv4.tcp_rmem\[2\] (net/ipv4/tcp.c, tcp_set_rcvlowat), so that waking up early is possible.
///
/// # Errors
/// The socket is gone.
pub fn set_receive_low_water(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes.max(1)).unwrap_or(libc::c_int::MAX);
    // SAFETY: `value` is a live c_int and the length passed is its size; the kernel only reads it during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were sent and that the peer's kernel has not acknowledged, unsent ones included (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// The socket is gone.
pub fn unacknowledged_bytes(fd: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one c_int to the pointer, which is to a live c_int.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}
