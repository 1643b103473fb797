// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers for servers and clients that are the same in every process, on every machine and in every version.
//!
//! All of them are SipHash-1-3 (J.-P. Aumasson, D. J. Bernstein: SipHash, a fast short-input PRF, 2012) under a fixed key. Nodes
//! that share clients have to agree, so the key is no secret: somebody who may choose addresses or names freely can choose whom
//! they hash to. A bound on the load (`hash-balance-factor`) limits what that is good for.

use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

/// Leading bits of an IPv6 address that count. Hosts have a /64 to themselves or share one, and change addresses inside it
/// (RFC 8981), so that more bits would lead the same client elsewhere each day.
pub const IPV6_PREFIX_BITS: u32 = 64;

/// What is hashed: each kind has numbers of its own.
#[derive(Clone, Copy)]
enum Kind {
    Server = 1,
    Source = 2,
    Name = 3,
}

/// The identity of a server: by its name in the configuration and, of those that one name stands for, by its address.
pub fn identity(name: &str, address: Option<SocketAddr>) -> u64 {
    let mut bytes = name.as_bytes().to_vec();
    if let Some(address) = address {
        // No name has this byte, so that no name with an address reads like a longer name.
        bytes.push(0);
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.extend(address.port().to_be_bytes());
    }
    hash(Kind::Server, &bytes)
}

/// The key of a client by its address: all of an IPv4 address (also if mapped into IPv6), the /64 of an IPv6 address.
pub fn source(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash(Kind::Source, &address.octets()),
        IpAddr::V6(address) => hash(Kind::Source, &address.octets()[..IPV6_PREFIX_BITS as usize / 8]),
    }
}

/// The key of a client by the name that it asks for, in lower case.
pub fn name(name: &str) -> u64 {
    hash(Kind::Name, name.as_bytes())
}

/// Another number for each `step`, as if drawn at random: the finalizer of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood: Fast
/// splittable pseudorandom number generators, OOPSLA 2014) over its sequence. Different numbers stay different.
pub(super) fn mix(number: u64, step: u64) -> u64 {
    let mixed = number.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Maps a number to one below `limit`, evenly.
pub(super) fn below(number: u64, limit: usize) -> usize {
    ((u128::from(number) * limit as u128) >> 64) as usize
}

fn hash(kind: Kind, bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(0, kind as u64).hash(bytes)
}
