// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS servers: dnsmasq with records that change, and a scripted one that never has an answer.

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::net::Namespace;
use crate::process::Process;
use crate::wait;

/// Where DNS servers listen, inside their namespace.
pub const DNS: &str = "127.0.0.1:53";

/// A dnsmasq that knows names below `internal` and nothing else.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Process,
    hosts: PathBuf,
    _files: TempDir,
}

impl Dnsmasq {
    /// Starts one at [`DNS`] whose answers have this TTL in seconds, with the addresses of names, and with SRV records as dnsmasq
    /// writes them (`_service._tcp.name,target,port,priority,weight`), which stay.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    #[track_caller]
    pub fn start(place: &Namespace, ttl: u32, names: &[(&str, IpAddr)], services: &[&str]) -> Self {
        let files = crate::agent::public_directory();
        let hosts = files.path().join("hosts");
        write(&hosts, names);
        let mut command = Command::new("dnsmasq");
        command.args(["--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-", "--log-queries"]);
        command.args(["--no-resolv", "--no-hosts", "--local=/internal/", "--user=root", "--pid-file="]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces"]);
        command.arg(format!("--local-ttl={ttl}")).arg(format!("--addn-hosts={}", hosts.display()));
        command.args(services.iter().map(|service| format!("--srv-host={service}")));
        // A process that is just being started elsewhere may hold the last server's socket until it is executed.
        let process = wait::until_some("dnsmasq to listen", || {
            let mut process = place.spawn(&mut command);
            let mut has_ended = false;
            wait::until("dnsmasq to read its names or to end", || {
                has_ended = process.try_wait().is_some();
                has_ended || reads(&process, &hosts) > 0
            });
            (!has_ended).then_some(process)
        });
        Self { process, hosts, _files: files }
    }

    /// Replaces the addresses of all names.
    #[track_caller]
    pub fn set(&self, names: &[(&str, IpAddr)]) {
        write(&self.hosts, names);
        let before = reads(&self.process, &self.hosts);
        self.process.signal(Signal::HUP);
        let is_read = || reads(&self.process, &self.hosts) > before;
        wait::until("dnsmasq to read its names again", is_read);
    }

    /// How many questions of a kind (`A`, `SRV`) for a name there have been.
    pub fn questions(&self, kind: &str, name: &str) -> usize {
        let question = format!("query[{kind}] {name} ");
        self.process.stderr().iter().filter(|line| line.contains(&question)).count()
    }
}

/// How often dnsmasq has read its names.
fn reads(process: &Process, hosts: &Path) -> usize {
    let read = format!("read {} ", hosts.display());
    process.stderr().iter().filter(|line| line.contains(&read)).count()
}

fn write(hosts: &Path, names: &[(&str, IpAddr)]) {
    let mut text = String::new();
    for (name, address) in names {
        writeln!(text, "{address} {name}").expect("strings grow");
    }
    std::fs::write(hosts, text).expect("a temporary file");
}

/// A DNS server that answers every question with the same error.
#[derive(Debug)]
pub struct Refuser {
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Refuser {
    /// Starts one at [`DNS`]; `code` is the RCODE (RFC 1035 section 4.1.1): 2 for SERVFAIL, 5 for REFUSED. `None`: it says nothing.
    ///
    /// # Panics
    /// If the address is taken.
    #[track_caller]
    pub fn start(place: &Namespace, code: Option<u8>) -> Self {
        let address: SocketAddr = DNS.parse().expect("an address");
        // As with dnsmasq, the last one's socket may live a moment longer.
        let bind = || place.enter(|| UdpSocket::bind(address)).ok();
        let socket = wait::until_some("a free port for DNS", bind);
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a fresh socket");
        let is_stopped = Arc::<AtomicBool>::default();
        let thread = std::thread::spawn({
            let is_stopped = Arc::clone(&is_stopped);
            move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    answer(&socket, code);
                }
            }
        });
        Self { is_stopped, thread: Some(thread) }
    }
}

impl Drop for Refuser {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the test is about to fail for its effect.
            let _ = thread.join();
        }
    }
}

/// Answers the next question, if one comes soon: the question itself with the bit QR and the code set.
fn answer(socket: &UdpSocket, code: Option<u8>) {
    let mut buffer = [0; 512];
    let (length, client) = match socket.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
        Err(error) => panic!("a DNS server's socket: {error}"),
    };
    if let Some(code) = code
        && length >= 12
    {
        buffer[2] |= 0x80;
        buffer[3] = (buffer[3] & 0xf0) | code;
        // The asker may have gone already.
        let _ = socket.send_to(&buffer[..length], client);
    }
}
