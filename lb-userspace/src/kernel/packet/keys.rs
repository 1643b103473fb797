// SPDX-License-Identifier: MIT OR Apache-2.0
//! By what packets are found, as user space writes it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::ip::Addresses;
use lb_common::packet::offer::{Offer, is_heeded};
use lb_common::packet::record::{KEY_WORDS, Key, V4, V6, Way, place, v4_mapped};
use rustix::io::Errno;

use super::slots::Slot;
use crate::kernel::errno;

/// BPF_NOEXIST (include/uapi/linux/bpf.h): an entry must not be there yet.
const NO_EXIST: u64 = 1;

/// The map of keys as one thread writes it.
pub struct Keys {
    map: HashMap<MapData, [u32; KEY_WORDS], u32>,
}

/// By what programs know the SYN of a connection that begins.
#[derive(Clone, Copy, Debug)]
pub struct Opening(Key);

/// Why a flow was not made findable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRefusal {
    /// A flow before it has the same addresses and ports.
    Taken,
    /// The kernel lacks memory, or the map is full.
    Kernel(Errno),
}

impl Keys {
    pub(super) fn new(map: HashMap<MapData, [u32; KEY_WORDS], u32>) -> Self {
        Self { map }
    }

    /// Lets programs find a flow from now on, by what comes from its client and from its server: see [`super::Slot::begin`].
    ///
    /// # Errors
    /// See [`KeyRefusal`]; then they do not find it.
    pub fn publish(&mut self, slot: &Slot) -> Result<(), KeyRefusal> {
        let [client, server] = keys(slot);
        self.insert(&client, place(slot.number(), Side::Client))?;
        self.insert(&server, place(slot.number(), Side::Server)).inspect_err(|_| {
            // Just inserted.
            let _ = self.map.remove(&client.words());
        })
    }

    /// Ends [`Self::publish`].
    pub fn withdraw(&mut self, slot: &Slot) {
        for (key, side) in keys(slot).into_iter().zip(Side::ALL) {
            // A program may have removed the key, and another flow may have it by now.
            if self.map.get(&key.words(), 0).is_ok_and(|found| found == place(slot.number(), side)) {
                let _ = self.map.remove(&key.words());
            }
        }
    }

    /// Has the SYN of a connection that is about to begin offer its server no more than this; whether programs will know. To be [settled](Self::settle)
    /// when it has begun.
    pub fn offer(&mut self, opening: &Opening, offer: Offer) -> bool {
        // What is there is of somebody who was killed: nobody else has the port.
        self.map.insert(opening.0.words(), offer.word(), 0).is_ok()
    }

    /// Ends [`Self::offer`]; whether a SYN has gone out so.
    pub fn settle(&mut self, opening: &Opening) -> bool {
        let key = opening.0.words();
        let is_heeded = self.map.get(&key, 0).is_ok_and(is_heeded);
        // It was there, or nobody knows it.
        let _ = self.map.remove(&key);
        is_heeded
    }

    /// Lets programs find exactly these flows, and no others: what an agent has left that was killed may be anything.
    pub fn reconcile<'a>(&mut self, slots: impl IntoIterator<Item = &'a Slot>) {
        let findable =
            slots.into_iter().filter(|slot| slot.edit(|record| record.flow.phase()) != Phase::Gone);
        let wanted: BTreeMap<[u32; KEY_WORDS], u32> = findable
            .flat_map(|slot| {
                keys(slot)
                    .map(|key| key.words())
                    .into_iter()
                    .zip(Side::ALL.map(|side| place(slot.number(), side)))
            })
            .collect();
        let there: BTreeMap<[u32; KEY_WORDS], u32> = self.map.iter().flatten().collect();
        for (key, _) in there.iter().filter(|(key, place)| wanted.get(*key) != Some(place)) {
            let _ = self.map.remove(key);
        }
        for (key, place) in wanted.iter().filter(|(key, place)| there.get(*key) != Some(place)) {
            // The map has room for all slots.
            let _ = self.map.insert(key, place, 0);
        }
    }

    fn insert(&mut self, key: &Key, place: u32) -> Result<(), KeyRefusal> {
        self.map.insert(key.words(), place, NO_EXIST).map_err(KeyRefusal::from_map)
    }

    /// How many there are, for tests.
    #[cfg(test)]
    pub fn entries(&self) -> usize {
        self.map.keys().count()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl KeyRefusal {
    fn from_map(error: MapError) -> Self {
        match errno(&error) {
            Some(Errno::EXIST) => Self::Taken,
            other => Self::Kernel(other.unwrap_or(Errno::INVAL)),
        }
    }
}

impl Opening {
    /// Of a connection to a server, from a port of this host's.
    pub fn new(server: SocketAddr, port: u16) -> Self {
        let ports = u32::from(server.port()) << 16 | u32::from(port);
        let key = Key { remote: words(server.ip()), local: [0; 4], ports, family: family(server.ip()) };
        Self(key.from_anywhere())
    }
}

fn keys(slot: &Slot) -> [Key; 2] {
    slot.edit(|record| Side::ALL.map(|side| record.key(side)))
}

/// The two ends of each connection of a flow, the client's and the server's.
pub fn connections(slot: &Slot) -> [[SocketAddr; 2]; 2] {
    keys(slot).map(|key| ends(&key))
}

/// The two ends of a connection, the peer and the balancer, as a key has them.
pub fn ends(key: &Key) -> [SocketAddr; 2] {
    let [remote, local] = [key.remote, key.local].map(|words| address(words, key.family));
    [SocketAddr::new(remote, (key.ports >> 16) as u16), SocketAddr::new(local, key.ports as u16)]
}

fn address(words: [u32; 4], family: u32) -> IpAddr {
    if family == V4 {
        return Ipv4Addr::from_bits(words[3]).into();
    }
    Ipv6Addr::from_bits(words.iter().fold(0, |bits, word| bits << 32 | u128::from(*word))).into()
}

/// How packets leave by an interface that the balancer sends from one address to another.
pub fn way(source: IpAddr, destination: IpAddr, interface: u32) -> Way {
    let addresses = Addresses { source: words(source), destination: words(destination) };
    Way { addresses, interface, ..Way::default() }
}

/// The ports of packets from one address to another, as in the first word of TCP's header.
pub fn ports(source: SocketAddr, destination: SocketAddr) -> u32 {
    u32::from(source.port()) << 16 | u32::from(destination.port())
}

/// The version of IP of an address.
pub fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { V4 } else { V6 }
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => v4_mapped(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_as_in_headers() {
        let check = |text: &str, expected| assert_eq!(words(text.parse().expect("an address")), expected);
        check("1.2.3.4", [0, 0, 0xffff, 0x0102_0304]);
        check("2001:db8:1:2:3:4:5:6", [0x2001_0db8, 0x0001_0002, 0x0003_0004, 0x0005_0006]);
        let [from, to] = ["1.2.3.4:256", "[::1]:2"].map(|text| text.parse().expect("an address"));
        assert_eq!(ports(from, to), 0x0100_0002);
        assert_eq!([family(from.ip()), family(to.ip())], [V4, V6]);
    }

    #[test]
    fn a_key_tells_the_ends_again() {
        let check = |remote: &str, local: &str| {
            let pair = [remote, local].map(|text| text.parse::<SocketAddr>().expect("an address"));
            let [remote, local] = pair;
            let key = Key {
                remote: words(remote.ip()),
                local: words(local.ip()),
                ports: ports(remote, local),
                family: family(remote.ip()),
            };
            assert_eq!(ends(&key), pair);
        };
        check("192.0.2.1:443", "198.51.100.7:61000");
        check("[2001:db8:1:2:3:4:5:6]:65535", "[::1]:1");
    }

    #[test]
    fn a_refusal_says_whether_somebody_else_has_the_key() {
        let refused = |errno: Errno| {
            let error = aya::sys::SyscallError { call: "bpf_map_update_elem", io_error: errno.into() };
            KeyRefusal::from_map(error.into())
        };
        assert_eq!(refused(Errno::EXIST), KeyRefusal::Taken);
        assert_eq!(refused(Errno::TOOBIG), KeyRefusal::Kernel(Errno::TOOBIG));
    }
}
