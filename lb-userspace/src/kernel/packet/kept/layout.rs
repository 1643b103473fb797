// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written down beside the maps of path `packet`, so that another agent knows whether it understands them.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use aya::maps::{Array, Map, MapData};
use lb_common::packet::flow::{End, Flow, Position, RoundTrip};
use lb_common::packet::ip::Addresses;
use lb_common::packet::record::{Entry, KEY_WORDS, Key, Record, Way};
use lb_common::packet::tcp::Translation;

use crate::kernel::bpf::{self, NewMap};
use crate::kernel::packet::ledger::{PART_BYTES, Tally};

/// The size of a type and where each of its fields is, in bytes. A field that is not named does not compile.
macro_rules! form {
    ($name:ident $(<$of:ty>)? { $($field:ident),+ $(,)? }) => {{
        type Form = $name $(<$of>)?;
        const _: fn(Form) = |$name { $($field: _),+ }| {};
        const FORM: &[usize] = &[size_of::<Form>(), $(std::mem::offset_of!(Form, $field)),+];
        FORM
    }};
}

/// Numbers in the map.
pub const WORDS: usize = 8;

/// The first of them: "lb packe".
const MAGIC: u64 = 0x6c62_2070_6163_6b65;

/// What the numbers in the maps mean. To be raised whenever that changes and [`SHAPE`] does not.
const VERSION: u64 = 3;

/// Sizes and places of all that is in the maps, as one number.
const SHAPE: u64 = shape(&[
    &[KEY_WORDS, PART_BYTES],
    form!(Key { remote, local, ports, family }),
    form!(Way { addresses, interface, told_ms, segments, bytes }),
    form!(Addresses<[u32; 4]> { source, destination }),
    form!(Record { generation, flags, family, refusal, stalled_ms, to_server, to_client, flow }),
    form!(Entry { lock, record }),
    form!(Flow {
        phase,
        timestamps,
        client,
        server,
        client_position,
        server_position,
        to_server,
        to_client,
        delivered_to_server,
        delivered_to_client,
        seen_ns,
    }),
    form!(End {
        reached,
        sent,
        acknowledged,
        confirmed,
        allowed,
        timestamp,
        timestamp_sent,
        marks,
        round_trip
    }),
    form!(RoundTrip { smoothed, shortest }),
    form!(Position { taken, given }),
    form!(Translation {
        ports,
        sequence_add,
        acknowledgement_add,
        timestamp_add,
        echo_add,
        shift_from,
        shift_to,
    }),
    form!(Tally { spliced, copied, counted, logged, spare }),
]);

/// What maps belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many flows they have room for.
    pub slots: u32,
    /// `packet-ports` of the agent that wrote it last.
    pub ports: RangeInclusive<u16>,
    /// The number of its network namespace (socket(7), SO_NETNS_COOKIE), which no other ever has; 0 before Linux 5.14.
    pub network: u64,
    /// Its process.
    pub process: u32,
}

/// Why maps cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// They are not ours, or damaged.
    Foreign,
    /// Their numbers mean something else.
    Version {
        /// The version of the layout that was found.
        found: u64,
        /// Ours.
        own: u64,
    },
    /// They lie elsewhere.
    Shape,
    /// They are of another network namespace.
    Network,
    /// The local port of a flow in them is not in `packet-ports`.
    Port(u16),
}

impl Layout {
    /// As the map has it.
    pub fn words(&self) -> [u64; WORDS] {
        let ports = u64::from(*self.ports.start()) << 16 | u64::from(*self.ports.end());
        [MAGIC, VERSION, SHAPE, self.slots.into(), ports, self.network, self.process.into(), 0]
    }

    /// Reads what a map has, if this agent understands it.
    ///
    /// # Errors
    /// Why not.
    pub fn read(words: &[u64; WORDS]) -> Result<Self, Incompatible> {
        let &[magic, version, shape, slots, ports, network, process, _] = words;
        if magic != MAGIC {
            return Err(Incompatible::Foreign);
        }
        if version != VERSION {
            return Err(Incompatible::Version { found: version, own: VERSION });
        }
        if shape != SHAPE {
            return Err(Incompatible::Shape);
        }
        let (Ok(slots), Ok(process)) = (slots.try_into(), process.try_into()) else {
            return Err(Incompatible::Foreign);
        };
        Ok(Self { slots, ports: (ports >> 16) as u16..=ports as u16, network, process })
    }

    /// Whether two agents would use the same port of the same host.
    pub fn overlaps(&self, ports: &RangeInclusive<u16>, network: u64) -> bool {
        self.network == network && self.ports.start() <= ports.end() && ports.start() <= self.ports.end()
    }
}

/// A map for one.
///
/// # Errors
/// See [`bpf::create`].
pub fn new_layout() -> io::Result<OwnedFd> {
    bpf::create(NewMap {
        kind: bpf::ARRAY,
        key: size_of::<u32>() as u32,
        value: size_of::<[u64; WORDS]>() as u32,
        entries: 1,
        name: bpf::name("lb_layout"),
        ..NewMap::default()
    })
}

/// What a map holds, if it is one of these.
///
/// # Errors
/// As [`Layout::read`].
pub fn read_layout(fd: &OwnedFd) -> Result<Layout, Incompatible> {
    let foreign = |_| Incompatible::Foreign;
    let map = MapData::from_fd(fd.try_clone().map_err(|_| Incompatible::Foreign)?).map_err(foreign)?;
    let map: Array<_, [u64; WORDS]> = Map::Array(map).try_into().map_err(foreign)?;
    Layout::read(&map.get(&0, 0).map_err(foreign)?)
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("its maps are not those of lb"),
            Self::Version { found, own } => {
                write!(f, "its layout has version {found}, this lb knows version {own}")
            }
            Self::Shape => f.write_str("its tables have another form, from another lb of the same version"),
            Self::Network => f.write_str("it is of another network namespace"),
            Self::Port(port) => {
                write!(f, "a flow of it comes from port {port}, which is not in packet-ports")
            }
        }
    }
}

/// FNV-1a (RFC 9923), which tells lists apart that differ in any number.
const fn shape(forms: &[&[usize]]) -> u64 {
    let (mut hash, mut form) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while form < forms.len() {
        let mut index = 0;
        while index < forms[form].len() {
            hash = (hash ^ forms[form][index] as u64).wrapping_mul(0x0100_0000_01b3);
            index += 1;
        }
        form += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { slots: 4_096, ports: 61_000..=65_535, network: 7, process: 99 }
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(Layout::read(&layout().words()), Ok(layout()));
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let check = |index: usize, value: u64, expected: Incompatible| {
            let mut words = layout().words();
            words[index] = value;
            assert_eq!(Layout::read(&words), Err(expected), "word {index}");
        };
        check(0, 0, Incompatible::Foreign);
        check(1, VERSION + 1, Incompatible::Version { found: VERSION + 1, own: VERSION });
        check(2, SHAPE + 1, Incompatible::Shape);
        check(3, u64::MAX, Incompatible::Foreign);
    }

    #[test]
    fn ranges_overlap_in_one_network_only() {
        let check = |ports, network, expected| assert_eq!(layout().overlaps(&ports, network), expected);
        check(50_000..=61_000, 7, true);
        check(65_535..=65_535, 7, true);
        check(50_000..=60_999, 7, false);
        check(61_000..=65_535, 8, false);
    }
}
