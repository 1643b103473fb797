// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client, a balancer and servers, each in a network namespace of its own, joined by veth pairs.
//!
//! ```text
//! client 10.1.0.2 ── 10.1.0.1 balancer 10.2.N.1 ── 10.2.N.2 server N
//! client fd01::2  ── fd01::1  balancer fd02:N::1 ── fd02:N::2 server N
//! ```
//!
//! The balancer also forwards packets, so that a client can reach a server directly for comparison.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::host;
use crate::process::{Process, run};
use crate::stream::{End, end_of, receive_all};
use crate::wait::PATIENCE;

/// What a socket's buffers may hold: the kernel's own defaults where there is memory enough (ip-sysctl.rst), whatever this machine has
/// set, which new namespaces inherit. How much waits at a reader that pauses depends on it.
const BUFFERS: [(&str, &str); 2] =
    [("net/ipv4/tcp_rmem", "4096 131072 6291456"), ("net/ipv4/tcp_wmem", "4096 16384 4194304")];

/// A network of namespaces. Dropping it removes them, once the processes inside have ended.
#[derive(Debug)]
pub struct Net {
    /// Where clients run.
    pub client: Namespace,
    /// Where the agent runs.
    pub balancer: Arc<Namespace>,
    /// Where servers run.
    pub servers: Vec<Namespace>,
}

/// One network namespace. It has no name: it lives as long as this guard, or a process or socket inside.
#[derive(Debug)]
pub struct Namespace {
    link: File,
    pid: u32,
    holder: Child,
    /// Its first IPv4 address.
    pub v4: Ipv4Addr,
    /// Its first IPv6 address.
    pub v6: Ipv6Addr,
}

impl Net {
    /// A network with that many server namespaces.
    ///
    /// # Panics
    /// Without root, or if the kernel lacks cubic.
    #[track_caller]
    pub fn new(servers: u8) -> Self {
        host::prepare();
        Self::around(Namespace::new(Ipv4Addr::new(10, 1, 0, 1), v6(&[0xfd01, 0, 1])), servers)
    }

    /// A network whose balancer is where this process is, for agents that somebody else starts. Its settings and links stay.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[track_caller]
    pub fn around_here(servers: u8) -> Self {
        host::prepare();
        Self::around(Namespace::held(&[], Ipv4Addr::new(10, 1, 0, 1), v6(&[0xfd01, 0, 1])), servers)
    }

    fn around(balancer: Namespace, servers: u8) -> Self {
        let client = Namespace::new(Ipv4Addr::new(10, 1, 0, 2), v6(&[0xfd01, 0, 2]));
        client.join(&balancer, "client");
        let servers = (0..servers).map(|index| {
            let server = Namespace::new(Ipv4Addr::new(10, 2, index, 2), v6(&[0xfd02, index.into(), 2]));
            server.join(&balancer, &format!("server{index}"));
            server
        });
        let servers = servers.collect();
        balancer.sysctl("net/ipv4/ip_forward", "1");
        balancer.sysctl("net/ipv6/conf/all/forwarding", "1");
        Self { client, balancer: Arc::new(balancer), servers }
    }

    /// The only server namespace of most tests.
    pub fn server(&self) -> &Namespace {
        &self.servers[0]
    }

    /// Lets segments between client and balancer be as large as a packet may be: 65,495 bytes over IPv4.
    pub fn allow_large_segments(&self) {
        for (place, interface) in [(&self.client, "uplink"), (&*self.balancer, "client")] {
            place.enter(|| ip(&["link", "set", interface, "mtu", "65535"]));
        }
    }

    /// An address of the balancer that the client can reach.
    pub fn frontend(&self, port: u16) -> SocketAddr {
        self.balancer.address(port)
    }
}

impl Namespace {
    fn new(v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        Self::held(&["--net"], v4, v6)
    }

    /// With these options of unshare(1).
    fn held(options: &[&str], v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        // `cat` holds the namespace until we have it open; its echo says that unshare(2) is done. It ends with its standard
        // input, so it cannot outlive the test even if that is killed.
        let mut holder = Command::new("unshare")
            .args(options)
            .args(["--", "cat"])
            // Ctrl-C in a terminal is for the process that will drop the namespace, not for this one.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) must be installed");
        let mut echo = [0; 1];
        holder.stdin.as_mut().expect("was piped").write_all(b"?").expect("cat reads");
        let answer = holder.stdout.as_mut().expect("was piped").read_exact(&mut echo);
        answer.expect("a network namespace could not be made: the end-to-end tests need root");
        let pid = holder.id();
        let link = File::open(format!("/proc/{pid}/ns/net")).expect("the namespace of a living process");
        let namespace = Self { link, pid, holder, v4, v6 };
        namespace.enter(|| ip(&["link", "set", "lo", "up"]));
        namespace.sysctl("net/ipv4/tcp_congestion_control", "cubic");
        for (key, sizes) in BUFFERS {
            namespace.sysctl(key, sizes);
        }
        namespace
    }

    /// Joins this namespace to `other` by a veth pair; there, its name is `label`; the default routes here go there.
    fn join(&self, other: &Self, label: &str) {
        let (pid, gateway4, gateway6) = (self.pid.to_string(), gateway4(self.v4), gateway6(self.v6));
        other.enter(|| {
            ip(&["link", "add", label, "type", "veth", "peer", "name", "uplink", "netns", &pid]);
            configure(label, gateway4, gateway6);
        });
        self.enter(|| {
            configure("uplink", self.v4, self.v6);
            ip(&["route", "add", "default", "via", &gateway4.to_string()]);
            ip(&["-6", "route", "add", "default", "via", &gateway6.to_string()]);
        });
    }

    /// Runs `inside` on a thread in this namespace: sockets opened and processes started there belong to it from then on.
    ///
    /// # Panics
    /// As `inside` does.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let network = Some(LinkNameSpaceType::Network);
                    move_into_link_name_space(self.link.as_fd(), network).expect("setns needs root");
                    inside()
                })
                .join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Its first IPv4 address with a port.
    pub fn address(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    /// Its first IPv6 address with a port.
    pub fn address6(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// Writes a setting of the network stack, such as `net/ipv4/tcp_rmem`.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.enter(|| {
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}"))
        });
    }

    /// Opens a connection. All reads and writes on it give up after [`PATIENCE`].
    ///
    /// # Panics
    /// If the connection is not established.
    #[track_caller]
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.try_connect(address).unwrap_or_else(|error| panic!("cannot connect {address}: {error}"))
    }

    /// Opens a connection, or says why not. All reads and writes on it give up after [`PATIENCE`].
    ///
    /// # Errors
    /// Whatever connect(2) says.
    pub fn try_connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        self.enter(|| try_connect_here(address))
    }

    /// Opens a connection by Multipath TCP (RFC 8684), which both ends have to speak, or else it is one of plain TCP.
    ///
    /// # Panics
    /// If the connection is not established, or the kernel was built without CONFIG_MPTCP.
    #[track_caller]
    pub fn connect_multipath(&self, address: SocketAddr) -> TcpStream {
        let connected = self.enter(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::MPTCP))?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            let stream = TcpStream::from(socket);
            be_patient(&stream)?;
            Ok::<_, std::io::Error>(stream)
        });
        connected.unwrap_or_else(|error| panic!("cannot connect {address} by Multipath TCP: {error}"))
    }

    /// Opens a connection that the other end is expected to end, and returns what came and how it ended. A RST may come before
    /// connect(2) has returned.
    #[track_caller]
    pub fn connect_to_the_end(&self, address: SocketAddr) -> (Vec<u8>, End) {
        match self.try_connect(address) {
            Ok(stream) => receive_all(&stream),
            Err(error) => (Vec::new(), end_of(&error)),
        }
    }

    /// How many segments with data, and how many bytes in them, the kernel has sent on a connection that was opened here (RFC 4898,
    /// tcpEStatsPerfDataSegsOut; linux/tcp.h, tcpi_data_segs_out and tcpi_bytes_sent).
    ///
    /// # Panics
    /// If `ss` does not say.
    #[track_caller]
    pub fn sent(&self, stream: &TcpStream) -> (usize, usize) {
        let port = stream.local_addr().expect("connected").port();
        let mut command = Command::new("ss");
        let said = self.run(command.args(["-tinH", "sport", "=", &format!(":{port}")]));
        let number = |key: &str| {
            let number = said.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
            number.unwrap_or_else(|| panic!("no {key} in: {said}"))
        };
        (number("data_segs_out:"), number("bytes_sent:"))
    }

    /// Listens on a port of all addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn listen(&self, port: u16) -> Listener {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listening = self.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&any.into())?;
            socket.listen(4096)?;
            Ok::<_, std::io::Error>(TcpListener::from(socket))
        });
        Listener(listening.unwrap_or_else(|error| panic!("cannot listen on port {port}: {error}")))
    }

    /// Starts a program in this namespace.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> Process {
        self.enter(|| Process::spawn(command))
    }

    /// Runs a program in this namespace to its end, and returns its standard output.
    ///
    /// # Panics
    /// If it fails, with its standard error.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> String {
        self.enter(|| run(command))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // The exit status of `cat` says nothing.
        let _ = self.holder.wait();
    }
}

/// A listening socket of a scripted server.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Takes the next connection.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`].
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        self.accept_within(PATIENCE).expect("no connection came")
    }

    /// Takes the next connection, if one comes in time. All reads and writes on it give up after [`PATIENCE`].
    pub fn accept_within(&self, patience: Duration) -> Option<TcpStream> {
        let mut poll = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let patience = patience.try_into().expect("a short time");
        if rustix::event::poll(&mut poll, Some(&patience)).expect("poll(2)") == 0 {
            return None;
        }
        let stream = match self.0.accept() {
            Ok((stream, _)) => stream,
            // The answer of a socket that has been shut (accept(2)).
            Err(error) if error.kind() == ErrorKind::InvalidInput => return None,
            Err(error) => panic!("accept: {error}"),
        };
        be_patient(&stream).expect("a fresh socket");
        Some(stream)
    }

    /// Stops listening: connects are refused from now on, and threads in [`Self::accept_within`] return.
    pub fn shut(&self) {
        SockRef::from(&self.0).shutdown(std::net::Shutdown::Both).expect("a listening socket");
    }
}

/// As [`Namespace::try_connect`], from the namespace that this thread is in already, for those who connect very often.
///
/// # Errors
/// Whatever connect(2) says.
pub fn try_connect_here(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    be_patient(&stream)?;
    Ok(stream)
}

/// The address of the other end, an IPv4 one also if the socket speaks both.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn be_patient(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn configure(interface: &str, v4: Ipv4Addr, v6: Ipv6Addr) {
    ip(&["address", "add", &format!("{v4}/24"), "dev", interface]);
    ip(&["address", "add", &format!("{v6}/64"), "dev", interface, "nodad"]);
    ip(&["link", "set", interface, "up"]);
}

fn gateway4(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn gateway6(address: Ipv6Addr) -> Ipv6Addr {
    let mut segments = address.segments();
    segments[7] = 1;
    segments.into()
}

/// `first:second::last`
fn v6(parts: &[u16; 3]) -> Ipv6Addr {
    Ipv6Addr::new(parts[0], parts[1], 0, 0, 0, 0, 0, parts[2])
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

/// Brackets around IPv6, as URLs and openssl want it.
pub fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
