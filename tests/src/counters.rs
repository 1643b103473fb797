// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel counts in a network namespace.

use crate::net::Namespace;

/// A number that counts since the namespace is there, such as `InCsumErrors` of `Tcp`; both versions of IP are in those of TCP (proc_pid_net(5);
/// net/ipv4/proc.c has the names).
///
/// # Panics
/// The kernel has no such number.
#[track_caller]
pub fn counted(place: &Namespace, protocol: &str, name: &str) -> u64 {
    let read = |table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
    let tables = place.enter(|| ["snmp", "netstat"].map(|table| read(table).expect("/proc is mounted")));
    let text = tables.concat();
    // A line of names, and below it one of numbers.
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let [names, numbers] = [(); 2].map(|()| lines.next().unwrap_or_else(|| panic!("no {protocol}: {text}")));
    let mut pairs = names.split(' ').zip(numbers.split(' '));
    let (_, number) =
        pairs.find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {protocol} {name}"));
    number.parse().expect("a number")
}
