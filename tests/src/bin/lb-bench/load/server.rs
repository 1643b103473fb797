// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load server: one thread and epoll for everything small, a thread for each bulk flow. One port a route.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use socket2::{Domain, Socket, Type};

use super::poll::{Interest, Poll, Table, number};
use super::preface::{Header, Preface, Request};
use super::{CHUNK_SIZE, READY};

/// Connections that the kernel holds complete before accept.
const BACKLOG: i32 = 4096;

/// What is read at once from flows without a thread: any message whole.
const SCRATCH_SIZE: usize = 64 << 10;

/// Up to here an answer fits into any socket's send buffer and needs no thread.
const SMALL: u64 = 4096;

/// Listens on one port for each route from `first_port` on, says so, and serves until standard input ends.
///
/// # Errors
/// A port is taken, or descriptors have run out.
pub fn run(first_port: u16, routes: u16) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut server = Server { flows: Table::new(), scratch: vec![0; SCRATCH_SIZE] };
    for route in 0..routes {
        let port = first_port + route;
        let listener = listen(port).with_context(|| format!("cannot listen on port {port}"))?;
        poll.add(&listener, Interest::IN)?;
        let route = u8::try_from(route).context("more than 256 routes")?;
        server.flows.insert(number(&listener)? as usize, Flow::Listener { listener, route });
    }
    println!("{READY}");
    // The load ends with whoever started it.
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        poll.wait(|poll, ready| server.step(poll, ready))?;
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

struct Server {
    flows: Table<Flow>,
    scratch: Vec<u8>,
}

enum Flow {
    Listener {
        listener: TcpListener,
        route: u8,
    },
    /// What came so far; the request is not complete.
    Opening {
        socket: OwnedFd,
        route: u8,
        received: Vec<u8>,
    },
    Echo(OwnedFd),
}

/// Whether a flow goes on.
enum Next {
    Keep,
    Close,
    Start { header: Header, request: Request, length: usize },
}

impl Server {
    fn step(&mut self, poll: &Poll, ready: usize) -> Result<()> {
        if let Some(Flow::Listener { listener, route }) = self.flows.at(ready) {
            let accepted = accept_all(listener, *route, poll)?;
            for (number, flow) in accepted {
                self.flows.insert(number, flow);
            }
            return Ok(());
        }
        match self.advance(ready) {
            Next::Keep => {}
            // Dropping closes the socket, which takes it out of epoll.
            Next::Close => drop(self.flows.take(ready)),
            Next::Start { header, request, length } => {
                if let Some(Flow::Opening { socket, route, received }) = self.flows.take(ready) {
                    self.start(
                        poll,
                        Opened { socket, route, header, rest: received[length..].to_vec() },
                        request,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, ready: usize) -> Next {
        let Some(flow) = self.flows.at(ready) else { return Next::Keep };
        let (Flow::Opening { socket, .. } | Flow::Echo(socket)) = flow else { return Next::Keep };
        let length = match recv(&*socket, &mut self.scratch[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Next::Keep,
            Err(_) | Ok((0, _)) => return Next::Close,
            Ok((length, _)) => length,
        };
        let bytes = &self.scratch[..length];
        match flow {
            Flow::Listener { .. } => Next::Keep,
            // One message is outstanding at most, so it always fits.
            Flow::Echo(socket) => send_all(socket, bytes),
            Flow::Opening { received, .. } => {
                received.extend(bytes);
                match Preface::parse(received) {
                    Preface::NeedMore => Next::Keep,
                    Preface::Invalid => Next::Close,
                    Preface::Complete { header, request, length } => Next::Start { header, request, length },
                }
            }
        }
    }

    fn start(&mut self, poll: &Poll, opened: Opened, request: Request) -> Result<()> {
        match request {
            Request::Source(bytes @ ..=SMALL) => {
                let mut answer = vec![0; usize::try_from(bytes)?];
                opened.sign(&mut answer);
                send_all(&opened.socket, &answer);
            }
            Request::Source(bytes) => {
                poll.remove(&opened.socket)?;
                std::thread::spawn(move || opened.source(bytes));
            }
            Request::Sink(bytes) => {
                poll.remove(&opened.socket)?;
                std::thread::spawn(move || opened.sink(bytes));
            }
            Request::Echo => {
                rustix::net::sockopt::set_tcp_nodelay(&opened.socket, true)?;
                let number = number(&opened.socket)? as usize;
                if let Next::Keep = send_all(&opened.socket, &opened.rest) {
                    self.flows.insert(number, Flow::Echo(opened.socket));
                }
            }
        }
        Ok(())
    }
}

fn accept_all(listener: &TcpListener, route: u8, poll: &Poll) -> Result<Vec<(usize, Flow)>> {
    let mut accepted = Vec::new();
    loop {
        match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => {
                poll.add(&socket, Interest::IN)?;
                let number = number(&socket)? as usize;
                accepted.push((number, Flow::Opening { socket, route, received: Vec::new() }));
            }
            Err(Errno::AGAIN) => return Ok(accepted),
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot accept"),
        }
    }
}

fn send_all(socket: &OwnedFd, bytes: &[u8]) -> Next {
    match send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) if sent == bytes.len() => Next::Keep,
        _ => Next::Close,
    }
}

/// A flow whose request is known.
struct Opened {
    socket: OwnedFd,
    route: u8,
    header: Header,
    /// What came behind the request.
    rest: Vec<u8>,
}

impl Opened {
    /// Writes into an answer what the client checks.
    fn sign(&self, answer: &mut [u8]) {
        for (place, byte) in answer.iter_mut().zip([self.header.byte(), self.route]) {
            *place = byte;
        }
    }

    /// An end that comes early is the client's to report: it counts.
    fn source(self, bytes: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_SIZE];
        self.sign(&mut chunk);
        let mut stream = blocking(self.socket)?;
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
            stream.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        // The client closes first, once all is there, so that no balancer has the end of a flow before its bytes: what that changes in
        // how the last ones are carried is not what is measured.
        stream.read(&mut [0]).map(drop)
    }

    /// Answers with the bytes that came, also if the flow ended before all did.
    fn sink(self, bytes: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_SIZE];
        let mut received = self.rest.len() as u64;
        let mut stream = blocking(self.socket)?;
        while received < bytes {
            match stream.read(&mut chunk)? {
                0 => break,
                length => received += length as u64,
            }
        }
        stream.write_all(&received.to_be_bytes())
    }
}

fn blocking(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
