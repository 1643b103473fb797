// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that rustix does not have.
#![expect(unsafe_code, reason = "setsockopt, getsockopt and ioctl that no safe wrapper covers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

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

/// Runs the verdict of a socket in a socket map over everything that waits: setting SO_RCVLOWAT reports received bytes as new
/// (net/ipv4/tcp.c, tcp_set_rcvlowat), and the kernel does not do so when a socket comes into a map.
pub fn kick(fd: impl AsFd) {
    // A socket that is gone has nothing waiting.
    let _ = set_receive_low_water(fd, 1);
}

/// Lets the kernel try again to send what socket maps have queued for a socket: setting TCP_NOTSENT_LOWAT reports space in its send
/// buffer (net/ipv4/tcp.c, do_tcp_setsockopt). 0 is the default that sysctl says.
pub fn kick_sending(fd: impl AsFd) {
    limit_unsent(fd, 0);
}

/// Sets TCP_NOTSENT_LOWAT (tcp(7)): a socket takes no more while so many bytes wait for being sent for the first time. 0 is the default that sysctl
/// says. It reports space, so that nobody waits for less than there is.
pub fn limit_unsent(fd: impl AsFd, bytes: u32) {
    // A socket that is gone sends nothing.
    let _ = set_int(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes.cast_signed());
}

/// Lets a BPF program of type socket_filter judge every segment for this socket before TCP does (SO_ATTACH_BPF, socket(7)). Needs no
/// privilege.
///
/// # Errors
/// The kernel lacks memory, or the option memory of the socket is used up (net.core.optmem_max).
pub fn filter(fd: impl AsFd, program: impl AsFd) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_fd().as_raw_fd())
}

/// Ends [`filter`].
pub fn end_filter(fd: impl AsFd) {
    // There may be none.
    let _ = set_int(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
}

/// What the kernel has counted of a connection (TCP_INFO, tcp(7); struct tcp_info in include/uapi/linux/tcp.h). It is asked under the
/// socket's lock, so that a segment counts with all that was done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// tcpi_state: neither side has closed or reset.
    pub is_established: bool,
    /// tcpi_state: nothing is left of the connection, because of a reset, an error, or FINs both ways.
    pub is_closed: bool,
    /// tcpi_bytes_received: in order; the peer's FIN counts as one.
    pub received: u64,
    /// What was handed to the connection for sending, in bytes: tcpi_bytes_sent without tcpi_bytes_retrans, and
    /// tcpi_notsent_bytes. A FIN does not count.
    pub accepted: u64,
    /// tcpi_notsent_bytes: what of that was not sent for the first time yet, in bytes.
    pub unsent: u32,
    /// tcpi_last_data_recv less [`TICK_MAX`]: since bytes last came, no longer than in truth.
    pub silent_for: Duration,
    /// tcpi_data_segs_in: segments with payload that have come, also those that brought nothing new; one that the network interface or the
    /// kernel has made of several counts as all of them (include/net/tcp.h, tcp_segs_in). Wraps.
    pub segments: u32,
    /// What the handshake has agreed on.
    pub terms: Terms,
}

/// What the two ends of a connection have agreed on (struct tcp_info in include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// tcpi_options: timestamps are in use.
    pub has_timestamps: bool,
    /// tcpi_options: selective acknowledgements are.
    pub has_sack: bool,
    /// tcpi_options: ECN is.
    pub has_ecn: bool,
    /// tcpi_options: the SYN had data, or was one of TCP Fast Open.
    pub has_fast_open: bool,
    /// tcpi_snd_wscale: the shift of windows that the peer announces.
    pub peers_shift: u8,
    /// tcpi_rcv_wscale: the shift of windows that are announced to the peer.
    pub own_shift: u8,
    /// tcpi_advmss, and what options take: the largest segment that was announced to the peer, in bytes of payload and options.
    pub announced: u32,
    /// tcpi_snd_mss, likewise: the largest segment that goes to the peer.
    pub accepted: u32,
}

/// Bytes of struct tcp_info up to tcpi_bytes_retrans, which Linux 4.19 brought.
const TCP_INFO_LEN: usize = 216;

/// A connection's state from the end of its handshake to the first FIN (include/net/tcp_states.h).
const TCP_ESTABLISHED: u8 = 1;

/// The state in which a connection is no more (there).
const TCP_CLOSE: u8 = 7;

/// Asks for [`TcpInfo`].
///
/// # Errors
/// The kernel is older than 4.19, or the descriptor is no TCP socket.
pub fn tcp_info(fd: impl AsFd) -> io::Result<TcpInfo> {
    match ask(fd, libc::IPPROTO_TCP, libc::TCP_INFO)? {
        (info, TCP_INFO_LEN) => Ok(TcpInfo::from_bytes(&info)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

impl TcpInfo {
    fn from_bytes(info: &[u8; TCP_INFO_LEN]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        let (sent, retransmitted, unsent) = (long(200), long(208), word(144));
        Self {
            is_established: info[0] == TCP_ESTABLISHED,
            is_closed: info[0] == TCP_CLOSE,
            received: long(128),
            accepted: sent.wrapping_sub(retransmitted).wrapping_add(unsent.into()),
            unsent,
            silent_for: Duration::from_millis(word(52).into()).saturating_sub(TICK_MAX),
            segments: word(152),
            terms: Terms::from_options(info[5], info[6], [word(16), word(84)]),
        }
    }
}

/// The kernel's tick at its longest (CONFIG_HZ 100), by which the times in struct tcp_info may be too long.
const TICK_MAX: Duration = Duration::from_millis(10);

/// Bits of tcpi_options (include/uapi/linux/tcp.h).
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 1 << 1;
const WINDOW_SCALES: u8 = 1 << 2;
const ECN: u8 = 1 << 3;
const SYN_DATA: u8 = 1 << 5;

/// Bytes that timestamps take of each segment (RFC 7323 appendix A).
const TIMESTAMPS_LEN: u32 = 12;

impl Terms {
    fn from_options(options: u8, shifts: u8, [sent, announced]: [u32; 2]) -> Self {
        let has = |bit: u8| options & bit != 0;
        let options_len = if has(TIMESTAMPS) { TIMESTAMPS_LEN } else { 0 };
        let shift = |bits: u8| if has(WINDOW_SCALES) { bits & 0xf } else { 0 };
        Self {
            has_timestamps: has(TIMESTAMPS),
            has_sack: has(SACK),
            has_ecn: has(ECN),
            has_fast_open: has(SYN_DATA),
            peers_shift: shift(shifts),
            own_shift: shift(shifts >> 4),
            // The kernel takes off what options take of each segment (net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process).
            announced: announced + options_len,
            accepted: sent + options_len,
        }
    }
}

/// Memory of the received bytes that nobody has taken, in bytes: what SK_MEMINFO_RMEM_ALLOC of SO_MEMINFO says (include/uapi/linux/sock_diag.h).
/// FIONREAD says 0 of a socket in a socket map, whatever is in its receive queue (net/ipv4/tcp_bpf.c, tcp_bpf_ioctl, since Linux 6.19 and its
/// stable releases).
///
/// # Errors
/// The socket is gone.
pub fn received_memory(fd: impl AsFd) -> io::Result<u64> {
    memory(fd).map(|values| values[RECEIVED].into())
}

/// Whether a socket has nothing that it has received: neither in order, nor out of order, nor in the backlog of what came while it was in use
/// (SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_BACKLOG of SO_MEMINFO; net/ipv4/tcp_input.c charges both queues alike).
///
/// # Errors
/// The socket is gone, or the kernel is older than 4.12.
pub fn holds_nothing(fd: impl AsFd) -> io::Result<bool> {
    memory(fd).map(|values| values[RECEIVED] == 0 && values[BACKLOG] == 0)
}

/// Positions in what SO_MEMINFO says (include/uapi/linux/sock_diag.h).
const RECEIVED: usize = 0;
const BACKLOG: usize = 7;

fn memory(fd: impl AsFd) -> io::Result<[u32; 9]> {
    // Linux 6.18 has nine; where there are fewer, the others are 0.
    ask::<36>(fd, libc::SOL_SOCKET, libc::SO_MEMINFO).map(|(bytes, _)| words(&bytes))
}

/// The process and the user at the other end of a socket of this host's (SO_PEERCRED, unix(7)); of one that listens, who has said so.
///
/// # Errors
/// The socket is not connected.
pub fn peer_process(fd: impl AsFd) -> io::Result<(i32, u32)> {
    // struct ucred in include/linux/socket.h.
    let (bytes, _) = ask::<12>(fd, libc::SOL_SOCKET, libc::SO_PEERCRED)?;
    let [pid, user, _group] = words(&bytes);
    Ok((pid.cast_signed(), user))
}

/// Asks for an option of at most `N` bytes (getsockopt(2)): its bytes, zeros behind them, and how many there are.
fn ask<const N: usize>(
    fd: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<([u8; N], usize)> {
    let (mut bytes, mut len) = ([0; N], N as libc::socklen_t);
    // SAFETY: both pointers are to live values, the length is that of the buffer that the kernel writes to, and that may hold any bytes.
    let result = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut len)
    };
    if result == 0 { Ok((bytes, len as usize)) } else { Err(io::Error::last_os_error()) }
}

/// An option's bytes as numbers; zeros where it has fewer.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|at| words.get(at).copied().map_or(0, u32::from_ne_bytes))
}

/// Sets an option that is an integer.
pub(super) fn set_int(
    fd: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
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

/// Sets the largest segment that the peer is told of, in bytes of payload and options (TCP_MAXSEG, tcp(7)); no larger one goes to it either.
///
/// # Errors
/// The kernel takes 88 to 32,767.
pub fn set_segment_size(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// Asks for an option that is an integer.
pub(super) fn get_int(fd: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    ask(fd, level, option).map(|(bytes, _)| libc::c_int::from_ne_bytes(bytes))
}

/// The number of a socket's network namespace, which no other ever has (socket(7), SO_NETNS_COOKIE).
///
/// # Errors
/// The kernel is older than 5.14.
pub fn network_cookie(fd: impl AsFd) -> io::Result<u64> {
    ask(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE).map(|(bytes, _)| u64::from_ne_bytes(bytes))
}

/// Whether [`lock_receive_buffer`] is on.
///
/// # Errors
/// As there.
#[cfg(test)]
pub fn is_receive_buffer_locked(fd: impl AsFd) -> io::Result<bool> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_BUF_LOCK).map(|locks| locks & RECEIVE_LOCK != 0)
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

/// The link type of an interface in this network namespace: ARPHRD_* (SIOCGIFHWADDR, netdevice(7)).
///
/// # Errors
/// There is none of this name, or the process has no descriptors left.
pub fn link_type(interface: &str) -> io::Result<u16> {
    let request = ask_interface(interface, libc::SIOCGIFHWADDR)?;
    // SAFETY: it was made as an address, and the kernel writes nothing else.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// Bytes that packets may have behind the link header at an interface in this network namespace (SIOCGIFMTU, netdevice(7)).
///
/// # Errors
/// As [`link_type`].
pub fn mtu(interface: &str) -> io::Result<u32> {
    let request = ask_interface(interface, libc::SIOCGIFMTU)?;
    // SAFETY: the kernel has written this number, over what was made as an address.
    Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
}

/// Asks an interface in this network namespace by its name.
fn ask_interface(interface: &str, question: libc::Ioctl) -> io::Result<libc::ifreq> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_hwaddr: libc::sockaddr { sa_family: 0, sa_data: [0; 14] },
        },
    };
    // The last byte ends the name.
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: such a request reads the name and writes into the rest of it, which is live.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), question, &raw mut request) };
    if result == 0 { Ok(request) } else { Err(io::Error::last_os_error()) }
}
