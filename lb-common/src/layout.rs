// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in maps that the kernel side and user space both read: sizes, orders, names. The BPF programs use this module
//! of the crate and no other, so that nothing else here can change the built object.

use core::mem::size_of;

/// Entries of [`SOCKETS`]: sockets, two a connection. The kernel allocates an entry when it is used, the buckets at load.
pub const SOCKETS_MAX: u32 = 65_536;

/// The map of sockets whose received bytes the program [`SOCKMAP_VERDICT`] judges, by socket cookie (SO_COOKIE, socket(7)).
pub const SOCKETS: &str = "SOCKETS";

/// The map with one [`SockmapStats`] a CPU, at index 0.
pub const SOCKMAP_STATS: &str = "SOCKMAP_STATS";

/// The program of type `sk_skb/stream_verdict`.
pub const SOCKMAP_VERDICT: &str = "sockmap_verdict";

/// Counters of one CPU. They only grow; user space sums them over CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockmapStats {
    /// Segments judged.
    pub segments: u64,
    /// Their payload, in bytes.
    pub bytes: u64,
}

/// [`SockmapStats`] as 64-bit words in the order of its fields, which is how user space reads the map.
pub type SockmapStatsWords = [u64; 2];

const _: () = assert!(size_of::<SockmapStats>() == size_of::<SockmapStatsWords>());
const _: () = assert!(core::mem::offset_of!(SockmapStats, segments) == 0);
const _: () = assert!(core::mem::offset_of!(SockmapStats, bytes) == 8);

impl From<SockmapStatsWords> for SockmapStats {
    fn from([segments, bytes]: SockmapStatsWords) -> Self {
        Self { segments, bytes }
    }
}

impl core::iter::Sum for SockmapStats {
    fn sum<I: Iterator<Item = Self>>(cpus: I) -> Self {
        cpus.fold(Self::default(), |total, cpu| Self {
            segments: total.segments.wrapping_add(cpu.segments),
            bytes: total.bytes.wrapping_add(cpu.bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_cpus_add_up() {
        let cpus = [SockmapStats::from([1, 10]), SockmapStats::from([2, 20]), SockmapStats::default()];
        assert_eq!(cpus.into_iter().sum::<SockmapStats>(), SockmapStats { segments: 3, bytes: 30 });
    }
}
