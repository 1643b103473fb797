// SPDX-License-Identifier: MIT OR Apache-2.0
//! Targets that take one datagram a line: the local syslog daemon, and one behind UDP.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::Record;
use super::format::{Formatter, timestamp};
use super::writer::Lost;

/// Facility local0 (16), severity informational (6): RFC 5424 section 6.2.1.
const PRIORITY: u8 = 16 * 8 + 6;

/// How long the writer waits for a daemon that does not read, before it gives up a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the daemon is.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A Unix datagram socket; RFC 3164 framing as syslog(3) sends it, in local time and without a host name.
    Unix(PathBuf),
    /// A UDP address; RFC 5424 framing, one message a datagram (RFC 5426).
    Udp(SocketAddr),
}

/// A syslog daemon, and the connection to it.
#[derive(Debug)]
pub(super) struct Syslog {
    peer: Peer,
    socket: Option<Socket>,
    host: String,
    process_id: u32,
    datagram: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Syslog {
    /// A daemon that is connected to when there is something to send.
    pub(super) fn new(peer: Peer) -> Self {
        Self { peer, socket: None, host: host_name(), process_id: std::process::id(), datagram: Vec::new() }
    }

    /// Connects, if it is not.
    ///
    /// # Errors
    /// Nobody listens there, or a socket cannot be made.
    pub(super) fn connect(&mut self) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(Socket::connect(&self.peer)?);
        }
        Ok(())
    }

    /// Sends a batch. From the first line that cannot be sent, the batch is lost: a daemon that is gone or does not read must not
    /// cost a second for each line.
    pub(super) fn write(&mut self, batch: &[Record], formatter: &Formatter) -> Lost {
        for (index, record) in batch.iter().enumerate() {
            self.frame(record, formatter);
            if let Err(cause) = self.send() {
                return Lost { lines: (batch.len() - index) as u64, cause: Some(cause) };
            }
        }
        Lost::default()
    }

    /// Sends the datagram, on a fresh socket if the old one is broken, as after a restart of the daemon.
    fn send(&mut self) -> io::Result<()> {
        let first = match &self.socket {
            Some(socket) => socket.send(&self.datagram),
            None => Err(ErrorKind::NotConnected.into()),
        };
        match first {
            Ok(()) => return Ok(()),
            // The daemon is there and does not read.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error);
            }
            Err(_) => self.socket = None,
        }
        let socket = self.socket.insert(Socket::connect(&self.peer)?);
        socket.send(&self.datagram)
    }

    /// Fills the datagram with header and line. The time is that of the connection's end.
    fn frame(&mut self, record: &Record, formatter: &Formatter) {
        self.datagram.clear();
        let ended_at = timestamp(record.accepted_at + record.total_time);
        let process_id = self.process_id;
        let header = match &self.peer {
            Peer::Unix(_) => {
                let local = ended_at.to_zoned(formatter.zone().clone());
                write!(self.datagram, "<{PRIORITY}>{} lb[{process_id}]: ", local.strftime("%b %e %H:%M:%S"))
            }
            Peer::Udp(_) => {
                let host = &self.host;
                write!(self.datagram, "<{PRIORITY}>1 {ended_at:.3} {host} lb {process_id} connection - ")
            }
        };
        header.expect("a Vec takes every byte");
        formatter.append(record, &mut self.datagram);
    }
}

impl Socket {
    fn connect(peer: &Peer) -> io::Result<Self> {
        match peer {
            Peer::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("cannot reach syslog at {}: {error}", path.display()),
                    )
                })?;
                socket.set_write_timeout(Some(SEND_TIMEOUT))?;
                Ok(Self::Unix(socket))
            }
            Peer::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(SEND_TIMEOUT))?;
                Ok(Self::Udp(socket))
            }
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            let sent = match self {
                Self::Unix(socket) => socket.send(datagram),
                Self::Udp(socket) => socket.send(datagram),
            };
            match sent {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => return sent.map(drop),
            }
        }
    }
}

/// The host's name as RFC 5424 section 6.2.4 allows it: up to 255 graphic ASCII characters, or `-`.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::super::tests::record;
    use super::*;
    use crate::config::LogFormat;

    fn formatter() -> Formatter {
        Formatter::with_zone(LogFormat::Tcplog, TimeZone::fixed(jiff::tz::offset(2)))
    }

    fn line() -> String {
        let mut line = Vec::new();
        formatter().append(&record(), &mut line);
        String::from_utf8(line).unwrap()
    }

    fn receive(receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> String {
        let mut buffer = [0; 4096];
        let length = receive(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_local_daemon_gets_rfc_3164_in_local_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(Peer::Unix(path));
        assert_eq!(syslog.write(&[record()], &formatter()).lines, 0);
        let expected = format!("<134>Oct  5 09:09:10 lb[{}]: {}", std::process::id(), line());
        assert_eq!(receive(|buffer| daemon.recv(buffer)), expected);
    }

    #[test]
    fn a_remote_daemon_gets_rfc_5424() {
        let daemon = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let mut syslog = Syslog::new(Peer::Udp(daemon.local_addr().unwrap()));
        syslog.host = "balancer-1".to_owned();
        assert_eq!(syslog.write(&[record()], &formatter()).lines, 0);
        let process_id = std::process::id();
        let expected =
            format!("<134>1 2026-10-05T07:09:10.125Z balancer-1 lb {process_id} connection - {}", line());
        assert_eq!(receive(|buffer| daemon.recv(buffer)), expected);
    }

    #[test]
    fn a_daemon_that_was_restarted_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new(Peer::Unix(path.clone()));
        let lost = syslog.write(&[record(), record()], &formatter());
        assert_eq!(lost.lines, 2);
        assert!(lost.cause.unwrap().to_string().contains("cannot reach syslog"));

        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            assert_eq!(syslog.write(&[record()], &formatter()).lines, 0);
            assert!(receive(|buffer| daemon.recv(buffer)).ends_with(&line()));
            drop(daemon);
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(syslog.write(&[record()], &formatter()).lines, 1);
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_a_batch_and_not_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(Peer::Unix(path));
        let lost = syslog.write(&vec![record(); 5000], &formatter());
        assert!((1..5000).contains(&lost.lines), "{lost:?}");
        daemon.set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| daemon.recv(&mut [0; 4096]).ok()).count() as u64;
        assert_eq!(received + lost.lines, 5000);
        assert_eq!(syslog.write(&[record()], &formatter()).lines, 0, "it takes lines again");
    }

    #[test]
    fn the_host_name_is_a_syslog_word() {
        let name = host_name();
        assert!(!name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
