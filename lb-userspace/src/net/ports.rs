// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interfaces, and ports that the kernel gives to nobody.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use rustix::net::{AddressFamily, SocketType};

use super::syscalls::network_cookie;

/// The number of the interface for packets of this host to itself, in each network namespace (include/net/net_namespace.h, LOOPBACK_IFINDEX).
pub const LOOPBACK: u32 = 1;

/// Why a range of ports is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The kernel may give one of them to anybody who asks for any port.
    #[error(
        "the kernel gives port {port} of packet-ports to others: take it out of net.ipv4.ip_local_port_range ({first} to {last}), or put it \
         into net.ipv4.ip_local_reserved_ports"
    )]
    Given {
        /// The first of them.
        port: u16,
        /// The range of the kernel.
        first: u16,
        /// Its end.
        last: u16,
    },
    /// /proc is not there.
    #[error("cannot read which ports the kernel gives to others")]
    Unknown(#[source] io::Error),
}

/// Makes sure that the kernel gives none of these ports to who asks for any (ip-sysctl.rst: ip_local_port_range, ip_local_reserved_ports; both
/// hold for IPv6, too).
///
/// # Errors
/// See [`PortsError`].
pub fn check_ports(ports: &RangeInclusive<u16>) -> Result<(), PortsError> {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).map_err(PortsError::Unknown);
    given(ports, &read("ip_local_port_range")?, &read("ip_local_reserved_ports")?)
}

fn given(ports: &RangeInclusive<u16>, range: &str, reserved: &str) -> Result<(), PortsError> {
    let malformed = || PortsError::Unknown(io::ErrorKind::InvalidData.into());
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else { return Err(malformed()) };
    let reserved: Vec<RangeInclusive<u16>> = reserved
        .trim()
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| parse(part).ok_or_else(malformed))
        .collect::<Result<_, _>>()?;
    let is_given =
        |port: &u16| (first..=last).contains(port) && !reserved.iter().any(|range| range.contains(port));
    match ports.clone().find(is_given) {
        Some(port) => Err(PortsError::Given { port, first, last }),
        None => Ok(()),
    }
}

/// One port, or two with a dash between.
fn parse(part: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

/// The names of all interfaces of this network namespace but loopback (proc_pid_net(5), /proc/net/dev).
///
/// # Errors
/// /proc is not there, or the process has no descriptors left.
pub fn interfaces() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).filter(|name| name != "lo").collect())
}

/// The number of this network namespace, which no other ever has; 0 where the kernel does not tell (before Linux 5.14).
pub fn network() -> u64 {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    socket.ok().and_then(|socket| network_cookie(socket).ok()).unwrap_or(0)
}

/// Whether an error says that there is no such interface (netdevice(7)), and not that the kernel or the process lacks something to find out.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

/// The number of an interface of this network namespace, by its name.
///
/// # Errors
/// There is none ([`is_absence`]), or the process has no descriptors left.
pub fn interface_number(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
}

/// The name of an interface of this network namespace, by its number.
///
/// # Errors
/// As [`interface_number`].
pub fn interface_name(number: u32) -> io::Result<String> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(socket, number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ours_outside_the_range_or_where_it_is_reserved() {
        let check = |ports: RangeInclusive<u16>, reserved: &str, expected: Option<u16>| {
            let found = match given(&ports, "32768\t60999\n", reserved) {
                Ok(()) => None,
                Err(PortsError::Given { port, first: 32_768, last: 60_999 }) => Some(port),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(found, expected, "{ports:?} {reserved}");
        };
        check(61_000..=65_535, "\n", None);
        check(60_990..=65_535, "\n", Some(60_990));
        check(1_024..=40_000, "", Some(32_768));
        check(40_000..=40_010, "22,40000-40010\n", None);
        check(40_000..=40_011, "40000-40010,50000\n", Some(40_011));
    }

    #[test]
    fn interfaces_are_those_of_this_namespace() {
        let absent = [interface_number("no-such-one").err(), interface_name(i32::MAX as u32).err()];
        assert!(absent.iter().flatten().filter(|error| is_absence(error)).count() == 2, "{absent:?}");
        let names = interfaces().expect("/proc is mounted");
        assert!(!names.iter().any(|name| name == "lo" || name.contains(' ')), "{names:?}");
    }
}
