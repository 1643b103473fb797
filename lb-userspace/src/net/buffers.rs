// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send buffers of sockets whose peer takes nothing.

use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::lock_receive_buffer;

/// Whether a socket's send buffer has the room that makes it writable: a third of it (include/net/sock.h, sk_stream_is_writeable). One
/// that is gone is writable.
pub fn has_room(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Makes room in a send buffer for so many bytes more than it holds, or for as many as net.core.wmem_max allows. From then on the kernel
/// leaves its size alone.
pub fn widen_send_buffer(socket: impl AsFd, bytes: u64) {
    let Ok(size) = sockopt::socket_send_buffer_size(&socket) else { return };
    // What the kernel keeps for itself beside payload, likewise; it doubles what it is told for that (socket(7), SO_SNDBUF).
    let wanted = size.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2));
    let wanted = wanted.min(send_buffer_max());
    if wanted > size {
        let _ = sockopt::set_socket_send_buffer_size(&socket, wanted / 2);
    }
}

/// Ends [`widen_send_buffer`]: the kernel tunes the buffers again.
pub fn tune_send_buffer(socket: impl AsFd) {
    // A socket that is gone has none.
    let _ = lock_receive_buffer(socket, false);
}

/// The size that a send buffer may be given, as a socket shows that asks for more than any may have: net.core.wmem_max cannot be read in
/// every network namespace.
fn send_buffer_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let asked = || {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            sockopt::set_socket_send_buffer_size(&socket, i32::MAX as usize)?;
            sockopt::socket_send_buffer_size(&socket)
        };
        asked().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_full_send_buffer_takes_more_once_it_is_widened() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let sender = TcpStream::connect(listener.local_addr().expect("an address")).expect("a listener");
        let (mut reader, _) = listener.accept().expect("a connection");
        sender.set_nonblocking(true).expect("a socket");
        sockopt::set_socket_send_buffer_size(&sender, 16 << 10).expect("a socket");
        assert!(has_room(&sender));
        let fill = || -> usize { std::iter::from_fn(|| (&sender).write(&[1; 16 << 10]).ok()).sum() };
        let before = fill();
        assert!(!has_room(&sender));
        widen_send_buffer(&sender, 64 << 10);
        let more = fill();
        assert!(more >= 64 << 10, "{more} bytes after {before}");
        tune_send_buffer(&sender);
        reader.read_exact(&mut vec![0; before + more]).expect("all of it");
        assert!(has_room(&sender));
    }
}
