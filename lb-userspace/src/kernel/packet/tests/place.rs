// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces with devices between them: a client, a balancer and a server, in a row.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::bench::Family;

/// A network namespace, for as long as this lives.
pub struct Place {
    link: File,
    holder: Child,
}

/// All three. At the balancer, interfaces are named for who is behind them; the others have an `uplink`.
pub struct Row {
    pub client: Place,
    pub balancer: Place,
    pub server: Place,
}

/// The address of an end on the client's wire (0) or on the server's (1): the balancer is 1 there, the other 2.
pub fn address(family: Family, wire: u8, end: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, wire, end).into(),
        Family::V6 => Ipv6Addr::new(0xfd77, wire.into(), 0, 0, 0, 0, 0, end.into()).into(),
    }
}

impl Row {
    pub fn new() -> Self {
        let row = Self { client: Place::new(), balancer: Place::new(), server: Place::new() };
        for (wire, name, place) in [(0, "client", &row.client), (1, "server", &row.server)] {
            let peer = place.holder.id().to_string();
            row.balancer.enter(|| {
                ip(&["link", "add", name, "type", "veth", "peer", "name", "uplink", "netns", &peer]);
                configure(name, wire, 1);
            });
            place.enter(|| configure("uplink", wire, 2));
        }
        row
    }
}

fn configure(interface: &str, wire: u8, end: u8) {
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let address = format!("{}/{prefix}", address(family, wire, end));
        let options: &[&str] = if family == Family::V6 { &["nodad"] } else { &[] };
        ip(&[&["address", "add", &address, "dev", interface], options].concat());
    }
    ip(&["link", "set", interface, "up"]);
}

/// Runs ip(8).
pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) must be installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Place {
    pub fn new() -> Self {
        // `cat` holds the namespace until it is open here; its echo says that unshare(1) is done.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) must be installed");
        let mut echo = [0; 1];
        holder.stdin.as_mut().expect("was piped").write_all(b"?").expect("cat reads");
        holder.stdout.as_mut().expect("was piped").read_exact(&mut echo).expect("a network namespace");
        let link = File::open(format!("/proc/{}/ns/net", holder.id())).expect("of a living process");
        Self { link, holder }
    }

    /// A process in this namespace.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Does something on a thread in this namespace.
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
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // The exit status of `cat` says nothing.
        let _ = self.holder.wait();
    }
}

/// A request about an interface (netdevice(7)).
pub fn request(interface: &str, content: libc::__c_anonymous_ifr_ifru) -> libc::ifreq {
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: content };
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}
