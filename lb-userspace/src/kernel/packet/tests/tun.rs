// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets over devices whose other end is this test (tun(4), Documentation/networking/tuntap.rst): with Ethernet's header and without, in every
//! combination. What comes out behind the balancer is compared byte for byte.
#![expect(unsafe_code, reason = "TUNSETIFF")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use lb_common::packet::flow::{Phase, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::name_to_index;

use super::super::{Keys, Packet, Slot};
use super::bench::{CLIENT, Family, Link, SERVER, address, change, ethernet, loaded, record, shape};
use super::model::{self, Shape};
use super::place::{Place, ip, request};

/// How long a packet may take from one device to the other.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Who is behind a device with Ethernet.
const NEIGHBOUR: &str = "02:00:00:00:00:77";

/// What the other end of a device says in front of each frame, if it is to say anything (include/uapi/linux/virtio_net.h, struct
/// virtio_net_hdr): zeros, where everything has been done.
pub const NOTE: usize = 10;

/// A device, by name, with its other end.
pub struct Device {
    name: &'static str,
    link: Link,
    end: File,
    has_notes: bool,
}

impl Device {
    pub fn new(name: &'static str, link: Link) -> Self {
        Self::with(name, link, false)
    }

    /// One whose other end may leave checksums and cutting to the kernel, and does not the same for it.
    pub fn with_notes(name: &'static str, link: Link) -> Self {
        Self::with(name, link, true)
    }

    fn with(name: &'static str, link: Link, has_notes: bool) -> Self {
        let end = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        let kind = if link == Link::Ethernet { libc::IFF_TAP } else { libc::IFF_TUN };
        let notes = if has_notes { libc::IFF_VNET_HDR } else { 0 };
        let flags = libc::c_short::try_from(kind | libc::IFF_NO_PI | notes).expect("small flags");
        let mut request = request(name, libc::__c_anonymous_ifr_ifru { ifru_flags: flags });
        // SAFETY: TUNSETIFF reads the request and writes the name into it, which is live.
        let result = unsafe { libc::ioctl(end.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "{name}: {}", io::Error::last_os_error());
        ip(&["link", "set", name, "up"]);
        Self { name, link, end, has_notes }
    }

    /// Sends what is for an address to this device.
    pub fn route(&self, family: Family, to: &[u8]) {
        let to = text(to);
        let version = if family == Family::V4 { "-4" } else { "-6" };
        ip(&[version, "route", "add", &to, "dev", self.name]);
        if self.link == Link::Ethernet {
            let neighbour = ["lladdr", NEIGHBOUR, "dev", self.name, "nud", "permanent"];
            ip(&[&[version, "neighbour", "add", &to][..], &neighbour].concat());
        }
    }

    /// A packet comes in here.
    fn receives(&mut self, packet: &[u8]) {
        let note: &[u8] = if self.has_notes { &[0; NOTE] } else { &[] };
        self.receives_noted(note, packet);
    }

    /// The same with a note in front of the frame.
    pub fn receives_noted(&mut self, note: &[u8], packet: &[u8]) {
        let header = if self.link == Link::Ethernet { ethernet(packet) } else { Vec::new() };
        self.end.write_all(&[note, &header[..], packet].concat()).expect("the device is up");
    }

    /// The next TCP packet that goes out here; others are the kernel's own.
    fn sends(&mut self) -> Vec<u8> {
        self.next(|packet| protocol(packet) == Some(6))
    }

    /// The next packet of a kind that goes out here.
    pub fn next(&mut self, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let note_len = if self.has_notes { NOTE } else { 0 };
        let header_len = if self.link == Link::Ethernet { 14 } else { 0 };
        let mut frame = [0; 2_000];
        loop {
            let mut fds = [PollFd::new(&self.end, PollFlags::IN)];
            assert_ne!(poll(&mut fds, Some(&PATIENCE)), Ok(0), "nothing goes out at {}", self.name);
            let len = self.end.read(&mut frame).expect("the device is up");
            let (header, packet) = frame[note_len..len].split_at(header_len);
            if is_it(packet) {
                assert!(header.is_empty() || header[..6] == [2, 0, 0, 0, 0, 0x77], "to whom: {header:?}");
                assert!(header.is_empty() || header[12..] == ethernet(packet)[12..], "what: {header:?}");
                return packet.to_vec();
            }
        }
    }
}

/// The protocol behind an IP header.
pub fn protocol(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => packet.get(9).copied(),
        6 => packet.get(6).copied(),
        _ => None,
    }
}

fn text(address: &[u8]) -> String {
    match <[u8; 4]>::try_from(address) {
        Ok(bytes) => std::net::Ipv4Addr::from(bytes).to_string(),
        Err(_) => {
            let bytes: [u8; 16] = address.try_into().expect("an address");
            std::net::Ipv6Addr::from(bytes).to_string()
        }
    }
}

#[test]
fn packets_go_from_one_kind_of_device_to_the_other() {
    let Some((mut packet, _bells)) = loaded(4) else { return };
    for links in [
        [Link::Ethernet, Link::Bare],
        [Link::Bare, Link::Ethernet],
        [Link::Bare, Link::Bare],
        [Link::Ethernet, Link::Ethernet],
    ] {
        let place = Place::new();
        for family in [Family::V4, Family::V6] {
            place.enter(|| carry(&mut packet, family, links));
        }
    }
}

/// A packet each way.
fn carry(packet: &mut Packet, family: Family, [client_link, server_link]: [Link; 2]) {
    let (mut client, mut server) = (Device::new("client", client_link), Device::new("server", server_link));
    client.route(family, &address(family, 0));
    server.route(family, &address(family, 3));
    let _attached = ["client", "server"].map(|interface| packet.attach(interface).expect("an interface"));
    let (mut keys, slot) = begin(packet, family, &client);
    for _ in 0..2 {
        let (from_client, expected) = pair(family, CLIENT);
        client.receives(&from_client);
        assert_eq!(server.sends(), expected, "{family:?} {client_link:?} {server_link:?}");
        let (from_server, expected) = pair(family, SERVER);
        server.receives(&from_server);
        assert_eq!(client.sends(), expected, "{family:?} {server_link:?} {client_link:?}");
    }
    assert_eq!(slot.edit(|record| [record.to_server.segments, record.to_client.segments]), [2, 2]);
    keys.withdraw(&slot);
}

/// A spliced flow between the two devices.
pub fn begin(packet: &Packet, family: Family, device: &Device) -> (Keys, Slot) {
    let index = |name| name_to_index(any_socket(), name).expect("an interface");
    let mut record = record(family, Phase::Spliced);
    (record.to_server.interface, record.to_client.interface) = (index("server"), index(device.name));
    let (mut keys, slot) = (packet.keys().expect("descriptors"), packet.slot().expect("a slot"));
    slot.begin(record);
    keys.publish(&slot).expect("nobody has them");
    (keys, slot)
}

fn any_socket() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket")
}

/// What an end sends, and what the other one gets.
fn pair(family: Family, from: Side) -> (Vec<u8>, Vec<u8>) {
    let options = vec![1, 1, 8, 10, 0, 0, 0, 77, 0, 0, 0, 78];
    let packet = Shape { options, payload: vec![0x42; 333], ..shape(family, from) }.packet();
    let expected = model::translated(&packet, 0, &change(family, from));
    (packet, expected)
}
